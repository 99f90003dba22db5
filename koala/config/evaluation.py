"""Settings of evaluations and comparisons, and the protocol that scores depend on."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional

from koala.config.fields import Count, Device, Geometry, LightnessSource, MixedPrecision, SplitName, Strict, Temperature
from koala.config.models import ExtractorWeightsOrCache


@dataclass(frozen=True)
class ImageIds(Strict):
    """Which images, by their names without folder and suffix; where nothing is said, all of the split."""

    pattern: str = ""
    """A name with its number in braces, as in "ILSVRC2012_val_{:08d}"; `first` and `last` are the numbers' range."""
    first: Annotated[int, Field(ge=0)] = 0
    """First number."""
    last: Annotated[int, Field(ge=0)] = 0
    """Last number."""
    file: str = ""
    """Text file with a name a line, relative to the protocol's own file; with a pattern, names must be within it."""
    count: Annotated[int, Field(ge=0)] = 0
    """How many images there must be; 0 asks for no number."""
    sha256: str = ""
    """What the sorted names must hash to, joined by line feeds; by default no hash is asked for."""


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
    size: Annotated[int, Field(gt=0, multiple_of=8)] = 224
    """Height and width of the square."""
    lightness: LightnessSource = "grey"
    """What the network sees: L* of the grey-scaled picture, or of the colour picture."""
    assembly: LightnessSource = "color"
    """What predicted ab is joined with to make the picture that is judged."""
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
    """Score a network on validation shards, and colour their pictures; or score pictures made by someone else.

    Training's --data.where is not taken over: give --where where the same samples are to be left out here.
    """

    model: Positional[Path]
    """Run folder (its best checkpoint), checkpoint folder, or a folder of coloured pictures named as in the shards."""
    shards: Path
    """Folder of shards."""
    out: Path | None = None
    """Where scores and pictures go; by default "evaluation" in the run or checkpoint folder."""
    protocol: str = ""
    """report, val5k, val50k, ctest10k, coltran, imagenet64, or a TOML file; by default as in training."""
    ids: Path | None = None
    """Text file of the images' names, for a protocol that leaves them open."""
    split: SplitName = "val"
    """Which part of the shards."""
    where: str = ""
    """Leave out samples that do not meet this condition on the audit's columns."""
    geometry: Geometry | None = None
    """Instead of the protocol's (by default the training's, with crop for random_crop)."""
    size: Annotated[int, Field(gt=0, multiple_of=8)] | None = None
    """Height and width, instead of the protocol's (by default the training's)."""
    lightness: LightnessSource | None = None
    """L* that the network sees, instead of the protocol's (by default the training's)."""
    assembly: LightnessSource | None = None
    """L* that predicted ab is joined with, instead of the protocol's (by default that of the colour picture)."""
    features: Literal["protocol", "none"] = "protocol"
    """none leaves out the distances between features of networks, which take longer than all else."""
    inception: Path | None = None
    """File of the Inception weights that the protocol's features ask for; by default looked for in torch's cache."""
    lpips: Path | None = None
    """File of torchvision's AlexNet weights, for LPIPS; by default looked for in torch's cache."""
    batch: Count = 32
    """Images at a time, in each process."""
    threads: Count = 4
    """Threads that decode, and threads that score, in each process."""
    decoder: Literal["cpu", "gpu"] = "cpu"
    """What decodes JPEGs for a GPU: with cpu, the photos' pixels do not depend on the device."""
    pictures: Annotated[int, Field(ge=0)] | None = None
    """Coloured pictures that are written; by default all."""
    sheet_rows: Annotated[int, Field(ge=0)] = 12
    """Rows of the contact sheet."""
    temperature: Temperature = None
    """Of a network that predicts bins: 1 gives the mean colour, less goes towards the likeliest; by default 0.38."""
    saturation: Annotated[float, Field(ge=0, le=4)] = 1.0
    """What a network's colours are multiplied by."""
    extractor: ExtractorWeightsOrCache = field(default_factory=ExtractorWeightsOrCache)
    mixed_precision: MixedPrecision = "no"
    """Precision of the computation."""
    device: Device = "auto"
    """cuda where there is a GPU."""


@dataclass(frozen=True)
class CompareSettings(Strict):
    """Lay evaluations of the same images side by side, with intervals of their differences."""

    runs: Positional[tuple[str, ...]] = ()
    """Run folders that koala evaluate has been through, or folders that it wrote; NAME=FOLDER gives one a name."""
    pictures: tuple[str, ...] = ()
    """NAME=FOLDER of pictures that another colouriser made, named as the shards' images: judged by the same rules."""
    out: Path = Path("comparison")
    """Folder for the table and the sheet."""
    baseline: str = ""
    """Name of the column that others are compared with; by default the first."""
    shards: Path | None = None
    """For pictures: folder of shards; by default the runs'."""
    protocol: str = ""
    """For pictures: name or TOML file; by default the runs'."""
    inception: Path | None = None
    """For pictures: as in koala evaluate."""
    lpips: Path | None = None
    """For pictures: as in koala evaluate."""
    batch: Count = 32
    """For pictures: images at a time."""
    threads: Count = 4
    """For pictures: threads that decode."""
    device: Device = "auto"
    """For pictures: cuda where there is a GPU."""
