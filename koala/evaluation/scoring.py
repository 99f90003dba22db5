"""Scores: of each picture of a batch, and of all pictures together. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from koala.config.evaluation import EvaluationProtocol
from koala.evaluation import confidence_intervals, metrics
from koala.evaluation.predictions import Prediction
from koala.imaging import color

COLORED = 5.0  # mean chroma (CIELAB) of a photo below which its colours cannot convince anyone

Table = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class ScoreMeaning:
    """What a score says.

    Attributes:
        better: which values are; "" where neither is.
        text: in words.
    """

    better: Literal["lower", "higher", ""]
    text: str


NEARNESS = ("mse", "psnr", "ssim", "ciede2000", "lpips")
"""Scores that say how near a picture is to its photo."""

MEANINGS = {
    "mse": ScoreMeaning("lower", "squared error of ab on the network's scale (ab / 127)"),
    "mse_best_factor": ScoreMeaning("lower", "mse with all ab times best_factor: the hues, whatever the saturation"),
    "best_factor": ScoreMeaning("", "the one factor of all ab with which mse is least; --saturation applies it"),
    "psnr": ScoreMeaning("higher", "peak signal-to-noise ratio in dB, on 8-bit sRGB"),
    "ssim": ScoreMeaning("higher", "structural similarity (Wang et al. 2004) of the three channels"),
    "ciede2000": ScoreMeaning("lower", "mean colour difference CIEDE2000; about 1 is just noticed"),
    "lpips": ScoreMeaning("lower", "perceptual distance LPIPS 0.1 (AlexNet)"),
    "fid": ScoreMeaning("lower", "Fréchet distance between features of TensorFlow's Inception"),
    "kid": ScoreMeaning("lower", "kernel distance between features of TensorFlow's Inception"),
    "fid_torchvision": ScoreMeaning("lower", "Fréchet distance between features of torchvision's Inception"),
    "kid_torchvision": ScoreMeaning("lower", "kernel distance between features of torchvision's Inception"),
    "fd_efficientnet_lite0": ScoreMeaning("lower", "Fréchet distance between features of EfficientNet-Lite0, not FID"),
    "kd_efficientnet_lite0": ScoreMeaning("lower", "kernel distance between features of EfficientNet-Lite0, not KID"),
    "chroma_predicted": ScoreMeaning("", "mean chroma on the network's scale"),
    "chroma_true": ScoreMeaning("", "mean chroma of the photos on the network's scale"),
    "chroma_ratio": ScoreMeaning("", "mean chroma over that of the photos; 1 is as colourful"),
    "out_of_gamut": ScoreMeaning("lower", "share of pixels whose L* and ab make a colour outside sRGB"),
    "saturated": ScoreMeaning("lower", "share of ab at the end of the network's scale"),
    "cf": ScoreMeaning("", "colourfulness as the protocol defines it"),
    "cf_true": ScoreMeaning("", "the same of the photos"),
    "dcf": ScoreMeaning("lower", "its difference from the photos' as the protocol defines it"),
    "cf_signed": ScoreMeaning("", "colourfulness (Hasler and Süsstrunk 2003)"),
    "cf_signed_true": ScoreMeaning("", "the same of the photos"),
    "cf_absolute": ScoreMeaning("", "colourfulness with absolute values taken first (CT2, DDColor)"),
    "cf_absolute_true": ScoreMeaning("", "the same of the photos"),
    "dcf_signed_of_means": ScoreMeaning("lower", "difference of mean cf_signed"),
    "dcf_signed_of_pictures": ScoreMeaning("lower", "mean of the pictures' differences of cf_signed"),
    "dcf_absolute_of_means": ScoreMeaning("lower", "difference of mean cf_absolute"),
    "dcf_absolute_of_pictures": ScoreMeaning("lower", "mean of the pictures' differences of cf_absolute"),
}

ARROWS = {"lower": "↓", "higher": "↑", "": ""}
"""Which way is better."""

# those that one looks at first
HEADLINE = (
    *("mse", "mse_best_factor", "best_factor", "psnr", "ssim", "ciede2000", "lpips"),
    *("fid", "kid", "fid_torchvision", "kid_torchvision", "fd_efficientnet_lite0", "kd_efficientnet_lite0"),
    *("chroma_ratio", "out_of_gamut", "cf", "dcf"),
)


def score_colors(prediction: Prediction, weight: Tensor | None = None) -> dict[str, Tensor]:
    """How near each picture's colours are to its photo's.

    Args:
        prediction: what was made of the batch.
        weight: `(B, 1, H, W)`, which pixels count; None counts all.

    Returns:
        mse, psnr and ciede2000 to `(B,)` float64.
    """
    return {
        "mse": metrics.mse(prediction.ab, prediction.batch.ab, weight),
        "psnr": metrics.psnr(prediction.pictures, prediction.photos, weight),
        "ciede2000": metrics.mean_ciede2000(prediction.lab, prediction.photo_lab, weight),
    }


def score_structure(
    prediction: Prediction,
    weight: Tensor | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """How alike each picture and its photo are in what is to be seen, which takes longer.

    Args:
        prediction: what was made of the batch.
        weight: `(B, 1, H, W)`, which pixels count; None counts all.
        perceptual: LPIPS, where there is one.

    Returns:
        ssim and lpips to `(B,)` float64, where they can be measured.
    """
    made, photos = prediction.pictures, prediction.photos
    scores = {}
    if min(photos.shape[-2:]) >= metrics.SSIM_WINDOW:
        scores["ssim"] = metrics.ssim(made, photos, weight)
    if perceptual is not None:
        scores["lpips"] = perceptual(made, photos).double()
    return scores


def score_batch(
    prediction: Prediction,
    weight: Tensor | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The measures of each picture of a batch: how near it is to its photo, and how colourful.

    Args:
        prediction: what was made of the batch.
        weight: `(B, 1, H, W)`, which pixels count; None counts all.
        perceptual: LPIPS, where there is one.

    Returns:
        Names to `(B,)` float64.
    """
    ab, true = prediction.ab, prediction.batch.ab
    flat = None if weight is None else weight[:, 0]
    scores = score_colors(prediction, weight) | {
        "ab_power": metrics.mean(ab.square(), weight),
        "ab_power_true": metrics.mean(true.square(), weight),
        "chroma_predicted": metrics.chroma(ab, weight),
        "chroma_true": metrics.chroma(true, weight),
        "out_of_gamut": metrics.mean(prediction.out_of_gamut, weight),
        "saturated": metrics.saturated(ab, weight),
    }
    scores |= score_structure(prediction, weight, perceptual)
    for variant in ("signed", "absolute"):
        absolute = variant == "absolute"
        mine, theirs = (color.colorfulness(rgb, absolute, flat) for rgb in (prediction.pictures, prediction.photos))
        scores |= {f"cf_{variant}": mine, f"cf_{variant}_true": theirs, f"dcf_{variant}": (mine - theirs).abs()}
    return scores


