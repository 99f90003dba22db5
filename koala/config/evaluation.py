"""Settings of evaluations and comparisons, and the protocol that scores depend on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional, arg

from koala.config.fields import (
    Advanced,
    Count,
    Device,
    Dir,
    File,
    Geometry,
    LightnessSource,
    Location,
    MixedPrecision,
    SplitName,
    Strict,
    Temperature,
)
from koala.config.models import ExtractorWeightsOrCache


@dataclass(frozen=True)
class ImageIds(Strict):
    """Which images, by their names without folder and suffix; where nothing is said, all of the split."""

    pattern: str = ""
    """A name with its number in braces, as in "ILSVRC2012_val_{:08d}"; `first` and `last` are the numbers' range."""
    first: Annotated[int, Field(ge=0)] = 0
    """First number."""
    last: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Last number."""
    file: str = ""
    """Text file with a name a line, relative to the protocol's own file; with a pattern, names must be within it."""
    count: Annotated[int, Field(ge=0)] = 0
    """How many images there must be; 0 asks for no number."""
    sha256: str = ""
    """What the sorted names must hash to, joined by line feeds; by default no hash is asked for."""
    limit: Annotated[int, Field(ge=0)] = 0
    """How many of them are judged, drawn by a fixed seed from those that are there; 0 judges all."""


@dataclass(frozen=True)
class EvaluationProtocol(Strict):
    """All that scores depend on, but for the network and the shards."""

    name: str = ""
    """What it is called."""
    about: str = ""
    """Where it comes from."""
    departures: str = ""
    """In what koala is known to differ from where it comes from."""
    geometry: Geometry = "pad"
    """How a photo becomes a square."""
    size: Annotated[int, Field(gt=0, le=8192, multiple_of=8)] = 224
    """Height and width of the square."""
    lightness: LightnessSource = "grey"
    """What the network sees: L* of the grey-scaled picture, or of the colour picture."""
    assembly: LightnessSource = "color"
    """What predicted ab is joined with to make the picture that is judged."""
    judged: Literal["pictures", "ab"] = "pictures"
    """Of pictures that others made: the pictures as they are, or their ab alone, joined as predicted ab is."""
    padding: Literal["counted", "left out"] = "left out"
    """Whether the black around a padded photo counts; networks that judge pictures see it in any case."""
    features: Literal["inception_2015", "inception_torchvision", "tf_efficientnet_lite0", "none"] = "inception_2015"
    """The network between whose features distances are taken; see koala.evaluation.features."""
    normalization: Literal["own", "ddcolor"] = "own"
    """What it is fed: what it was trained with, or (inception_torchvision) what CT2 and DDColor feed it."""
    colorfulness: Literal["signed", "absolute"] = "signed"
    """Hasler and Suesstrunk's, or with absolute values taken first; `cf` in the scores."""
    dcf: Literal["of_means", "of_pictures"] = "of_means"
    """The difference of mean colourfulness, or the mean of the pictures' absolute differences."""
    ids: ImageIds = field(default_factory=ImageIds)
    """The images."""
    reference: ImageIds = field(default_factory=ImageIds)
    """The true images whose features the predictions' are compared with; by default the same images."""


