"""What a person asks for beside the photo: the sliders' values, and dabs of colour."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_RADIUS = 1 / 50  # of a dab, in the photo's short side: about what networks that take hints are trained with
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
    """

    x: float
    y: float
    color: str

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
        """What a form asks for; what it says nothing of is as at first.

        Raises:
            ValueError: it asks for what there is not.
        """
        values = {slider.name: slider.read(fields.get(slider.name, str(slider.value))) for slider in self.sliders}
        preset = fields.get("preset", "")
        if preset and preset not in self.presets:
            raise ValueError("there is no such preset; choose one that is on the page")
        return Wishes(values, read_dabs(fields.get("dabs", "[]")) if self.takes_dabs else (), preset)


def read_dabs(text: str) -> tuple[Dab, ...]:
    """The dabs that a form gives as JSON, `[[x, y, "#rrggbb"], ...]`.

    Raises:
        ValueError: they are not given so, or are too many.
    """
    try:
        dabs = tuple(Dab(float(x), float(y), color) for x, y, color in json.loads(text))
        good = all(0 <= dab.x <= 1 and 0 <= dab.y <= 1 and _COLOR.fullmatch(dab.color) for dab in dabs)
    except (ValueError, TypeError, OverflowError, RecursionError):
        good = False
    if not good:
        raise ValueError('dabs must be a list of [x, y, "#rrggbb"], x and y from 0 to 1')
    if len(dabs) > _MOST_DABS:
        raise ValueError(f"there are {len(dabs)} dabs, more than {_MOST_DABS}; remove some")
    return dabs


def draw_dabs(dabs: Sequence[Dab], height: int, width: int) -> NDArray[np.uint8]:
    """Dabs on an otherwise transparent picture of a photo's size, `(H, W, 4)` sRGB: what `koala colorize` takes."""
    picture = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(picture)
    radius = max(1.0, _RADIUS * min(height, width))
    for dab in dabs:
        y, x = dab.place(height, width)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=dab.color)
    return np.array(picture)
