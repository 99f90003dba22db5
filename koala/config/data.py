"""Settings of what makes and reads shards, and how a photo becomes a square."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional, arg

from koala.config.fields import (
    Advanced,
    Count,
    Decoder,
    Device,
    Dir,
    File,
    Geometry,
    LightnessSource,
    LocalPath,
    Location,
    MixedPrecision,
    Share,
    SplitName,
    Strict,
)
from koala.config.imaging import MAX_PIXELS
from koala.config.models import ExtractorSettings


@dataclass(frozen=True)
class SplitRule(Strict):
    """How the images are divided into training and validation: by sub-folder, by number or by share.

    If one sub-folder is named, all other images are the other set. If both are, images in neither are left out.
    """

    train_folder: Annotated[str, arg(metavar="DIR")] = ""
    """Sub-folder of the source that holds the training images; may be a pattern, as in "*/train"."""
    val_folder: Annotated[str, arg(metavar="DIR")] = ""
    """Sub-folder of the source that holds the validation images; may be a pattern, as in "*/val"."""
    val_count: Annotated[int, Field(ge=0)] = 0
    """Number of validation images, drawn at random."""
    val_share: Share = 0.0
    """Share of the images that is drawn for validation, as in 0.1; used if no number is given."""


@dataclass(frozen=True)
class ResizeRule(Strict):
    """Whether images are made smaller before they are stored. They are never enlarged."""

    side: Literal["none", "short", "long"] = "none"
    """Side that is brought to the given length; none keeps the files as they are."""
    pixels: Count = 256
    """Length of that side."""
    quality: Annotated[int, Field(ge=1, le=100), Advanced] = 95
    """JPEG quality of images that must be encoded again, always in 4:4:4."""


@dataclass(frozen=True)
class ShardRecipe(Strict):
    """How a folder of images becomes shards."""

    name: str = "photos"
    """Name of the data set."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the shuffle and of the split."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Number of images to take, drawn at random; 0 takes all."""
    samples_per_shard: Annotated[Count, Advanced] = 1000
    """Images in a shard."""
    max_bytes: Annotated[Count, Advanced] = 2**28
    """Largest size of a file that holds an image. Larger ones are set aside unread, so that they cannot fill memory."""
    max_pixels: Annotated[Count, Advanced] = MAX_PIXELS
    """Largest image, in pixels. Larger ones are set aside before they are decoded."""
    split: SplitRule = field(default_factory=SplitRule)
    resize: ResizeRule = field(default_factory=ResizeRule)


@dataclass(frozen=True)
class WriteShards(Strict):
    """Write images into tar shards, for training. An interrupted command resumes when it is run again."""

    source: Annotated[LocalPath, arg(metavar="SOURCE")]
    """Folder of images, tars or Parquet files, list of files (text or CSV), tar, or zip."""
    out: Location
    """Folder for the shards, here or in a store: s3://bucket/folder."""
    recipe: ShardRecipe = field(default_factory=ShardRecipe)
    workers: Count = 1
    """Processes that write."""
    part: Annotated[str, arg(metavar="I/N"), Advanced] = "1/1"
    """Write only every N-th shard, from the I-th on; koala shards finish joins the parts."""


@dataclass(frozen=True)
class FinishShards(Strict):
    """Join shards that were written in parts: check that all are there, and write the manifest."""

    shards: Positional[Location]
    """Folder of shards."""


@dataclass(frozen=True)
class VerifyShards(Strict):
    """Check shards against their manifest, byte by byte, and decode every image."""

    shards: Positional[Location]
    """Folder of shards."""
    quick: bool = False
    """Check only records and sizes."""
    workers: Count = 1
    """Processes that check."""


@dataclass(frozen=True)
class RepairShards(Strict):
    """Verify shards, and write those with faults again from the source."""

    shards: Positional[Location]
    """Folder of shards."""
    source: Annotated[LocalPath, arg(metavar="SOURCE")]
    """The folder, list, tar or zip that they were written from."""
    workers: Count = 1
    """Processes that check."""


@dataclass(frozen=True)
class AuditShards(Strict):
    """Measure every image: size, colour model, chroma, whether it is grey or toned.

    Tables and sheets go to DIR/audit. koala train --data.filter leaves samples out by these measures.
    """

    shards: Positional[Location]
    """Folder of shards. Shards that are audited already are skipped."""
    split: SplitName | None = None
    """Split to measure; by default both."""
    workers: Count = 1
    """Processes that measure."""


