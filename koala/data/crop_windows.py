"""What is cut out of each photo, and where it lands in the square that the network sees: pure, for whole batches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from koala.config.fields import Geometry

_SMALLEST_CROP = 0.5  # of the short side, for random_crop

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class CropWindows:
    """Parts of photos, and where each lands in its square; `(N, 2)` each, y and x.

    Attributes:
        start: corner of the part, in source pixels; up to a pixel outside the photo, where its edge goes on.
        end: where it ends.
        shape: height and width that it is resized to.
        place: its corner in the square; what it leaves free is black.
        mirror: `(N,)`, whether the square is mirrored.
    """

    start: Floats
    end: Floats
    shape: Integers
    place: Integers
    mirror: NDArray[np.bool_]


def draws(geometry: Geometry, mirror: bool) -> bool:
    """Whether anything is random."""
    return mirror or geometry == "random_crop"


def crop_windows(
    geometry: Geometry,
    height: NDArray,
    width: NDArray,
    size: int,
    random: Floats | None = None,
    *,
    mirror: bool = False,
) -> CropWindows:
    """What is cut out of each photo and where it lands.

    Args:
        geometry: how a photo becomes a square.
        height: `(N,)` of the photos.
        width: `(N,)` of the photos.
        size: of the square.
        random: `(N, 4)` in [0, 1), for random crops and mirroring.
        mirror: whether to mirror at random, as random_crop always does.
    """
    top, left, bottom, right = source_rectangles(geometry, height, width, random)
    y0, y1, start_y, end_y = _along(top, bottom, height, size)
    x0, x1, start_x, end_x = _along(left, right, width, size)
    mirrored = np.zeros(len(height), np.bool_)
    if draws(geometry, mirror):
        assert random is not None, "mirroring is drawn"
        mirrored = random[:, 3] >= 0.5
    return CropWindows(
        start=np.stack([start_y, start_x], axis=1),
        end=np.stack([end_y, end_x], axis=1),
        shape=np.stack([y1 - y0, x1 - x0], axis=1),
        place=np.stack([y0, x0], axis=1),
        mirror=mirrored,
    )


def source_rectangles(
    geometry: Geometry, height: NDArray, width: NDArray, random: Floats | None = None
) -> tuple[Floats, Floats, Floats, Floats]:
    """The rectangles that become squares: top, left, bottom, right, `(N,)` each, in source pixels, also beyond."""
    height, width = height.astype(np.float64), width.astype(np.float64)
    short, long = np.minimum(height, width), np.maximum(height, width)
    match geometry:
        case "pad":
            top, left = -((long - height) // 2), -((long - width) // 2)
            return top, left, long + top, long + left
        case "crop":
            top, left = (height - short) // 2, (width - short) // 2
            return top, left, top + short, left + short
        case "random_crop":
            assert random is not None, "crops are drawn"
            side = (_SMALLEST_CROP + (1 - _SMALLEST_CROP) * random[:, 0]) * short
            top, left = random[:, 1] * (height - side), random[:, 2] * (width - side)
            return top, left, top + side, left + side
        case "squash":
            return np.zeros_like(height), np.zeros_like(width), height, width
        case "legacy":  # the report padded the long axis where it meant the short one
            pad = (long - short) // 2
            above, beside = np.where(width > height, 0, pad), np.where(width > height, pad, 0)
            return -above, -beside, height + above, width + beside


def _along(start: Floats, end: Floats, length: NDArray, size: int) -> tuple[Integers, Integers, Floats, Floats]:
    """Along one axis: the pixels of the square that show the photo, and the part of the photo behind them."""
    step = (end - start) / size
    first = np.maximum(0, np.rint((0 - start) / step))
    last = np.minimum(size, np.maximum(first + 1, np.rint((length - start) / step)))
    return first.astype(np.int64), last.astype(np.int64), start + first * step, start + last * step
