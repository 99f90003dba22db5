"""Settings of colouring photos, the gallery and exports."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import OmitArgPrefixes, Positional, arg

from koala.config.fields import Advanced, Count, Device, Dir, File, Share, Strict, Temperature
from koala.config.imaging import PictureLimits
from koala.config.models import ExtractorWeights

Model = Annotated[Path, arg(metavar="MODEL")]
_PHOTOS = arg(metavar="PHOTO|DIR")


@dataclass(frozen=True)
class ColorizeOptions(Strict):
    """How the colours look."""

    preset: str = ""
    """Name of one of the model's presets; by default its first. The built-in model has natural and faithful: the second
    is paler, and nearer to the truth on average."""
    size: Annotated[int, Field(ge=0, le=2048)] = 0
    """Short side at which the network sees the photo, in pixels; 0 takes the preset's, or that of training."""
    saturation: Annotated[float, Field(ge=0, le=4)] = 1.0
    """Factor of the colours' strength: 0 is grey, 1.2 is more vivid."""
    strength: Share = 1.0
    """Share of the coloured photo in the result, from 0 to 1; the rest is the original."""
    temperature: Temperature = None
    """For networks trained by classification: 1 gives the mean colour, less gives the likeliest. By default the
    preset's."""
    flip: bool = False
    """Colour the photo and its mirror image, and take the mean. Takes twice as long."""


@dataclass(frozen=True)
class ColorizeSettings(Strict):
    """Colour photos, at their own size and with their own lightness.

    Run the same command again to resume: photos that are coloured already are skipped.
    """

    photos: Annotated[tuple[Path, ...], Positional, _PHOTOS]
    """Photos, or folders of photos with their sub-folders."""
    out: Dir
    """Folder for the coloured photos. File and folder names stay the same."""
    model: Model | None = None
    """Run folder (its best checkpoint is used), checkpoint folder, USER/NAME on the Hugging Face hub, or "builtin". By
    default the built-in model."""
    options: OmitArgPrefixes[ColorizeOptions] = field(default_factory=ColorizeOptions)
    recolor: bool = False
    """Give photos that are in colour already new colours. By default these are copied as they are."""
    hints: File | None = None
    """Dabs of colour for the network to follow, for a single photo: a transparent picture of the photo's size, or an
    OpenRaster file with a layer named hints. An earlier result is replaced."""
    layers: Literal["none", "ora", "png"] = "none"
    """Write one more file for each photo, for retouching: ora writes NAME.ora (OpenRaster) with the grey photo, its
    colours on a layer, and a layer for hints; png writes NAME.layer.png, a transparent layer to put over the photo."""
    overwrite: bool = False
    """Colour photos again that are coloured already."""
    jobs: Annotated[int, Field(ge=0), Advanced] = 0
    """Photos that are worked on at the same time; 0 takes as many as there are CPU cores."""
    limits: OmitArgPrefixes[PictureLimits] = field(default_factory=PictureLimits)
    extractor: ExtractorWeights = field(default_factory=ExtractorWeights)
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class GallerySettings(Strict):
    """Colour photos in a browser: drop photos on the page, adjust and correct their colours, download them.

    Photos stay on this machine.
    """

    model: Model | None = None
    """Run folder (its best checkpoint is used), checkpoint folder, USER/NAME on the Hugging Face hub, or "builtin". By
    default the built-in model."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen at. With any but 127.0.0.1, everybody who can reach this machine may colour photos."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """Port to listen at."""
    megabytes: Count = 32
    """Largest upload, in megabytes."""
    megapixels: Count = 32
    """Largest photo, in megapixels."""
    extractor: ExtractorWeights = field(default_factory=ExtractorWeights)
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""


@dataclass(frozen=True)
class ExportSettings(Strict):
    """Write a trained network for others: a folder of weights, or one file that runs without koala.

    Such a file takes L* and gives a*b*, for pictures of any size.
    """

    model: Annotated[Path, Positional, arg(metavar="MODEL")]
    """Run folder (its best checkpoint is used), checkpoint folder, USER/NAME on the Hugging Face hub, or "builtin"."""
    out: Dir | None = None
    """Folder for the weights alone, in half precision: a model for koala colorize and koala evaluate."""
    push: Annotated[str, arg(metavar="USER/NAME")] = ""
    """Upload that folder to the Hugging Face hub under this name."""
    onnx: File | None = None
    """Write extractor, network and decoding as an ONNX file, and compare it with PyTorch."""
    program: File | None = None
    """Write the same for torch.export.load (FILE.pt2)."""
    presets: File | None = None
    """Give the model these presets: a TOML file of a table [NAME] with temperature, rebalancing, saturation,
    coring and size. The first one is taken where nobody names one; ONNX and program hold its first three."""
    temperature: Temperature = None
    """For networks trained by classification: 1 gives the mean colour, less gives the likeliest. By default that of
    the first preset."""
    extractor: ExtractorWeights = field(default_factory=ExtractorWeights)