@dataclass(frozen=True)
class MeasurePrior(Strict):
    """Measure how often each colour occurs. Objectives in which rare colours count more need it."""

    shards: Positional[Location]
    """Folder of shards. Those that are not audited yet are audited first."""
    workers: Count = 1
    """Processes that measure."""


@dataclass(frozen=True)
class StageShards(Strict):
    """Copy shards from a store or a shared folder to this node's disk, in the order in which a training needs them.

    Each is checked by its hash. An interrupted command resumes when it is run again.
    """

    shards: Positional[Location]
    """Folder of shards, here or in a store."""
    to: Dir
    """Folder for the copy."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the training, on which the order depends."""
    workers: Count = 4
    """Shards that are copied at the same time."""


@dataclass(frozen=True)
class DataSettings(Strict):
    """The data, and how a photo becomes a square."""

    shards: Location = Path("shards/data")
    """Folder of shards, made by koala shards write; here, or in a store: s3://bucket/folder."""
    geometry: Geometry = "pad"
    """How a photo becomes a square: pad with black; crop the middle; random_crop, with random mirroring; squash; legacy
    pads the wrong axes, as the report did."""
    size: Annotated[int, Field(gt=0, le=8192, multiple_of=8)] = 224
    """Height and width of the square, in pixels."""
    lightness: Annotated[LightnessSource, Advanced] = "grey"
    """What the network sees: L* of the grey-scaled photo, or of the colour photo, as in the original paper."""
    threads: Count = 4
    """Threads that decode, in each process."""
    mirror: bool = False
    """Mirror photos at random in training. random_crop always does; evaluation never does."""
    filter: str = ""
    """Use only samples that meet this condition on the audit's columns, as in "chroma >= 5 and not sepia"."""
    decoder: Annotated[Decoder, Advanced] = "auto"
    """What decodes JPEGs for a GPU: gpu; cpu, whose pixels do not depend on the device; or auto: gpu in training, cpu
    in evaluations and with --deterministic."""
    hardware_share: Annotated[Share, Advanced] = 0.65
    """Share of the JPEGs that a GPU's JPEG engine decodes, if it has one. Its other cores decode the rest."""
    aging: Annotated[Share, Advanced] = 0.0
    """Share of the training photos that are made to look old: toned, faded, blurred, grainy, unevenly exposed,
    compressed. The colours to predict stay the same."""
    synthetic: Annotated[int, Field(ge=0, le=100_000_000), Advanced] = 0
    """Train on so many images of noise in place of shards, to see how fast a step is alone."""


@dataclass(frozen=True)
class ViewSettings(Strict):
    """How a photo becomes a square, as in training."""

    geometry: Geometry = "pad"
    """How a photo becomes a square: pad with black; crop the middle; squash; legacy pads the wrong axes."""
    size: Annotated[int, Field(gt=0, le=8192, multiple_of=8)] = 224
    """Height and width of the square, in pixels."""
    lightness: Annotated[LightnessSource, Advanced] = "grey"
    """What the extractor sees: L* of the grey-scaled photo, or of the colour photo."""
    threads: Count = 4
    """Threads that decode, in each process."""


@dataclass(frozen=True)
class EmbedShards(Strict):
    """Compute the extractor's embeddings of all samples once, and keep them beside the shards.

    Training uses them with --extractor.cache, which is faster. Embeddings that are there already are kept.
    """

    shards: Positional[Location]
    """Folder of shards."""
    extractor: ExtractorSettings = field(default_factory=ExtractorSettings)
    data: ViewSettings = field(default_factory=ViewSettings)
    training: File | None = None
    """RUN.toml of the training they are for: extractor, geometry, precision and seed are taken from it."""
    batch_size: Annotated[int, Field(ge=0)] = 0
    """Images at a time, in each process; 0 takes 256 on a GPU and 32 on the CPU."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    mixed_precision: MixedPrecision = "no"
    """Precision of the computation. Embeddings are stored in fp16."""
    seed: Annotated[int, Field(ge=0), Advanced] = 0
    """Seed of random weights, as in training."""


def for_evaluation(data: DataSettings) -> DataSettings:
    """The same view of every photo each time: the middle where training cuts at random, nothing mirrored or aged."""
    geometry = "crop" if data.geometry == "random_crop" else data.geometry
    return replace(data, geometry=geometry, mirror=False, aging=0.0)
