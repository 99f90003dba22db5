"""What `koala.colorize` takes for a photo, as pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from koala.core.errors import UserError
from koala.imaging import photo_io
from koala.imaging.errors import UnreadableImageError

PhotoInput = str | PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[Any] | Tensor
"""A photo: see `TAKES`."""

TAKES = (
    "a path, a file's bytes, a file object, a PIL image, an array (H, W) or (H, W, 3), a tensor (3, H, W) or (H, W, 3) "
    "(both of uint8, uint16, or floats in 0..1), or a list of these"
)
_DTYPES = (np.uint8, np.uint16)


def read_pixels(photo: PhotoInput) -> NDArray[Any]:
    """The pixels of a photo: `(H, W, 3)` sRGB, uint8 or uint16, or float32 in 0..1.

    Args:
        photo: see `TAKES`; transparency is left out.

    Raises:
        UserError: it is no whole picture, or has another shape or range.
        TypeError: it is nothing of the kind.
    """
    if isinstance(photo, str | PathLike):
        return photo_io.read_photo(Path(photo)).pixels
    if isinstance(photo, Tensor):
        values = photo.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # which NumPy does not know
        return _of_array(_channels_last(values.numpy()), "a tensor")
    if isinstance(photo, np.ndarray):
        return _of_array(photo, "an array")
    with _refusal_is_said():
        if isinstance(photo, Image.Image):
            return photo_io.from_image(photo).pixels
        data = photo.read() if hasattr(photo, "read") else photo
        if isinstance(data, bytes | bytearray | memoryview):
            return photo_io.decode_photo(bytes(data)).pixels
    raise TypeError(f"a photo is {TAKES}; got {type(photo).__name__}")


@contextmanager
def _refusal_is_said() -> Iterator[None]:
    try:
        yield
    except UnreadableImageError as error:
        raise UserError(f"the photo cannot be read ({error}); give another one") from None


def _channels_last(pixels: NDArray[Any]) -> NDArray[Any]:
    """`(C, H, W)`, torch's usual way, as `(H, W, C)`; what is so already stays."""
    return np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 and pixels.shape[0] in (1, 3) else pixels


def _of_array(pixels: NDArray[Any], what: str) -> NDArray[Any]:
    floats = np.issubdtype(pixels.dtype, np.floating)
    shape, channels = pixels.shape, pixels.shape[2] if pixels.ndim == 3 else 1
    if (
        pixels.ndim not in (2, 3)
        or channels not in (1, 3)
        or not pixels.size
        or not (floats or pixels.dtype.newbyteorder("=") in _DTYPES)
    ):
        raise UserError(f"a photo is {TAKES}; got {what} of shape {shape} and type {pixels.dtype}")
    if floats and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise UserError(f"{what} of floats has values in 0..1; got {pixels.min():g} to {pixels.max():g}")
    if channels == 1:
        pixels = np.repeat(pixels.reshape(*shape[:2], 1), 3, axis=-1)
    # torch takes no rows that run backwards, as those of a picture that was turned or of BGR made RGB do
    return np.ascontiguousarray(pixels, np.float32 if floats else pixels.dtype.newbyteorder("="))