@dataclass(frozen=True)
class EvaluateSettings(Strict):
    """Score a network on validation images, and write the pictures that it colours.

    In place of the network a folder of coloured pictures may be scored. The filter of the training (--data.filter) is
    not taken over; give --filter to leave the same samples out here.
    """

    model: Annotated[Path, Positional, arg(metavar="MODEL|DIR")]
    """Run folder (its best checkpoint is used), checkpoint folder, USER/NAME on the Hugging Face hub, "builtin", or
    folder of coloured pictures that are named as in the shards."""
    shards: Location
    """Folder of shards."""
    out: Dir | None = None
    """Folder for scores and pictures; by default "evaluation" in the run or checkpoint folder, and NAME-evaluation for
    other models and for pictures."""
    protocol: Annotated[str, arg(metavar="NAME|FILE")] = ""
    """Rules of the evaluation: photos, report, val5k, val50k, ctest10k, coltran, imagenet64, or a TOML file. By default
    the network sees the images as in training."""
    ids: Annotated[File | None, Advanced] = None
    """Text file of the images' names, for a protocol that leaves them open."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Number of images to judge, drawn by a fixed seed; 0 judges all. The protocol then has another hash."""
    split: SplitName = "val"
    """Split of the shards."""
    filter: str = ""
    """Use only samples that meet this condition on the audit's columns, as in "chroma >= 5 and not sepia"."""
    geometry: Annotated[Geometry | None, Advanced] = None
    """How a photo becomes a square, in place of the protocol's."""
    size: Annotated[int | None, Field(gt=0, le=8192, multiple_of=8), Advanced] = None
    """Height and width of the square, in place of the protocol's."""
    lightness: Annotated[LightnessSource | None, Advanced] = None
    """L* that the network sees, in place of the protocol's."""
    assembly: Annotated[LightnessSource | None, Advanced] = None
    """L* that is combined with the predicted ab, in place of the protocol's."""
    judged: Annotated[Literal["pictures", "ab"] | None, Advanced] = None
    """What of a folder's pictures is judged, in place of the protocol's: the pictures, or their ab alone."""
    training_shards: Annotated[Location | None, Advanced] = None
    """Shards that the colours were learnt from: their mean colour (koala shards prior) is the constant baseline. By
    default those of the run, or of --shards, or else the mean of what is judged."""
    features: Literal["protocol", "none"] = "protocol"
    """none leaves out FID, KID and LPIPS, which take most of the time."""
    inception: Annotated[File | None, Advanced] = None
    """Inception weights for FID and KID; by default looked for in torch's cache."""
    lpips: Annotated[File | None, Advanced] = None
    """torchvision's AlexNet weights for LPIPS; by default looked for in torch's cache."""
    classifier: Annotated[str, arg(metavar="MODEL")] = ""
    """A timm model that is to recognise the pictures, such as tf_efficientnet_lite1. It must not be the network's own
    extractor."""
    classifier_weights: Annotated[str, arg(metavar="FILE"), Advanced] = "pretrained"
    """File of its weights, or "pretrained"."""
    batch_size: Annotated[int, Field(ge=0)] = 0
    """Images at a time, in each process; 0 takes 128 on a GPU and 32 on the CPU."""
    threads: Count = 4
    """Threads that decode, and threads that score, in each process."""
    decoder: Annotated[Literal["cpu", "gpu"], Advanced] = "cpu"
    """What decodes JPEGs for a GPU. With cpu the photos' pixels do not depend on the device."""
    pictures: Annotated[int, Field(ge=0)] | None = None
    """Number of coloured pictures to write; by default all of a network's, and none of a folder of pictures."""
    sheet_rows: Annotated[int, Field(ge=0), Advanced] = 12
    """Rows of the contact sheet."""
    preset: str = ""
    """Name of one of the model's presets; by default its first."""
    temperature: Temperature = None
    """For networks trained by classification: 1 gives the mean colour, less gives the likeliest. By default the
    preset's."""
    saturation: Annotated[float, Field(ge=0, le=4)] = 1.0
    """Factor of the colours' strength."""
    extractor: ExtractorWeightsOrCache = field(default_factory=ExtractorWeightsOrCache)
    mixed_precision: MixedPrecision = "no"
    """Precision of the computation."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class ExportCrops(Strict):
    """Write the pictures that a protocol judges, for another colouriser: each photo cut and resized, as PNG.

    Colour them under their names, and score them with koala evaluate DIR --shards SHARDS --protocol NAME. An
    interrupted command resumes when it is run again.
    """

    shards: Positional[Location]
    """Folder of shards."""
    out: Dir
    """Folder for the pictures."""
    protocol: Annotated[str, arg(metavar="NAME|FILE")]
    """The protocol, as in koala evaluate."""
    grey: bool = False
    """Write grey pictures, of the L* that the protocol lets a network see; by default they are in colour."""
    ids: Annotated[File | None, Advanced] = None
    """Text file of the images' names, for a protocol that leaves them open."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Number of images, drawn by a fixed seed; 0 takes all."""
    split: SplitName = "val"
    """Split of the shards."""
    filter: str = ""
    """Use only samples that meet this condition on the audit's columns, as in "chroma >= 5 and not sepia"."""
    threads: Count = 4
    """Threads that decode."""


@dataclass(frozen=True)
class CompareSettings(Strict):
    """Lay evaluations of the same images side by side, with intervals of their differences."""

    runs: Annotated[tuple[str, ...], Positional, arg(metavar="RUN")] = ()
    """What koala evaluate has scored (a run folder, "builtin"), or a folder that it wrote. NAME=RUN gives it a name."""
    pictures: Annotated[tuple[str, ...], arg(metavar="NAME=DIR")] = ()
    """Folders of pictures that another colouriser made, named as in the shards: whole photos, or a protocol's crops.
    They are scored by the same rules."""
    out: Dir = Path("comparison")
    """Folder for the table and the sheet."""
    baseline: Annotated[str, arg(metavar="NAME")] = ""
    """Column that the others are compared with; by default the first."""
    shards: Location | None = None
    """For pictures: folder of shards; by default the runs'."""
    protocol: Annotated[str, arg(metavar="NAME|FILE")] = ""
    """For pictures: rules of the evaluation; by default the runs'."""
    limit: Annotated[int, Field(ge=0)] = 0
    """For pictures: number of images to judge; by default as the runs."""
    inception: Annotated[File | None, Advanced] = None
    """For pictures: Inception weights, as in koala evaluate."""
    lpips: Annotated[File | None, Advanced] = None
    """For pictures: AlexNet weights, as in koala evaluate."""
    batch_size: Annotated[int, Field(ge=0), Advanced] = 0
    """For pictures: images at a time, as in koala evaluate."""
    threads: Annotated[Count, Advanced] = 4
    """For pictures: threads that decode."""
    device: Annotated[Device, Advanced] = "auto"
    """For pictures: where to compute; auto takes a GPU if there is one."""
