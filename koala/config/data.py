"""Settings of what makes and reads shards, and how a photo becomes a square."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional

from koala.config.fields import Count, Device, Geometry, LightnessSource, MixedPrecision, Share, SplitName, Strict
from koala.config.models import ExtractorSettings


@dataclass(frozen=True)
class SplitRule(Strict):
    """How the images are divided between training and validation: by sub-folder, by number or by share.

    Where one sub-folder is named, all other images are the other set; where both are, what lies in neither is left out.
    """

    train_folder: str = ""
    """Sub-folder of the source whose images are the training set; may be a pattern, as in "*/train"."""
    val_folder: str = ""
    """Sub-folder of the source whose images are the validation set; may be a pattern, as in "*/val"."""
    val_count: Annotated[int, Field(ge=0)] = 0
    """Validation images, drawn at random by the seed."""
    val_share: Share = 0.0
    """Share of the images that is drawn for validation, where no number is given."""


@dataclass(frozen=True)
class ResizeRule(Strict):
    """Making images smaller before they are stored; they are never made larger."""

    side: Literal["none", "short", "long"] = "none"
    """Which side is brought to `pixels`; with none the bytes are taken as they are."""
    pixels: Count = 256
    """Length of that side."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality of images that must be encoded again, always in 4:4:4."""


@dataclass(frozen=True)
class ShardRecipe(Strict):
    """How a folder of images becomes shards."""

    name: str = "photos"
    """What the data set is called."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the shuffle over all images and of the split."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Take this many images, drawn by the seed; 0 takes all."""
    samples_per_shard: Count = 1000
    """Images in each shard."""
    max_bytes: Count = 2**28
    """Largest size of a file that holds an image; larger ones are set aside unread, so that they cannot fill memory."""
    split: SplitRule = field(default_factory=SplitRule)
    resize: ResizeRule = field(default_factory=ResizeRule)


@dataclass(frozen=True)
class WriteShards(Strict):
    """Write shards: `koala shards write RECIPE.toml --source DIR --out DIR`."""

    source: Path
    """Folder of images, tars or Parquet files, list of files (text or CSV), tar, or zip."""
    out: Path
    """Folder for the shards."""
    recipe: ShardRecipe = field(default_factory=ShardRecipe)
    workers: Count = 1
    """Processes that write."""
    part: str = "1/1"
    """I/N writes every N-th shard, beginning with the I-th; koala shards finish puts the parts together."""


@dataclass(frozen=True)
class FinishShards(Strict):
    """Check that all parts of a folder of shards are written, and write its manifest."""

    shards: Positional[Path]
    """Folder of shards."""


@dataclass(frozen=True)
class VerifyShards(Strict):
    """Check shards against their manifest, byte for byte, and decode every image."""

    shards: Positional[Path]
    """Folder of shards."""
    quick: bool = False
    """Look at records and sizes only."""
    workers: Count = 1
    """Processes that check."""


@dataclass(frozen=True)
class RepairShards(Strict):
    """Verify shards, and write those with faults again from the source."""

    shards: Positional[Path]
    """Folder of shards."""
    source: Path
    """What they were written from."""
    workers: Count = 1
    """Processes that check."""


@dataclass(frozen=True)
class AuditShards(Strict):
    """Measure every image: size, colour model, chroma, what is grey or toned."""

    shards: Positional[Path]
    """Folder of shards; those that are whole and not audited yet are looked at."""
    split: SplitName | None = None
    """Which part of the shards; by default both."""
    workers: Count = 1
    """Processes that measure."""


@dataclass(frozen=True)
class MeasurePrior(Strict):
    """Measure how often each colour occurs, for the objectives by which rare ones count more."""

    shards: Positional[Path]
    """Folder of shards; those that are not audited yet are looked at."""
    workers: Count = 1
    """Processes that measure."""


@dataclass(frozen=True)
class DataSettings(Strict):
    """What is trained on, and how a photo becomes a square."""

    shards: Path = Path("shards/data")
    """Folder of shards."""
    geometry: Geometry = "pad"
    """pad to a square with black; crop the middle; random_crop with mirroring; squash; legacy pads the wrong axes."""
    size: Annotated[int, Field(gt=0, multiple_of=8)] = 224
    """Height and width of the network's input."""
    lightness: LightnessSource = "grey"
    """L* of the grey-scaled picture, or (the original paper's way) of the colour picture."""
    threads: Count = 4
    """Threads that decode, in each process."""
    mirror: bool = False
    """Mirror at random in training; random_crop always does, and evaluation never."""
    where: str = ""
    """Leave out samples that do not meet this condition on the audit's columns: "chroma >= 5 and not sepia"."""
    aging: Share = 0.0
    """Share of the photos that in training the network sees as old ones: toned, faded, blurred, grainy, unevenly
    exposed, compressed; what it is to predict stays the same."""


@dataclass(frozen=True)
class ViewSettings(Strict):
    """How a photo becomes a square, as in `Data`."""

    geometry: Geometry = "pad"
    """pad to a square with black; crop the middle; squash; legacy pads the wrong axes."""
    size: Annotated[int, Field(gt=0, multiple_of=8)] = 224
    """Height and width of the square."""
    lightness: LightnessSource = "grey"
    """L* of the grey-scaled picture, or of the colour picture."""
    threads: Count = 4
    """Threads that decode, in each process."""


@dataclass(frozen=True)
class EmbedShards(Strict):
    """Keep the extractor's embeddings of all samples, and of their mirror images, beside the shards.

    Training then takes them with --extractor.cache. What is there already is kept.
    """

    shards: Positional[Path]
    """Folder of shards."""
    extractor: ExtractorSettings = field(default_factory=ExtractorSettings)
    data: ViewSettings = field(default_factory=ViewSettings)
    batch: Count = 50
    """Images at a time, in each process."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of random weights: the training's."""
    mixed_precision: MixedPrecision = "no"
    """Precision of the computation; embeddings are kept in fp16."""
    device: Device = "auto"
    """cuda where there is a GPU."""
    training: Path | None = None
    """TOML file of the training they are for: extractor, view of a photo, precision and seed are taken from it."""


def for_evaluation(data: DataSettings) -> DataSettings:
    """The same view of every photo each time: the middle where training cuts at random, nothing mirrored or aged."""
    geometry = "crop" if data.geometry == "random_crop" else data.geometry
    return replace(data, geometry=geometry, mirror=False, aging=0.0)
