"""What the gallery makes of a photo: its picture, its layers, its hints, and the colours that it suggests.

Each `Maker` takes a photo's file and gives another file, and keeps nothing. The page shows photos small: it asks once
for a small one (`reduce`), and sends that while it tries colours; the photo itself is coloured to be kept.
"""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from koala.config.imaging import PictureLimits
from koala.config.inference import ColorizeOptions
from koala.core.errors import UserError
from koala.imaging import ab_bins, color, openraster, photo_io
from koala.inference import colorize
from koala.inference.gallery.wishes import Options, Slider, Wishes, draw_dabs, find_dabs
from koala.inference.hints import decode_hints
from koala.models.network import Colorizer

CHECKED = PictureLimits(max_pixels=sys.maxsize)  # the server has its own limits, with sentences for the page
SAMPLE_CREDIT = "by Rachel Michetti, from scikit-image, CC0"
_SAMPLE = ("skimage", "data/coffee.png")
_JPEG = b"\xff\xd8\xff"  # how one begins
_MEDIA_TYPES = {
    **{"jpg": "image/jpeg", "png": "image/png"},
    **{"ora": "image/openraster", "json": "application/json"},
}
_PREVIEW = 1000  # pixels of the long side
_SUGGESTIONS = 8
_APART = 18.0  # in the ab plane, of two suggestions as they are shown: more than from a bin to its neighbours
_SHOWN_LIGHTNESS = (40.0, 80.0)  # L* within which colours can be told apart


@dataclass(frozen=True)
class Made:
    """A file that was made of a photo.

    Attributes:
        ending: of its name, after that of the photo: "-koala.jpg".
        data: its bytes.
    """

    ending: str
    data: bytes

    @classmethod
    def picture(cls, data: bytes) -> "Made":
        """A coloured photo, a JPEG or a PNG."""
        return cls(f"-koala.{'jpg' if data.startswith(_JPEG) else 'png'}", data)

    @property
    def media_type(self) -> str:
        """What the bytes are."""
        return _MEDIA_TYPES[self.ending.rpartition(".")[2]]


Maker = Callable[[bytes, Wishes], Made]
"""A photo's file and how it is to be coloured -> a file.

Raises `UserError` or `koala.imaging.errors.UnreadableImageError` where the photo cannot be read.
"""


def options_for(model: Colorizer) -> Options:
    """The options that a model has."""
    presets = {name: preset.temperature for name, preset in model.presets.items()}
    return Options(_sliders(model), presets, model.network.hints)


def _sliders(model: Colorizer) -> tuple[Slider, ...]:
    """By the names of `ColorizeOptions`."""
    stride, trained = model.network.stride, model.size
    usual = colorize.size_for(model, ColorizeOptions())
    words = "How strong the colours are: 0 is grey, 1 is usual, more is more vivid."
    saturation = Slider("saturation", "Saturation", words, 0, 2, 0.05, 1)
    words = "How much of the coloured picture there is: 0 is the photo as it was, 1 the coloured one alone."
    strength = Slider("strength", "Strength", words, 0, 1, 0.05, 1)
    words = "Where several colours are likely: 1 takes their mean, which is paler, and less goes to the likeliest."
    temperature = Slider("temperature", "Temperature", words, 0.05, 1, 0.01, model.preset.temperature)
    words = (
        f"Pixels of the short side at which the network sees the photo. It was trained at {trained}; with more it sees "
        "smaller things, and takes longer. The picture keeps its own size."
    )
    size = Slider("size", "Working size", words, min(64, usual), max(512, usual), stride, usual)
    return saturation, strength, *([temperature] if model.network.head == "bins" else []), size


def makers_for(model: Colorizer) -> dict[str, Maker]:
    """What can be made of a photo with a model, by the addresses on the page."""
    studio = Studio(model)
    makers: dict[str, Maker] = {"colored": studio.color, "reduced": reduce, "layers": studio.layers}
    return makers | {"hints": hints, "suggested": studio.suggest} if model.network.hints else makers


