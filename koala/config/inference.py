"""Settings of colouring photos, the gallery and exports."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import OmitArgPrefixes, Positional

from koala.config.fields import Count, Device, Share, Strict, Temperature
from koala.config.models import ExtractorWeights


@dataclass(frozen=True)
class ColorizeOptions(Strict):
    """How photos are coloured."""

    size: Annotated[int, Field(ge=0, le=2048)] = 0
    """Short side at which the network works, in pixels; 0 takes the size it was trained at."""
    saturation: Annotated[float, Field(ge=0, le=4)] = 1.0
    """What the network's colours are multiplied by: 0 is grey."""
    strength: Share = 1.0
    """Share of the coloured photo in the result; the rest is the photo as it was."""
    temperature: Temperature = None
    """Of a network that predicts bins: 1 gives the mean colour, less goes towards the likeliest; by default 0.38."""
    flip: bool = False
    """Colour the photo and its mirror image, and take the mean: takes the network twice as long."""


@dataclass(frozen=True)
class ColorizeSettings(Strict):
    """Colour photos, at their own size and with their own lightness.

    The same command goes on where it stopped: photos whose coloured ones are there are left alone.
    """

    photos: Positional[tuple[Path, ...]]
    """Photos, or folders of them, whose sub-folders are kept."""
    out: Path
    """Folder for the coloured photos; names are kept."""
    model: Path | None = None
    """Run folder (its best checkpoint), checkpoint folder, or USER/NAME on the Hugging Face hub; by default the model
    that koala carries."""
    dials: OmitArgPrefixes[ColorizeOptions] = field(default_factory=ColorizeOptions)
    recolor: bool = False
    """Give photos that are in colour already others; without it they are copied as they are."""
    layers: Literal["none", "ora", "png"] = "none"
    """To go on by hand, a further file for each photo: NAME.ora, an OpenRaster picture of the grey photo and a layer of
    colours over it, or NAME.layer.png, a transparent layer to lay over the photo as it was."""
    overwrite: bool = False
    """Colour photos anew whose coloured ones are there."""
    jobs: Annotated[int, Field(ge=0)] = 0
    """Photos that are read, painted and written at a time; 0: as many as there are cores."""
    extractor: ExtractorWeights = field(default_factory=ExtractorWeights)
    device: Device = "auto"
    """cuda where there is a GPU."""


@dataclass(frozen=True)
class GallerySettings(Strict):
    """Colour photos in a browser: a page on this machine, to which one drops them."""

    model: Path | None = None
    """Run folder (its best checkpoint), checkpoint folder, or USER/NAME on the Hugging Face hub; by default the model
    that koala carries."""
    host: str = "127.0.0.1"
    """Address to listen at; with another than this machine's own, everybody who can reach it may colour photos."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """Port to listen at."""
    megabytes: Count = 32
    """Largest upload."""
    megapixels: Count = 32
    """Largest photo."""
    extractor: ExtractorWeights = field(default_factory=ExtractorWeights)
    device: Device = "auto"
    """cuda where there is a GPU."""


@dataclass(frozen=True)
class ExportSettings(Strict):
    """Write a trained network for others: a folder of weights to colour with, or a program that runs without koala.

    A program takes L* and gives a*b*, of pictures of any size; koala/inference/export.py has an example.
    """

    model: Positional[Path]
    """Run folder (its best checkpoint), checkpoint folder, or USER/NAME on the Hugging Face hub."""
    out: Path | None = None
    """Folder to write: the weights alone, in half precision; a model for koala colorize and koala evaluate."""
    push: str = ""
    """USER/NAME on the Hugging Face hub, where that folder is put as well."""
    onnx: Path | None = None
    """FILE.onnx to write: extractor, network and decoding, compared with PyTorch by onnxruntime."""
    program: Path | None = None
    """FILE.pt2 to write: the same for torch.export.load."""
    temperature: Temperature = None
    """In a program, of a network that predicts bins: 1 gives the mean colour, less the likelier; by default 0.38."""
    extractor: ExtractorWeights = field(default_factory=ExtractorWeights)