def best_factor(error: Any, power: Any, true_power: Any) -> tuple[Any, Any]:
    """The one factor of predicted ab with which its squared error over all pictures is least, and that error.

    The error of `f p` against `t` is `f^2 p^2 - 2 f p t + t^2` in means over all pictures: a parabola in f.

    Args:
        error: mean squared error of ab as it was predicted; a number, or an array of resampled means.
        power: mean square of predicted ab.
        true_power: mean square of true ab.

    Returns:
        Factor, 0 or more, and error.
    """
    product = (power + true_power - error) / 2
    factor = np.maximum(product, 0) / np.maximum(power, 1e-12)
    return factor, true_power - factor * (2 * product - factor * power)


def aggregate_means(means: Mapping[str, Any], protocol: EvaluationProtocol) -> dict[str, Any]:
    """Scores of all pictures from the means of their measures.

    Args:
        means: of what `score_batch` measures: numbers, or arrays of resampled means.
        protocol: which colourfulness `cf` and `dcf` are.

    Returns:
        Scores of the same kind, in the order of `MEANINGS`.
    """
    scores = {name: value for name, value in means.items() if not name.startswith("dcf_")}
    scores["chroma_ratio"] = means["chroma_predicted"] / np.maximum(means["chroma_true"], 1e-12)
    if "ab_power" in means:  # which evaluations of koala 0.2 lack
        powers = (means["ab_power"], means["ab_power_true"])
        scores["best_factor"], scores["mse_best_factor"] = best_factor(means["mse"], *powers)
    for variant in ("signed", "absolute"):
        scores[f"dcf_{variant}_of_means"] = abs(means[f"cf_{variant}"] - means[f"cf_{variant}_true"])
        scores[f"dcf_{variant}_of_pictures"] = means[f"dcf_{variant}"]
    scores["cf"], scores["cf_true"] = (scores[f"cf_{protocol.colorfulness}{end}"] for end in ("", "_true"))
    scores["dcf"] = scores[f"dcf_{protocol.colorfulness}_{protocol.dcf}"]
    return {name: scores[name] for name in MEANINGS if name in scores}


def aggregate_scores(
    table: Table, protocol: EvaluationProtocol
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Scores of all pictures, and their intervals (95 %, over pictures).

    Args:
        table: names to `(N,)` measures of each picture.
        protocol: which colourfulness `cf` and `dcf` are.
    """
    scores = aggregate_means({name: values.mean() for name, values in table.items()}, protocol)
    resampled = confidence_intervals.resampled_means(np.stack(list(table.values()), axis=1))
    spread = aggregate_means(dict(zip(table, resampled.T, strict=True)), protocol)
    return {name: float(score) for name, score in scores.items()}, {
        name: confidence_intervals.interval(values) for name, values in spread.items()
    }


def rank_by_realism(table: Table) -> NDArray[np.int64]:
    """Pictures in order, those first that could best pass for photos: `(N,)` row numbers.

    A picture convinces whose colours are near the photo's (CIEDE2000, and LPIPS where it was measured) and as strong
    (the logarithm of the ratio of mean chromas is near 0): the order is by the sum of its ranks in these. Photos that
    hardly have colour, of which any network makes good pictures, come last.
    """
    true = np.maximum(table["chroma_true"], 1e-6)
    strength = np.abs(np.log(np.maximum(table["chroma_predicted"], 1e-6) / true))
    criteria = [table["ciede2000"], strength, *([table["lpips"]] if "lpips" in table else [])]
    ranks = np.sum([np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in criteria], axis=0)
    return np.lexsort((table["ciede2000"], ranks, is_pale(table)))


def is_pale(table: Table) -> NDArray[np.bool_]:
    """Which photos hardly have colour, `(N,)`."""
    return color.to_units(table["chroma_true"]) < COLORED
