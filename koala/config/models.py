"""Settings of the networks: the frozen extractor, and what training makes small."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from tyro.conf import arg

from koala.config.fields import Strict


@dataclass(frozen=True)
class ExtractorSettings(Strict):
    """The frozen network whose view of the whole picture is fused in."""

    name: str = "inception_resnet_v2"
    """A timm model, or "none"."""
    features: Literal["logits", "pooled"] = "logits"
    """What is taken from it."""
    weights: str = "pretrained"
    """"pretrained", "random", or a file of the model's weights."""
    batch_statistics: bool = False
    """The report's mistake: batch normalisation in training mode, so that colours depend on the rest of the batch."""
    cache: bool = False
    """Train with the embeddings that koala shards embed made, rather than run the extractor in every step."""


@dataclass(frozen=True)
class ObjectiveSettings(Strict):
    """What training makes small; in a file, `objective = "NAME"` says the same as a table that says no more."""

    name: Annotated[Literal["mse", "huber", "weighted-mse", "classification"], arg(name="")] = "mse"
    """mse; huber; weighted-mse, in which rare colours count more; classification of ab into bins. The last two need
    koala shards prior."""
    rebalancing: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """How much more rare colours count in those two: 0 no more than others, towards 1 as much more as they are rarer.
    Less gives paler pictures and fewer wrong colours; Zhang et al. take 0.5."""
    colorfulness: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a term for pictures that are not as colourful as their photos; it joins over the first half of a
    training."""
    perceptual: Annotated[float, Field(ge=0)] = 0.0
    """Weight of a distance between features of a frozen network."""
    perceptual_network: str = "vgg16_bn"
    """That network: a timm model."""
    perceptual_weights: str = "pretrained"
    """Its weights: "pretrained", "random", or a file."""


def _named(value: Any) -> Any:
    """An objective's name alone, as a table."""
    return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class ExtractorWeights(Strict):
    """Where the extractor's weights lie now."""

    weights: str = ""
    """File of its weights; by default where the training found them."""


@dataclass(frozen=True)
class ExtractorWeightsOrCache(ExtractorWeights):
    """The extractor's weights, or what it saw of the pictures."""

    cache: bool = False
    """Take the embeddings that koala shards embed made, rather than run the extractor."""
