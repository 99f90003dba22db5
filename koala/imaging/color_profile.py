"""Colour profiles: what one does, compared with sRGB, and profiles made of primaries and a curve.

A profile is judged by the colours that come out of it and not by its name: GIMP calls a linear one "sRGB" too.
"""

import io
import struct
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from koala.imaging.errors import UnreadableImageError, optional_package
from koala.imaging.samples import bands

_SPACES = {  # by Pillow's name of the pixels: ICC's of a profile that is taken for them, and how they are given to it
    **{"L": {"GRAY": "L", "RGB": "RGB"}, "RGB": {"RGB": "RGB"}, "CMYK": {"CMYK": "CMYK"}},
}
_SAME = 2  # of 255 levels: by so little sRGB's own profiles differ, of those that were tried by 1
_GRID = 17  # levels of each channel, of which all colours are tried

_D50 = np.array([0.96422, 1.0, 0.82521])  # ICC.1:2022, 7.2.16
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


class Primaries(NamedTuple):
    """CIE xy of red, green, blue and white."""

    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]
    white: tuple[float, float]


class Curve(NamedTuple):
    """From a value to light, both in 0..1: `slope * x` below `start`, `(scale * x + offset) ** power` from there."""

    power: float
    scale: float = 1.0
    offset: float = 0.0
    slope: float = 0.0
    start: float = 0.0


