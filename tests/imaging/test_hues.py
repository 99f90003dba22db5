"""Hues: CSS's named colours have the names they bear."""

import numpy as np
import pytest
from PIL import ImageColor

from koala.imaging import color, hues

NAMED = {
    "red": ("red", "crimson", "firebrick", "tomato", "lightcoral", "maroon"),
    "brown/orange": ("orange", "chocolate", "saddlebrown", "sienna", "peru", "goldenrod", "tan"),
    "yellow": ("yellow", "gold", "khaki", "olive"),
    "green": ("green", "forestgreen", "limegreen", "seagreen", "olivedrab", "yellowgreen", "aquamarine"),
    "cyan": ("cyan", "teal", "turquoise", "cadetblue"),
    "blue": ("blue", "navy", "skyblue", "lightblue", "dodgerblue", "steelblue", "royalblue"),
    "purple": ("purple", "blueviolet", "indigo", "magenta", "orchid", "violet"),
    "pink": ("pink", "lightpink", "hotpink", "deeppink", "mediumvioletred"),
}


@pytest.mark.parametrize(("hue", "name"), [(hue, name) for hue, names in NAMED.items() for name in names])
def test_a_named_colour_has_its_hue(hue, name):
    _, a, b = color.rgb_to_lab(np.array([[ImageColor.getrgb(name)]], np.uint8))[0, 0]
    assert hues.HUES[hues.hue_number(np.degrees(np.arctan2(b, a)) % 360)] == hue


def test_the_circle_is_divided_without_gaps():
    numbers = hues.hue_number(np.array([0, 16.9, 17, 44.9, 45, 337.9, 338, 359.9, 360]))
    assert [hues.HUES[number] for number in numbers] == [
        *("pink", "pink", "red", "red", "brown/orange", "purple", "pink", "pink", "pink"),
    ]
