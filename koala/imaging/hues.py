"""Hues by their names: where on CIELAB's circle red ends and orange begins. Pure.

Brown is dark orange: they share a hue. Each border lies midway between the two named colours of CSS beside it:

    pink    lightpink 10      | 17 |  lightcoral 25     red
    red     tomato 39         | 45 |  sienna 51         brown/orange
    orange  goldenrod 83      | 87 |  gold 91           yellow
    yellow  olive 103         | 111 | olivedrab 120     green
    green   aquamarine 168    | 177 | turquoise 185     cyan
    cyan    cadetblue 201     | 214 | lightblue 227     blue
    blue    blue 306          | 310 | blueviolet 313    purple
    purple  purple 328        | 338 | mediumvioletred 348  pink

References:
    W3C, CSS Color Module Level 4, section 6.1, named colors; hues are atan2(b*, a*) of CIE 15:2018 in degrees.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

COLORED = 10.0  # chroma (CIELAB) from which a pixel counts as coloured
HUES = ("red", "brown/orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BORDERS = (17.0, 45.0, 87.0, 111.0, 177.0, 214.0, 310.0, 338.0)
"""Where each hue of `HUES` begins, in degrees; it ends where the next one begins."""


def hue_number(degrees: Any) -> NDArray[np.int64]:
    """Which of `HUES` a hue angle is, for angles of 0..360 in any shape."""
    return (np.searchsorted(BORDERS, np.asarray(degrees), side="right") - 1) % len(HUES)