BT709 = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))  # and sRGB
SRGB_CURVE = Curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT601 = Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), (0.3127, 0.3290))
_PRIMARIES = {  # by H.273's ColourPrimaries
    1: BT709,
    4: Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: Primaries((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), (0.3127, 0.3290)),
    6: _BT601,
    7: _BT601,
    9: Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290)),
    11: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290)),
    22: Primaries((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), (0.3127, 0.3290)),
}
_BT709_CURVE = Curve(1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES = {  # by H.273's TransferCharacteristics
    **dict.fromkeys((1, 6, 14, 15), _BT709_CURVE),
    4: Curve(2.2),
    5: Curve(2.8),
    7: Curve(1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0912),
    8: Curve(1.0),
    13: SRGB_CURVE,
}
_HIGH_RANGE = {16: "PQ", 18: "HLG"}


def convert_to_srgb(samples: NDArray[Any], profile: bytes) -> bool:
    """Bring `(H, W, C)` uint8 or uint16 greys or RGB, with or without alpha, in place from a profile to sRGB.

    A profile of greys is for greys. One of RGB is taken for greys too, at R = G = B: they were written with its curve.
    Where a profile is of another kind than the picture, cannot be read or does what sRGB does, nothing changes.

    Returns:
        Whether anything changed.
    """
    mode = "L" if samples.shape[-1] < 3 else "RGB"
    transform = transform_to_srgb(profile, mode)
    if transform is None:
        return False
    convert = _converter(transform, profile, samples.dtype)
    if mode == "L":
        greys = np.arange(np.iinfo(samples.dtype).max + 1, dtype=samples.dtype).reshape(-1, 256)
        levels = convert(greys if transform.input_mode == "L" else np.repeat(greys[..., None], 3, axis=-1))
        samples[..., 0] = levels[..., 1].reshape(-1)[samples[..., 0]]
    else:
        for rows in bands(len(samples)):
            samples[rows, :, :3] = convert(np.ascontiguousarray(samples[rows, :, :3]))
    return True


@lru_cache(maxsize=64)  # a camera's photographs have one profile
def transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From an embedded profile to sRGB; none where `convert_to_srgb` changes nothing.

    Args:
        profile: as it is embedded; may be empty.
        mode: Pillow's name of the pixels: L, RGB or CMYK.

    Returns:
        To RGB, from that mode, or for L from RGB where the profile is one of RGB.
    """
    if not profile or mode not in _SPACES:
        return None
    try:
        read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        taken = _SPACES[mode].get(read.profile.xcolor_space.strip())
        if taken is None:
            return None
        transform = ImageCms.buildTransform(read, ImageCms.createProfile("sRGB"), taken, "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None
    return None if taken != "CMYK" and _changes_nothing(transform) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether no colour comes out as another one, on a grid of them and on all greys."""
    pictures = [np.arange(256, dtype=np.uint8)[None]]
    if transform.input_mode == "RGB":
        levels = np.linspace(0, 255, _GRID).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(_GRID, -1, 3)
        pictures = [np.repeat(pictures[0][..., None], 3, axis=-1), grid]
    return all(_most_change(transform, picture) <= _SAME for picture in pictures)


def _most_change(transform: ImageCms.ImageCmsTransform, picture: NDArray[np.uint8]) -> int:
    made = np.asarray(transform.apply(Image.fromarray(picture)), int)
    return int(np.abs(made - (picture if picture.ndim == 3 else picture[..., None])).max())


def _converter(
    transform: ImageCms.ImageCmsTransform, profile: bytes, dtype: np.dtype[Any]
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """From `(H, W)` greys or `(H, W, 3)` colours to `(H, W, 3)` of the same depth."""
    if dtype == np.uint8:
        return lambda pixels: np.asarray(transform.apply(Image.fromarray(pixels)))
    spaces = {"colorspace": "gray" if transform.input_mode == "L" else "rgb", "outcolorspace": "rgb"}
    imagecodecs = optional_package("imagecodecs", "colour profiles of 16 bits")
    return partial(imagecodecs.cms_transform, profile=profile, outprofile=srgb_profile(), **spaces)


@cache
def srgb_profile() -> bytes:
    """The ICC profile of sRGB, the same at any time: littlecms writes into it when it was made."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


# ---------------------------------------------------------------- profiles made here


def profile_of_code_points(primaries: int, transfer: int) -> bytes | None:
    """An ICC profile of RGB for what H.273 numbers; none where koala does not know one of the numbers.

    Raises:
        UnreadableImageError: they stand for a picture of high dynamic range.
    """
    if transfer in _HIGH_RANGE:
        raise UnreadableImageError(
            f"picture of high dynamic range ({_HIGH_RANGE[transfer]}): not supported; save it in sRGB"
        )
    known = primaries in _PRIMARIES and transfer in _CURVES
    return profile_of(_PRIMARIES[primaries], _CURVES[transfer]) if known else None


def profile_of(primaries: Primaries, curve: Curve) -> bytes | None:
    """An ICC profile of RGB; none where the primaries are not those of any light.

    References:
        ICC.1:2022 (profile format 4.4): matrix profiles (8.3.3) and parametric curves (10.18); B. Lindbloom, "RGB/XYZ
        Matrices" and "Chromatic Adaptation", http://www.brucelindbloom.com.
    """
    try:
        matrix = _xyz_d50(primaries)
    except (ZeroDivisionError, np.linalg.LinAlgError):
        return None
    if not np.abs(matrix).max() < 4:
        return None
    columns = {name: b"XYZ \0\0\0\0" + _fixed(*column) for name, column in zip(("r", "g", "b"), matrix.T, strict=True)}
    shape = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + _fixed(*curve)
    text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 10, 28) + "koala".encode("utf-16-be")
    tags = {"desc": text, "cprt": text, "wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50)}
    tags |= {f"{name}XYZ": column for name, column in columns.items()}
    tags |= {f"{name}TRC": shape for name in columns}
    return _icc(tags)


def _xyz_d50(primaries: Primaries) -> NDArray[np.float64]:
    """From linear RGB to XYZ under D50."""
    red, green, blue, white = (np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in primaries)
    columns = np.stack([red, green, blue], axis=1)
    matrix = columns * np.linalg.solve(columns, white)
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix


def _icc(tags: dict[str, bytes]) -> bytes:
    """A display profile of RGB over XYZ."""
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4xI4s4s4s", start + len(body), 0x04400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(*_D50)
    return head.ljust(128, b"\0") + table + body


def _fixed(*numbers: float) -> bytes:
    """ICC's s15Fixed16Number."""
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)