class Studio:
    """A model, and what it makes of photos; those in colour are coloured, too.

    Args:
        model: that colours.
    """

    def __init__(self, model: Colorizer) -> None:
        self._model = model

    def color(self, data: bytes, wishes: Wishes) -> Made:
        """The coloured photo: JPEGs stay JPEGs, all others become PNGs, which browsers show."""
        photo = photo_io.decode_photo(data, CHECKED)
        suffix = ".jpg" if data.startswith(_JPEG) else ".png"
        return Made.picture(photo_io.encode_photo(self._colored(photo.pixels, wishes), photo, suffix))

    def layers(self, data: bytes, wishes: Wishes) -> Made:
        """An OpenRaster file of the grey photo, its colours, and its dabs where the model takes them."""
        photo = photo_io.decode_photo(data, CHECKED)
        view = colorize.look(photo.pixels, int(wishes.values["size"]), self._model.network.stride)
        grey, colored = (
            photo_io.convert_depth(picture, np.uint8)
            for picture in (colorize.grey(photo.pixels, view), self._colored(photo.pixels, wishes))
        )
        dabs = draw_dabs(wishes.dabs, *grey.shape) if self._model.network.hints else None
        buffer = io.BytesIO()
        openraster.save_ora(buffer, grey, colored, photo.dpi, dabs)
        return Made("-koala.ora", buffer.getvalue())

    def suggest(self, data: bytes, wishes: Wishes) -> Made:
        """The likeliest colours where the last dab lies, given the others, as JSON: `[["#rrggbb", share], ...]`."""
        if not wishes.dabs:
            return Made("-colours.json", b"[]")
        pixels = photo_io.decode_photo(data, CHECKED).pixels
        height, width = pixels.shape[:2]
        options, (*others, dab) = _options(wishes), wishes.dabs
        view = colorize.look(pixels, options.size, self._model.network.stride)
        drawn = draw_dabs(others, height, width) if others else None
        shares = self._shares(view.lightness, colorize.placed_hints(drawn, pixels, view), options)
        row, column = dab.place(*shares.shape[1:])
        found = likely_colors(shares[:, row, column], _lightness_at(pixels, *dab.place(height, width)))
        return Made("-colours.json", json.dumps(found).encode())

    def _colored(self, pixels: NDArray[Any], wishes: Wishes) -> NDArray[Any]:
        dabs = draw_dabs(wishes.dabs, *pixels.shape[:2]) if wishes.dabs else None
        return colorize.colorize(pixels, self._model, recolor=True, hints=dabs, **vars(_options(wishes)))

    @torch.inference_mode()
    def _shares(self, lightness: Tensor, dabs: Tensor | None, options: ColorizeOptions) -> NDArray[np.float32]:
        """How likely each bin is at each place, `(Q, h/4, w/4)`; no bin for a model that predicts ab itself."""
        if self._model.network.head != "bins":
            return np.empty((0, 1, 1), np.float32)
        device = colorize.device_of(self._model)
        dabs = dabs.to(device) if dabs is not None else None
        logits = self._model.output(lightness.to(device), None, dabs, colorize.preset_for(self._model, options))
        return logits[0].float().softmax(dim=0).cpu().numpy()


def _options(wishes: Wishes) -> ColorizeOptions:
    values: dict[str, Any] = {**wishes.values, "size": int(wishes.values["size"])}
    return ColorizeOptions(preset=wishes.preset, **values)


def _lightness_at(pixels: NDArray[Any], row: int, column: int) -> float:
    """L* of a pixel."""
    pixel = photo_io.convert_depth(pixels[row : row + 1, column : column + 1], np.uint8)
    return float(color.rgb_to_lab(pixel)[0, 0, 0])


def likely_colors(shares: NDArray[np.floating], lightness: float) -> list[tuple[str, float]]:
    """The likeliest colours of a distribution that look different.

    Args:
        shares: `(Q,)` of the bins of the ab plane; or none, for none.
        lightness: L* at which they are shown, brought to where colours can be told apart.

    Returns:
        "#rrggbb" and the share of its bin, the likeliest first, at most eight.
    """
    lab = np.insert(ab_bins.centers().numpy(), 0, np.clip(lightness, *_SHOWN_LIGHTNESS), axis=1)
    levels = np.rint(color.lab_to_rgb(lab[None], outside="fade")[0] * 255).astype(np.uint8)
    seen = color.rgb_to_lab(levels[None])[0, :, 1:]  # bins that sRGB cannot show look like others
    chosen: list[int] = []
    for which in shares.argsort()[::-1]:
        apart = np.linalg.norm(seen[chosen] - seen[which], axis=1)
        if len(chosen) < _SUGGESTIONS and (apart > _APART).all():
            chosen.append(int(which))
    return [(f"#{levels[which].tobytes().hex()}", round(float(shares[which]), 4)) for which in chosen]


def reduce(data: bytes, wishes: Wishes) -> Made:
    """A photo as it is, of at most a thousand pixels a side: a JPEG, or a PNG if parts of it are transparent."""
    photo = photo_io.decode_photo(data, CHECKED)
    pixels = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
    small = Image.fromarray(photo_io.convert_depth(pixels, np.uint8))
    small.thumbnail((_PREVIEW, _PREVIEW), Image.Resampling.LANCZOS)
    return _jpeg(small, "-small.jpg") if photo.alpha is None else _png(small, "-small.png")


def hints(data: bytes, wishes: Wishes) -> Made:
    """The dabs alone, on a transparent PNG of the photo's size: what `koala colorize --hints` takes."""
    pixels = photo_io.decode_photo(data, CHECKED).pixels
    return _png(Image.fromarray(draw_dabs(wishes.dabs, *pixels.shape[:2])), "-hints.png")


def read_hints(data: bytes, name: str, limits: PictureLimits) -> Made:
    """The dabs of a file of hints or layers, as JSON: "width", "height", and "dabs" as forms have them.

    Raises:
        UserError: it holds none, or too many, or cannot be read.
    """
    picture = decode_hints(data, name, limits)
    height, width = picture.shape[:2]
    try:
        dabs = [astuple(dab) for dab in find_dabs(picture)]
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    if not dabs:
        raise UserError(f"{name} holds no dabs of colour; choose another file")
    return Made("-dabs.json", json.dumps({"width": width, "height": height, "dabs": dabs}).encode())


def sample() -> Made | None:
    """A grey photo to begin with, which comes with scikit-image; none where it does no more."""
    package, name = _SAMPLE
    spec = find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else Path(name)
    return _jpeg(Image.open(path).convert("L"), f"{path.stem}.jpg") if path.exists() else None


def _jpeg(image: Image.Image, ending: str) -> Made:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling="4:4:4")
    return Made(ending, buffer.getvalue())


def _png(image: Image.Image, ending: str) -> Made:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Made(ending, buffer.getvalue())
