"""What doing next to nothing scores on the same pictures: a score says something only beside it.

    grey       no colours at all
    constant   one colour everywhere: the mean colour of the training pictures
    own mean   each picture's own mean colour: more than one colour a picture can do, and no colouriser can know it

The constant colour is that of the training's shards, where their prior is at hand (koala shards prior), or what the
network keeps of it; else of the training samples beside those that are judged; else of the very pictures that are
judged, which favours it a little. --training-shards names others.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from koala.config.fields import LightnessSource, Location
from koala.core.errors import UserError
from koala.data import color_prior
from koala.evaluation import confidence_intervals, metrics, scoring
from koala.evaluation.predictions import AssembledPrediction, Prediction
from koala.evaluation.scoring import NEARNESS, Table
from koala.imaging import ab_bins, color

BASELINES = ("grey", "constant", "own mean")
TO_BEAT = BASELINES[:2]
FROM_TRUTH = "the pictures that are judged"
_VERDICT = "ciede2000"  # the score by which a model is nearer or not


@dataclass(frozen=True)
class MeanColor:
    """A mean colour.

    Attributes:
        ab: on the network's scale.
        shards: the folder of the training samples that it is the mean of; empty where a network keeps it.
    """

    ab: tuple[float, float]
    shards: str = ""

    @property
    def origin(self) -> str:
        """Of which pictures it is, in words."""
        return (
            f"the training samples of {self.shards}" if self.shards else "the samples that the network was trained on"
        )


def training_color(asked: Location | None, others: Iterable[Location]) -> MeanColor | None:
    """The mean colour of training samples.

    Args:
        asked: the folder of shards that it must be of.
        others: where it is looked for if none is asked for; the first with a prior is taken.

    Raises:
        UserError: the folder that was asked for has no prior.
    """
    if asked is not None:
        return _mean_color(asked)
    for folder in others:
        with suppress(UserError, OSError):
            return _mean_color(folder)
    return None


def _mean_color(folder: Location) -> MeanColor:
    return color_of_prior(color_prior.read_prior(folder), str(folder))


def color_of_prior(prior: Tensor, shards: str = "") -> MeanColor:
    """The mean colour of a prior, `(Q,)`, and the folder of samples that it is of."""
    a, b = color.from_units(prior.cpu() @ ab_bins.centers()).tolist()
    return MeanColor((a, b), shards)


# ---------------------------------------------------------------- of a batch


def score_baselines(
    prediction: Prediction,
    constant: Tensor,
    assembly: LightnessSource,
    weight: Tensor | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The measures of each baseline of each picture of a batch: of colours, and for grey of structure as well.

    Args:
        prediction: of the same batch.
        constant: `(2,)` ab on the network's scale.
        assembly: whose L* ab is joined with.
        weight: `(B, 1, H, W)`, which pixels count; None counts all.
        perceptual: LPIPS, where there is one.

    Returns:
        "MEASURE of BASELINE" to `(B,)` float64, with "chroma" among the measures.
    """
    true = prediction.batch.ab
    own = metrics.mean_ab(true, weight).to(true.dtype)
    scores: dict[str, Tensor] = {}
    for name, ab in zip(BASELINES, (own * 0, constant.to(own).expand_as(own), own), strict=True):
        made = AssembledPrediction(prediction.batch, ab[:, :, None, None].expand_as(true), assembly, prediction.truth)
        measured = scoring.score_colors(made, weight)
        if name == "grey":  # structure takes most of the time, and says little of one colour
            measured |= scoring.score_structure(made, weight, perceptual)
        measured["chroma"] = ab.double().norm(dim=1)
        scores |= {column(measure, name): values for measure, values in measured.items()}
    return scores


def column(measure: str, baseline: str) -> str:
    """What a measure of a baseline is called in the table of all pictures."""
    return f"{measure} of {baseline}"


# ---------------------------------------------------------------- of all pictures


