"""Recognition: does a classifier know better what is in a picture when it has these colours?

The classifier was trained on true colours. It sees each picture grey, coloured, and as it was. What the colours are
worth is the share of the gap between grey and truth that they close: below 0, they mislead it.

References:
    Zhang, Isola and Efros, "Colorful image colorization", ECCV 2016, section 3.1, "semantic interpretability".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from koala.config.fields import LightnessSource
from koala.config.models import ExtractorSettings
from koala.core.errors import UserError
from koala.core.wording import counted
from koala.data.shards import Shards
from koala.evaluation import confidence_intervals
from koala.evaluation.predictions import AssembledPrediction, Prediction
from koala.evaluation.scoring import Table
from koala.models import extractor

UNKNOWN = -1  # in place of a class
WAYS = ("grey", "coloured", "true")


@dataclass(frozen=True)
class Classifier:
    """A network that says what is in a picture, and what there is.

    Attributes:
        name: of the timm model.
        sha256: of its weights.
        published: whether they are the published ones.
        labels: `(N,)` class of each photo, or `UNKNOWN`.
        classify: `(B, 3, H, W)` uint8 sRGB to `(B,)` classes.
    """

    name: str
    sha256: str
    published: bool
    labels: NDArray[np.int64]
    classify: Callable[[Tensor], Tensor]


def build_classifier(name: str, weights: str, photos: Shards, device: torch.device) -> Classifier:
    """A classifier of ImageNet's 1,000 classes.

    Args:
        name: of a timm model.
        weights: its file, or "pretrained".
        photos: what is to be recognised.
        device: where it computes.

    Raises:
        UserError: there is no such model or no weights, it knows other classes, or no photo's class is known.
    """
    wnids = imagenet_classes()
    network = extractor.build_extractor(ExtractorSettings(name, "logits", weights), flag="--classifier-weights")
    if network is None or network.embedding_size != len(wnids):
        raise UserError(f"{name} does not tell ImageNet's {len(wnids)} classes; name a --classifier that does")
    labels = photo_labels(photos, wnids)
    if (labels == UNKNOWN).all():
        raise UserError(
            "no photo's class is known, so that none can be recognised; write shards from folders that bear ImageNet's "
            "names (n01440764), or leave out --classifier"
        )
    digest = extractor.weights_sha256(network)
    network = network.fold().to(device)
    return Classifier(
        name, digest, weights == "pretrained", labels, lambda shown: network(shown.float() / 127.5 - 1).argmax(dim=1)
    )


def imagenet_classes() -> list[str]:
    """WordNet ids of ImageNet's classes, in the order of timm's logits."""
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-1k").label_names()


def photo_labels(photos: Shards, wnids: Sequence[str]) -> NDArray[np.int64]:
    """The class of each photo, `(N,)`: by its WordNet id or its folder's name, or else by a class index."""
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    return np.array([_label(photos.description(sample), numbers) for sample in range(len(photos))], np.int64)


def _label(description: Mapping[str, Any], numbers: Mapping[str, int]) -> int:
    wnid = description.get("wnid") or PurePosixPath(str(description["source"])).parent.name
    if wnid in numbers:
        return numbers[wnid]
    index = description.get("class_index")  # beside a WordNet id it counts the classes of its own data set
    return index if "wnid" not in description and isinstance(index, int) and 0 <= index < len(numbers) else UNKNOWN


@torch.no_grad()
def recognize(classifier: Classifier, prediction: Prediction, assembly: LightnessSource) -> dict[str, Tensor]:
    """Whether each picture of a batch is recognised: "recognised WAY" to `(B,)` of 0, 1, and NaN where unknown.

    Args:
        classifier: who looks.
        prediction: what was made of the batch.
        assembly: whose L* the grey pictures have.
    """
    labels = torch.from_numpy(classifier.labels[prediction.batch.samples]).to(prediction.ab.device)
    grey = AssembledPrediction(prediction.batch, torch.zeros_like(prediction.batch.ab), assembly, prediction.truth)
    seen = (grey.pictures, prediction.pictures, prediction.photos)
    unknown = torch.full(labels.shape, torch.nan, dtype=torch.float64, device=labels.device)
    right = ((classifier.classify(pictures) == labels).double() for pictures in seen)
    return {column(way): torch.where(labels < 0, unknown, known) for way, known in zip(WAYS, right, strict=True)}


def column(way: str) -> str:
    """What a way of looking is called in the table of all pictures."""
    return f"recognised {way}"


def summarize(table: Table, classifier: str) -> dict[str, Any]:
    """Top-1 accuracies, and the share of the gap between grey and truth that the colours close.

    Args:
        table: names to `(N,)` measures of each picture.
        classifier: its name.

    Returns:
        What scores.json says of it: "closed" with its 95 % interval over pictures, the same drawn for all three; None
        where what true colours add may be chance.
    """
    seen = np.stack([table[column(way)] for way in WAYS], axis=1)
    known = seen[~np.isnan(seen).any(axis=1)]
    means, drawn = known.mean(axis=0), confidence_intervals.resampled_means(known).T
    exists = confidence_intervals.interval(drawn[2] - drawn[0])[0] > 0
    return {
        "classifier": classifier,
        "pictures": len(known),
        **{way: float(mean) for way, mean in zip(WAYS, means, strict=True)},
        "closed": float(_closed(means)) if exists else None,
        "closed_interval": confidence_intervals.interval(_closed(drawn)) if exists else None,
    }


def _closed(means: NDArray) -> Any:
    """Shares of the gap, of `(3, ...)` accuracies grey, coloured and true; a gap is taken for a thousandth at least."""
    grey, coloured, true = means
    return (coloured - grey) / np.maximum(true - grey, 1e-3)


def misleads(found: Mapping[str, Any]) -> bool:
    """Whether the colours are recognised less well than grey, beyond what chance explains."""
    return found["closed"] is not None and bool(found["closed_interval"][1] < 0)


def sentence(found: Mapping[str, Any]) -> str:
    """What was recognised, in words."""
    said = ", ".join(f"{way} {100 * found[way]:.1f} %" for way in WAYS)
    text = f"{found['classifier']} recognises of {counted(found['pictures'], 'picture')}: {said}"
    if found["closed"] is None:
        return f"{text}; what true colours add here may be chance"
    closed, low, high = (f"{100 * share:.0f} %" for share in (found["closed"], *found["closed_interval"]))
    worse = "are recognised less well than grey and " if misleads(found) else ""
    return f"{text}; the colours {worse}close {closed} of the gap (95 % interval {low} to {high})"
