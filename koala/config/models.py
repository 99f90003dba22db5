"""Settings of the networks: the frozen extractor, and what training makes small."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from tyro.conf import arg

from koala.config.fields import Advanced, Strict


@dataclass(frozen=True)
class ExtractorSettings(Strict):
    """The extractor: a frozen network that describes the whole picture."""

    name: Annotated[str, arg(metavar="MODEL")] = "inception_resnet_v2"
    """A timm model, or "none"."""
    features: Annotated[Literal["logits", "pooled"], Advanced] = "logits"
    """Layer whose output is used: the logits, or the pooled features before them."""
    weights: Annotated[str, arg(metavar="FILE")] = "pretrained"
    """File of the model's weights, or "pretrained" or "random"."""
    batch_statistics: Annotated[bool, Advanced] = False
    """Repeat a mistake of the report: batch normalisation in training mode, so that colours depend on the batch."""
    cache: bool = False
    """Use the embeddings that koala shards embed computed, and do not run the extractor in every step."""


@dataclass(frozen=True)
class NetworkSettings(Strict):
    """The network that is trained.

    In a file, network = "pyramid" is short for a table with that name.
    """

    name: Annotated[Literal["fusion", "pyramid"], arg(name="")] = "fusion"
    """What the network takes of the extractor: fusion, one vector for the whole picture, as in the report; pyramid, its
    feature maps at strides 4 to 32, which say where things are."""
    extractor_rate: Annotated[float, Field(ge=0, le=1), Advanced] = 0.0
    """Learning rate of a pyramid's extractor, as a share of the others'; 0 leaves it frozen."""
    hints: Annotated[bool, Advanced] = False
    """Train a pyramid to take hints: colours that people give at some places of the picture."""


@dataclass(frozen=True)
class Preset(Strict):
    """How the colours look that a network predicts, where nobody says otherwise."""

    temperature: Annotated[float, Field(gt=0)] = 0.38
    """For networks trained by classification: 1 gives the mean colour, less gives the likeliest."""
    rebalancing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """For networks that keep a prior of colours: how much more rare ones count, as in training."""
    saturation: Annotated[float, Field(ge=0, le=4)] = 1.0
    """Factor of the colours' strength."""
    coring: Annotated[float, Field(ge=0, le=24)] = 0.0
    """Chroma, in units of L*a*b*, of which little more than half is left when photos are coloured. Fainter colours fade
    more, and stronger ones less; those above 24 become stronger, at most twice as strong."""
    size: Annotated[int, Field(ge=0, le=2048)] = 0
    """Short side, in pixels, of the small copy that the network sees; 0 takes that of its training."""


@dataclass(frozen=True)
class ObjectiveSettings(Strict):
    """The objective: what training minimises.

    In a file, objective = "huber" is short for a table with that name.
    """

    name: Annotated[Literal["mse", "huber", "weighted-mse", "classification"], arg(name="")] = "mse"
    """Loss between predicted and true ab: mse; huber; weighted-mse, in which rare colours count more; classification of
    ab into bins. The last two need koala shards prior."""
    rebalancing: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """How much more rare colours count in weighted-mse and classification, from 0 (no more than others) to 1. Less
    gives paler pictures with fewer wrong colours. Zhang et al. take 0.5."""
    mean_error: Annotated[float, Field(ge=0), Advanced] = 0.0
    """Weight of the squared error of the bins' mean colour, beside classification."""
    colorfulness: Annotated[float, Field(ge=0), Advanced] = 0.0
    """Weight of a term that asks for pictures as colourful as their photos. It rises over the first half of a
    training."""
    perceptual: Annotated[float, Field(ge=0), Advanced] = 0.0
    """Weight of a distance between features of a frozen network."""
    perceptual_network: Annotated[str, arg(metavar="MODEL"), Advanced] = "vgg16_bn"
    """That network: a timm model."""
    perceptual_weights: Annotated[str, arg(metavar="FILE"), Advanced] = "pretrained"
    """File of its weights, or "pretrained" or "random"."""


def _named(value: Any) -> Any:
    """The name of an objective or an optimizer alone, as a table."""
    return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class ExtractorWeights(Strict):
    """The extractor's weights."""

    weights: Annotated[str, arg(metavar="FILE"), Advanced] = ""
    """File of the extractor's weights; by default those that the training used."""


@dataclass(frozen=True)
class ExtractorWeightsOrCache(ExtractorWeights):
    """The extractor's weights, or the embeddings that it gave."""

    cache: bool = False
    """Use the embeddings that koala shards embed computed, and do not run the extractor."""