def baseline_scores(table: Table) -> dict[str, dict[str, float]]:
    """The scores of each baseline: those of `NEARNESS` that it has, chroma_ratio, the best factor with its error.

    Args:
        table: names to `(N,)` measures of each picture; nothing comes of one without baselines.
    """
    return {name: _scores(table, name) for name in BASELINES if column("mse", name) in table}


def _scores(table: Table, name: str) -> dict[str, float]:
    scores = {key: float(table[column(key, name)].mean()) for key in NEARNESS if column(key, name) in table}
    chroma = table[column("chroma", name)]
    true_power = table["ab_power_true"].mean()
    scores["chroma_ratio"] = float(chroma.mean() / max(table["chroma_true"].mean(), 1e-12))
    factor, error = scoring.best_factor(scores["mse"], (chroma**2).mean() / 2, true_power)
    return scores | {"best_factor": float(factor), "mse_best_factor": float(error)}


def nearer_than_grey(table: Table) -> dict[str, float]:
    """For each of `NEARNESS`, the share of pictures that are nearer to their photos than grey."""
    grey = {key: table[column(key, "grey")] for key in NEARNESS if column(key, "grey") in table}
    return {key: float(_is_nearer(key, table[key], values).mean()) for key, values in grey.items()}


def _is_nearer(key: str, mine: NDArray, other: NDArray) -> NDArray[np.bool_]:
    return mine < other if scoring.MEANINGS[key].better == "lower" else mine > other


@dataclass(frozen=True)
class Verdict:
    """Whether colours are better than next to nothing.

    Attributes:
        beaten: whether grey and constant are, beyond what chance explains.
        text: in words.
    """

    beaten: bool
    text: str


def verdict(table: Table) -> Verdict | None:
    """Judge by CIEDE2000: nearer is what the 95 % interval of the paired difference says; none without baselines."""
    if column(_VERDICT, "grey") not in table:
        return None
    unbeaten = [name for name in TO_BEAT if not _is_clearly_below(table[_VERDICT], table[column(_VERDICT, name)])]
    words = {"grey": "leaving the photos grey", "constant": "one constant colour"}
    than = " and ".join(words[name] for name in unbeaten or TO_BEAT)
    figures = ", ".join(f"{name} {table[column(_VERDICT, name)].mean():.2f}" for name in TO_BEAT)
    nearer = "not clearly nearer to the truth than" if unbeaten else "clearly nearer to the truth than"
    share = nearer_than_grey(table)[_VERDICT]
    return Verdict(
        not unbeaten,
        f"these colours are {nearer} {than}: CIEDE2000 {table[_VERDICT].mean():.2f}, {figures}; "
        f"nearer than grey in {100 * share:.0f} % of the pictures",
    )


def _is_clearly_below(mine: NDArray, other: NDArray) -> bool:
    """Whether the interval of the mean difference lies below 0."""
    differences = confidence_intervals.resampled_means((mine - other)[:, None])[:, 0]
    return confidence_intervals.interval(differences)[1] < 0


def facts(table: Table) -> dict[str, Any]:
    """What scores.json says of the baselines."""
    judged = verdict(table)
    return {
        "baselines": baseline_scores(table),
        "nearer_than_grey": nearer_than_grey(table),
        "verdict": {"beaten": judged.beaten, "text": judged.text} if judged else None,
    }


def cells(report: Mapping[str, Any], score: str) -> list[str]:
    """A score of each baseline and the share of pictures nearer than grey, as text; "" for what is not known."""
    of_each = [report.get("baselines", {}).get(name, {}).get(score) for name in BASELINES]
    share = report.get("nearer_than_grey", {}).get(score)
    return [*("" if value is None else f"{value:.4g}" for value in of_each), share_text(share)]


def share_text(share: float | None) -> str:
    """A share in percent, "" for one that is not known."""
    return "" if share is None else f"{100 * share:.0f} %"
