"""Samples of pictures: how deep they are, and what alpha does to them, some rows at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ROWS = 256  # are worked on at a time: a second copy of 100 megapixels would be 600 MB


def bands(height: int) -> Iterator[slice]:
    """The rows of a picture, some at a time."""
    return (slice(top, min(top + ROWS, height)) for top in range(0, height, ROWS))


def convert_depth(samples: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Samples in uint8 or uint16."""
    if samples.dtype == dtype:
        return samples
    if dtype == np.uint8:
        return np.right_shift(samples, 8, out=np.empty(samples.shape, np.uint8), casting="unsafe")
    return samples * np.uint16(257)


def fill_range(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Samples of 1 to 16 bits, of any byte order, in all the range of uint8, or of uint16 for more than 8 bits."""
    if bits in (8, 16):
        return samples.astype(samples.dtype.newbyteorder("="), copy=False)
    dtype = np.dtype(np.uint8 if bits < 8 else np.uint16)
    most, whole = (1 << bits) - 1, (1 << 8 * dtype.itemsize) - 1
    levels = (np.arange(most + 1, dtype=np.uint32) * whole + most // 2) // most
    return levels.astype(dtype)[samples.astype(np.uint16)]


def divide_by_alpha(samples: NDArray[Any]) -> None:
    """Undo, in place, what the last channel was multiplied into the others."""
    most = np.iinfo(samples.dtype).max
    for rows in bands(len(samples)):
        alpha = samples[rows, :, -1:]
        whole = samples[rows, :, :-1].astype(np.uint32) * most // np.maximum(alpha, 1)
        samples[rows, :, :-1] = np.minimum(whole, most)


def lay_on_white(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`(H, W, C)` as they show on white paper, without the last channel, alpha."""
    shown = np.empty_like(samples[..., :-1])
    for rows in bands(len(samples)):
        alpha = samples[rows, :, -1:].astype(np.uint16)
        mixed = samples[rows, :, :-1] * alpha + 255 * (255 - alpha) + 127
        shown[rows] = mixed // 255
    return shown
