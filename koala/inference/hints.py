"""Colours that a person gives at some places of a photo: dabs on an otherwise transparent picture of its size.

Only their hue and chroma count; lightness stays the photo's own.
"""

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from koala.config.imaging import PictureLimits
from koala.core.errors import UserError
from koala.imaging import color, openraster, photo_io
from koala.imaging.errors import UnreadableImageError
from koala.imaging.samples import bands, convert_depth

_ZIP = b"PK\3\4"  # how an OpenRaster file begins

HintsInput = str | Path | Image.Image | NDArray[np.uint8]
"""Dabs of colour: a picture with transparency, an OpenRaster file with a layer `hints`, or an array `(H, W, 4)`."""


def read_hints(hints: HintsInput, shape: tuple[int, ...], limits: PictureLimits | None = None) -> NDArray[np.uint8]:
    """The dabs as `(H, W, 4)` sRGB with alpha.

    Args:
        hints: see `HintsInput`.
        shape: of the photo, `(H, W, ...)`.
        limits: to what a file may ask for.

    Raises:
        UserError: they cannot be read, have no transparency, or are not of the photo's size.
        TypeError: they are none.
    """
    name = str(hints) if isinstance(hints, str | Path) else "the picture of hints"
    dabs = _read(hints, name, limits)
    if dabs.shape[:2] != shape[:2]:
        (height, width), (rows, columns) = dabs.shape[:2], shape[:2]
        raise UserError(f"{name} has {width} x {height} pixels and the photo {columns} x {rows}; make them the same")
    return dabs


def _read(hints: HintsInput, name: str, limits: PictureLimits | None) -> NDArray[np.uint8]:
    if isinstance(hints, np.ndarray):
        if hints.ndim != 3 or hints.shape[2] != 4 or hints.dtype != np.uint8:
            raise UserError(f"an array of hints is (H, W, 4) of uint8; got {hints.shape} of {hints.dtype}")
        return hints
    if isinstance(hints, str | Path):
        if Path(hints).suffix.lower() == ".ora":
            return openraster.read_layer(Path(hints), openraster.HINTS, limits)
        return _with_alpha(photo_io.read_photo(Path(hints), limits), name)
    if isinstance(hints, Image.Image):
        return _with_alpha(photo_io.from_image(hints), name)
    raise TypeError(f"hints are a path, a PIL image or an array (H, W, 4); got {type(hints).__name__}")


def decode_hints(data: bytes, name: str, limits: PictureLimits | None = None) -> NDArray[np.uint8]:
    """The dabs that a file's bytes hold, `(H, W, 4)` sRGB with alpha.

    Args:
        data: of a picture with transparency, or of an OpenRaster file with a layer `hints`.
        name: what errors call the file.
        limits: to what it may ask for.

    Raises:
        UserError: it cannot be read, or has no transparency.
    """
    if data.startswith(_ZIP):
        return openraster.read_layer(io.BytesIO(data), openraster.HINTS, limits, name)
    try:
        return _with_alpha(photo_io.decode_photo(data, limits), name)
    except UnreadableImageError as error:
        raise UserError(f"{name} cannot be read: {error}") from None


def _with_alpha(photo: photo_io.Photo, name: str) -> NDArray[np.uint8]:
    if photo.alpha is None:
        raise UserError(f"{name} has no transparency; paint the hints on a transparent picture of the photo's size")
    return convert_depth(np.dstack([photo.pixels, photo.alpha]), np.uint8)


def place_hints(dabs: NDArray[np.uint8], height: int, width: int) -> Tensor:
    """Dabs as a network takes them, at its working size.

    Args:
        dabs: `(H, W, 4)` sRGB with alpha.
        height: h.
        width: w.

    Returns:
        `(1, 3, h, w)`: mean ab of the dabs that touch a pixel, else 0, and 1 where there are any.
    """
    sums = np.zeros((3, height * width))  # of a and b times alpha, and of alpha
    for band in bands(len(dabs)):
        rows, columns = np.nonzero(dabs[band, :, 3])
        given = dabs[band][rows, columns]
        ab = color.rgb_to_lab(given[None, :, :3])[0, :, 1:]
        places = (rows + band.start) * height // dabs.shape[0] * width + columns * width // dabs.shape[1]
        weight = given[:, 3].astype(np.float64)
        sums += [np.bincount(places, each, height * width) for each in (*(weight[:, None] * ab).T, weight)]
    mean = sums[:2] / np.maximum(sums[2], 1e-9)
    planes = np.concatenate([color.from_units(mean), sums[2:] > 0]).reshape(1, 3, height, width)
    return torch.from_numpy(planes.astype(np.float32))
