"""What a person asks for beside the photo: the sliders' values, and dabs of colour."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage import measure

SIZES = {"small": 1 / 100, "medium": 1 / 50, "large": 1 / 28}
"""Radii of dabs in the photo's short side: within what networks that take hints are trained with (koala.data.hints)."""

_MOST_DABS = 200
_COLOR = re.compile(r"#[0-9a-f]{6}")


@dataclass(frozen=True)
class Slider:
    """An option on the page: a number within limits.

    Attributes:
        name: in forms.
        label: in words.
        help: what it does, in a sentence or two.
        low: the lowest value.
        high: the highest value.
        step: between values.
        value: the one at first.
    """

    name: str
    label: str
    help: str
    low: float
    high: float
    step: float
    value: float

    def read(self, text: str) -> float:
        """The value that a form gives it.

        Raises:
            ValueError: it is no number within the limits.
        """
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} must be a number from {self.low:g} to {self.high:g}")
        return value


@dataclass(frozen=True)
class Dab:
    """A colour that a person gives at a place.

    Attributes:
        x: of its middle, in the photo's width from the left, 0..1.
        y: of its middle, in the photo's height from the top, 0..1.
        color: "#rrggbb", sRGB.
        size: one of `SIZES`.
    """

    x: float
    y: float
    color: str
    size: str = "medium"

    def place(self, height: int, width: int) -> tuple[int, int]:
        """Row and column of its middle, in a picture of this size."""
        return min(int(self.y * height), height - 1), min(int(self.x * width), width - 1)


@dataclass(frozen=True)
class Wishes:
    """How a photo is to be coloured.

    Attributes:
        values: of the sliders, by their names.
        dabs: of colour; later ones lie over earlier ones.
        preset: name of one of the model's; "" for the one that it takes by itself.
    """

    values: Mapping[str, float]
    dabs: tuple[Dab, ...] = ()
    preset: str = ""


@dataclass(frozen=True)
class Options:
    """What a person can ask for on the page.

    Attributes:
        sliders: numbers.
        presets: temperatures of the model's presets, by name.
        takes_dabs: whether there may be dabs of colour; else they are passed over.
    """

    sliders: tuple[Slider, ...]
    presets: Mapping[str, float] = field(default_factory=dict)
    takes_dabs: bool = False

    def read(self, fields: Mapping[str, str]) -> Wishes:
        """What a form asks for; what it says nothing of is as at first, and the temperature that of its preset.

        Raises:
            ValueError: it asks for what there is not.
        """
        preset = fields.get("preset", "")
        if preset and preset not in self.presets:
            raise ValueError("there is no such preset; choose one that is on the page")
        first = {slider.name: slider.value for slider in self.sliders}
        if preset:
            first["temperature"] = self.presets[preset]
        values = {slider.name: slider.read(fields.get(slider.name, str(first[slider.name]))) for slider in self.sliders}
        return Wishes(values, read_dabs(fields.get("dabs", "[]")) if self.takes_dabs else (), preset)


def read_dabs(text: str) -> tuple[Dab, ...]:
    """The dabs that a form gives as JSON, `[[x, y, "#rrggbb", size], ...]`; without a size they are medium.

    Raises:
        ValueError: they are not given so, or are too many.
    """
    try:
        dabs = tuple(Dab(float(x), float(y), color, *size) for x, y, color, *size in json.loads(text))
        good = all(
            0 <= dab.x <= 1 and 0 <= dab.y <= 1 and _COLOR.fullmatch(dab.color) and dab.size in SIZES for dab in dabs
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        good = False
    if not good:
        raise ValueError(
            f'dabs must be a list of [x, y, "#rrggbb", size], x and y from 0 to 1, sizes {", ".join(SIZES)}'
        )
    if len(dabs) > _MOST_DABS:
        raise ValueError(f"there are {len(dabs)} dabs, more than {_MOST_DABS}; remove some")
    return dabs


def draw_dabs(dabs: Sequence[Dab], height: int, width: int) -> NDArray[np.uint8]:
    """Dabs on an otherwise transparent picture of a photo's size, `(H, W, 4)` sRGB: what `koala colorize` takes."""
    picture = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(picture)
    for dab in dabs:
        y, x = dab.place(height, width)
        radius = _radius(dab.size, height, width)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=dab.color)
    return np.array(picture)


def find_dabs(picture: NDArray[np.uint8]) -> tuple[Dab, ...]:
    """The dabs of which a picture of hints consists: each patch of one colour is one, whoever painted it.

    Those of `draw_dabs` come back as they were, but for those that others lie over, which come back near.

    Args:
        picture: `(H, W, 4)` sRGB with alpha.

    Raises:
        ValueError: they are too many.
    """
    height, width = picture.shape[:2]
    least = _radius("small", height, width) ** 2  # pixels: what is much smaller is the edge of a brush's stroke
    colors = picture[..., :3].astype(np.int64) @ (1 << 16, 1 << 8, 1) + 1
    patches = measure.label(np.where(picture[..., 3] >= 128, colors, 0), background=0)
    areas = np.bincount(patches.ravel())
    is_dab = areas >= least
    is_dab[0] = False  # what is transparent
    if is_dab.sum() > _MOST_DABS:
        raise ValueError(f"there are {is_dab.sum()} patches of colour, more than {_MOST_DABS}; paint fewer")
    numbers = np.where(is_dab, is_dab.cumsum(), 0)  # noise is a patch a pixel: only dabs are looked at more closely
    found = [(patch, _fitting_size(patch.bbox, height, width)) for patch in measure.regionprops(numbers[patches])]
    # from below: large before small, and of one size those first of which least is seen
    found.sort(key=lambda one: (-SIZES[one[1]], one[0].area))
    return tuple(_dab(picture, patch, size) for patch, size in found)


def _radius(size: str, height: int, width: int) -> int:
    """Of a dab, in whole pixels, so that it lies evenly around its middle."""
    return max(1, round(SIZES[size] * min(height, width)))


def _fitting_size(box: tuple[int, int, int, int], height: int, width: int) -> str:
    """The size whose disc is nearest to a patch in its longer extent."""
    top, left, bottom, right = box
    extent = max(bottom - top, right - left)
    return min(SIZES, key=lambda size: abs(2 * _radius(size, height, width) + 1 - extent))


def _dab(picture: NDArray[np.uint8], patch: Any, size: str) -> Dab:
    """A patch as a dab; where the border cuts a patch off, its middle lies nearer to it."""
    height, width = picture.shape[:2]
    radius = _radius(size, height, width)
    top, left, bottom, right = patch.bbox
    y, x = _middle(top, bottom, height, radius), _middle(left, right, width, radius)
    row, column = patch.coords[len(patch.coords) // 2]
    return Dab((x + 0.5) / width, (y + 0.5) / height, f"#{picture[row, column, :3].tobytes().hex()}", size)


def _middle(first: int, end: int, length: int, radius: int) -> int:
    """Of a disc of which the pixels from `first` to `end - 1` are seen along an axis."""
    if end - first <= 2 * radius and first == 0:
        return max(0, end - 1 - radius)
    if end - first <= 2 * radius and end == length:
        return min(length - 1, first + radius)
    return (first + end - 1) // 2
