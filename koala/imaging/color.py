"""sRGB <-> CIE L*a*b*, one formula for NumPy, torch and DALI.

L*a*b* is a matrix, a curve and a matrix: linear RGB to XYZ over the white point, a cube root with a
linear toe, and differences of the results. The code below is that sentence; what the three libraries
call its steps stands in `_Numpy`, `_Torch` and `_Dali`.

Colours lie where each library has them: on the last axis for NumPy and DALI, `(..., H, W, 3)`, and on the
third from last for torch, `(..., 3, H, W)`. sRGB is uint8 in 0..255 or float in 0..1. On the *network's
scale* lightness is L*/50 - 1 and ab is (a*, b*)/127, both in -1..1.

References:
    IEC 61966-2-1:1999 (sRGB, D65); CIE 15:2018 (L*a*b*, 2 degree observer). The matrix, the white point and
    the toe are rounded as scikit-image 0.26 rounds them (`skimage.color`), to agree with it.
"""

from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from koala.imaging.device_constants import constant

_XYZ_FROM_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_RELATIVE_XYZ_FROM_RGB = _XYZ_FROM_RGB / _WHITE[:, None]
_TOE_END, _TOE_SLOPE, _TOE_START = 0.008856, 7.787, 16 / 116  # below the end the curve is a line
_LAB_FROM_CURVE = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_LAB_OFFSET = np.array([-16.0, 0.0, 0.0])

_DARK = 1e-9  # linear light that is none

_PIECE_BITS, _PIECE_SHIFT = 16, 14  # of the float32 bits below 2.0, the upper 16 choose a piece

_L_SCALE, _L_SHIFT = 1 / 50, -1.0
_AB_SCALE = 1 / 127

# ITU-R 601 luma in Pillow's fixed point, whole numbers on every device
_GREY_WEIGHTS, _GREY_HALF, _GREY_SHIFT = (19595, 38470, 7471), 32768, 16
GREY_FROM_RGB = np.array([_GREY_WEIGHTS]) / 65536


def rgb_to_lab(rgb: Any) -> Any:
    """Turn sRGB into CIE L*a*b*.

    Args:
        rgb: `(..., H, W, 3)` NumPy or DALI, `(..., 3, H, W)` torch; uint8 in 0..255 or float in 0..1 (for DALI,
            uint8).

    Returns:
        The same shape; L* in 0..100, a* and b* about -128..127; float64 for NumPy, float32 otherwise.

    Raises:
        ValueError: the colour axis is not 3 long.
    """
    return _lab_rows(rgb, _LAB_FROM_CURVE, _LAB_OFFSET)


def lab_to_rgb(lab: Any, outside: Literal["clip", "fade", "keep"] = "clip") -> Any:
    """Turn CIE L*a*b* into sRGB.

    Args:
        lab: `(..., H, W, 3)` NumPy or `(..., 3, H, W)` torch, float; L* in 0..100.
        outside: what becomes of colours outside sRGB: "clip" brings each of red, green and blue to its border, as all
            do, and changes L* with it; "fade" mixes in the grey of the same L*, which stays; "keep" leaves them.

    Returns:
        The same shape and dtype, in 0..1; colours outside sRGB that are kept are beyond that.

    Raises:
        ValueError: the colour axis is not 3 long.
    """
    ops = _library_of(lab)
    ops.check(lab)
    curve_from_lab = np.linalg.inv(_LAB_FROM_CURVE)
    curve = ops.mix(lab, curve_from_lab, -curve_from_lab @ _LAB_OFFSET)
    linear = ops.mix(_uncurve(ops, curve), np.linalg.inv(_RELATIVE_XYZ_FROM_RGB))
    if outside == "fade":
        linear = _faded(ops, linear)
    encoded = _encode_gamma(ops, linear)
    return encoded if outside == "keep" else ops.clip(encoded)


def to_ab(rgb: Any) -> Any:
    """Take a*b* of sRGB on the network's scale: what the network is to predict.

    Args:
        rgb: as for `rgb_to_lab`.

    Returns:
        `(..., H, W, 2)` NumPy or DALI, `(..., 2, H, W)` torch, about -1..1.
    """
    return _lab_rows(rgb, _LAB_FROM_CURVE[1:] * _AB_SCALE, _LAB_OFFSET[1:] * _AB_SCALE)


def to_lightness(rgb: Any, source: Literal["grey", "color"] = "grey") -> Any:
    """Take L* of sRGB on the network's scale: what the network gets to see.

    Args:
        rgb: uint8, shaped as for `rgb_to_lab`.
        source: "grey" takes L* of the picture turned grey as Pillow's mode "L" does, so that nothing of the
            colours is left in it; "color" takes L* of the colours, as the original paper does.

    Returns:
        `(..., H, W, 1)` NumPy or DALI, `(..., 1, H, W)` torch, in -1..1.
    """
    if source == "grey":
        return grey_to_lightness(to_grey(rgb))
    return _lab_rows(rgb, _LAB_FROM_CURVE[:1] * _L_SCALE, _LAB_OFFSET[:1] * _L_SCALE + _L_SHIFT)


def grey_to_lightness(grey: Any) -> Any:
    """Take L* of 8-bit greys on the network's scale; the shape stays."""
    return _library_of(grey).lookup(grey, _lightness_of_greys())


def to_grey(rgb: Any) -> Any:
    """Turn uint8 sRGB into 8-bit greys, bit for bit as `PIL.Image.convert("L")`; the colour axis becomes 1 long."""
    ops = _library_of(rgb)
    ops.check(rgb)
    return ops.grey(rgb)


def to_lab(lightness: Any, ab: Any) -> Any:
    """Join lightness and ab on the network's scale to L*a*b*.

    Args:
        lightness: `(..., H, W, 1)` NumPy or `(..., 1, H, W)` torch, in -1..1.
        ab: `(..., H, W, 2)` NumPy or `(..., 2, H, W)` torch, in -1..1.

    Returns:
        `(..., H, W, 3)` or `(..., 3, H, W)`, for `lab_to_rgb`.
    """
    return _library_of(ab).join((lightness - _L_SHIFT) / _L_SCALE, to_units(ab))


def colorfulness(rgb: Any, absolute: bool = False, weight: Any = None) -> Any:
    """Colourfulness: 0 for greys, about 15 for a slightly, 45 for a quite, 109 for an extremely colourful picture.

    Args:
        rgb: `(..., H, W, 3)` NumPy or `(..., 3, H, W)` torch, uint8 sRGB.
        absolute: take the absolute values of the opponent colours first, as CT2, DDColor and their followers do;
            the paper takes them with their signs.
        weight: `(..., H, W)`, how much each pixel counts; by default all count the same.

    Returns:
        `(...)` float64.

    References:
        Hasler and Suesstrunk, "Measuring colourfulness in natural images", Human Vision and Electronic Imaging VIII
        (2003), their M3: sigma_rgyb + 0.3 mu_rgyb, with rg = R - G and yb = (R + G) / 2 - B on 0..255.
    """
    ops = _library_of(rgb)
    ops.check(rgb)
    red, green, blue = ops.channels(rgb)
    opponents = red - green, (red + green) / 2 - blue
    if absolute:
        opponents = abs(opponents[0]), abs(opponents[1])
    means = [ops.mean(opponent, weight) for opponent in opponents]
    variances = [ops.mean(x**2, weight) - mean**2 for x, mean in zip(opponents, means, strict=True)]
    # a variance of whole numbers that is none may come out a rounding error below it
    return abs(variances[0] + variances[1]) ** 0.5 + 0.3 * (means[0] ** 2 + means[1] ** 2) ** 0.5


def to_units(ab: Any) -> Any:
    """Turn ab on the network's scale into units of L*a*b*; any shape and library."""
    return ab / _AB_SCALE


def from_units(ab: Any) -> Any:
    """The inverse of `to_units`."""
    return ab * _AB_SCALE


def lightness_from_units(lightness: Any) -> Any:
    """Turn L* in 0..100 into lightness on the network's scale; any shape and library."""
    return lightness * _L_SCALE + _L_SHIFT


def _lab_rows(rgb: Any, rows: NDArray, offset: NDArray) -> Any:
    """Some rows of L*a*b*, scaled: what the last matrix makes of the curve."""
    ops = _library_of(rgb)
    ops.check(rgb)
    linear = ops.lookup(rgb, _linear_of_bytes()) if ops.is_bytes(rgb) else _decode_gamma(ops, rgb)
    needed = rows.any(axis=0)  # L* is a matter of Y alone
    return ops.mix(ops.curve(ops.mix(linear, _RELATIVE_XYZ_FROM_RGB[needed])), rows[:, needed], offset)


def _curve(ops: Any, xyz: Any) -> Any:
    """The CIE's f."""
    return ops.where(xyz > _TOE_END, ops.cbrt(xyz), _TOE_SLOPE * xyz + _TOE_START)


def _uncurve(ops: Any, curve: Any) -> Any:
    """The inverse of `_curve`."""
    return ops.where(curve > _TOE_END ** (1 / 3), curve**3, (curve - _TOE_START) / _TOE_SLOPE)


def _decode_gamma(ops: Any, rgb: Any) -> Any:
    """SRGB in 0..1 to linear light."""
    return ops.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)


def _faded(ops: Any, linear: Any) -> Any:
    """Linear light with as much grey of the same luminance as brings it into 0..1: light adds up, so that Y stays."""
    luminance = ops.mix(linear, _XYZ_FROM_RGB[1:2])
    lowest, highest = ops.extremes(linear)
    below = luminance / ops.at_least(luminance - lowest, ops.at_least(luminance, _DARK))
    above = (1 - luminance) / ops.at_least(highest - luminance, ops.at_least(1 - luminance, _DARK))
    return luminance + ops.at_least(ops.least(below, above), 0.0) * (linear - luminance)


def _encode_gamma(ops: Any, linear: Any) -> Any:
    """Linear light to sRGB."""
    power = 1.055 * ops.at_least(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return ops.where(linear > 0.0031308, power, linear * 12.92)


@cache
def _linear_of_bytes() -> NDArray:
    """Linear light of the 256 levels."""
    return _decode_gamma(_Numpy, np.arange(256) / 255)


@cache
def _curve_in_pieces() -> tuple[NDArray, NDArray]:
    """`_curve` on [0, 2) as straight pieces, one for each value of a float32's upper 18 bits: slopes and offsets.

    A float's bits order as the float does, so that these bits number 512 pieces an octave: fine where the curve
    bends. The pieces miss it by 1.1e-7 at most.
    """
    ends = (np.arange((1 << _PIECE_BITS) + 1, dtype=np.int32) << _PIECE_SHIFT).view(np.float32).astype(np.float64)
    values = _curve(_Numpy, ends)
    slopes = np.diff(values) / np.diff(ends)
    return slopes, values[:-1] - slopes * ends[:-1]


@cache
def _lightness_of_greys() -> NDArray:
    """Lightness, on the network's scale, of the 256 greys."""
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    return to_lightness(greys, "color")[:, 0]


def _library_of(array: Any) -> Any:
    """The names of the steps in the library that `array` belongs to."""
    match type(array).__module__.partition(".")[0]:
        case "torch":
            return _Torch
        case "nvidia":
            return _Dali
        case _:
            return _Numpy


class _Numpy:
    """Colours on the last axis, float64."""

    where, cbrt, at_least, least = np.where, np.cbrt, np.maximum, np.minimum

    @staticmethod
    def extremes(array: NDArray) -> tuple[NDArray, NDArray]:
        return array.min(-1, keepdims=True), array.max(-1, keepdims=True)

    @staticmethod
    def curve(xyz: NDArray) -> NDArray:
        return _curve(_Numpy, xyz)

    @staticmethod
    def check(array: NDArray) -> None:
        if array.shape[-1] != 3:
            raise ValueError(f"the last axis of a NumPy picture holds its 3 colours, got shape {array.shape}")

    @staticmethod
    def is_bytes(array: NDArray) -> bool:
        return array.dtype == np.uint8

    @staticmethod
    def lookup(levels: NDArray, table: NDArray) -> NDArray:
        return table[levels]

    @staticmethod
    def mix(array: NDArray, matrix: NDArray, offset: NDArray | float = 0.0) -> NDArray:
        return array @ matrix.T + offset

    @staticmethod
    def grey(rgb: NDArray) -> NDArray:
        return (rgb @ GREY_FROM_RGB.T + 0.5).astype(np.uint8)

    @staticmethod
    def channels(rgb: NDArray) -> Any:
        return np.moveaxis(rgb.astype(np.float64), -1, 0)

    @staticmethod
    def mean(array: NDArray, weight: NDArray | None) -> Any:
        return np.average(array, axis=(-2, -1), weights=weight)

    @staticmethod
    def clip(array: NDArray) -> NDArray:
        return array.clip(0, 1)

    @staticmethod
    def join(lightness: NDArray, ab: NDArray) -> NDArray:
        return np.concatenate([lightness, ab], axis=-1)


class _Torch:
    """Colours on the third axis from last, float32 on the tensor's device."""

    @staticmethod
    def check(array: Any) -> None:
        if array.ndim < 3 or array.shape[-3] != 3:
            raise ValueError(f"axis -3 of a torch picture holds its 3 colours, got shape {tuple(array.shape)}")

    @staticmethod
    def is_bytes(array: Any) -> bool:
        return not array.is_floating_point()

    @staticmethod
    def lookup(levels: Any, table: NDArray) -> Any:
        import torch

        values = constant(table, torch.float32, levels.device)
        return values.index_select(0, levels.int().flatten()).reshape(
            levels.shape
        )  # 5 times as quick as values[levels]

    @staticmethod
    def mix(array: Any, matrix: NDArray, offset: NDArray | float = 0.0) -> Any:
        import torch

        weight = constant(matrix, array.dtype, array.device)
        shift = constant(np.reshape(offset, (-1, 1, 1)), array.dtype, array.device)
        return torch.einsum("oc,...chw->...ohw", weight, array) + shift

    @staticmethod
    def curve(xyz: Any) -> Any:
        return _curve(_Torch, xyz)

    @staticmethod
    def at_least(array: Any, bound: Any) -> Any:
        return array.clamp(min=bound)

    @staticmethod
    def least(array: Any, other: Any) -> Any:
        return array.minimum(other)

    @staticmethod
    def extremes(array: Any) -> tuple[Any, Any]:
        return array.amin(-3, keepdim=True), array.amax(-3, keepdim=True)

    @staticmethod
    def where(condition: Any, yes: Any, no: Any) -> Any:
        """Exact, and on the CPU three times as quick as torch's own."""
        return no.lerp(yes, condition.to(no.dtype))

    @staticmethod
    def cbrt(array: Any) -> Any:
        return array.clamp(min=0) ** (1 / 3)

    @staticmethod
    def grey(rgb: Any) -> Any:
        import torch

        levels = zip(rgb.int().unbind(-3), _GREY_WEIGHTS, strict=True)
        return (
            (sum((weight * level for level, weight in levels), _GREY_HALF) >> _GREY_SHIFT).to(torch.uint8).unsqueeze(-3)
        )

    @staticmethod
    def channels(rgb: Any) -> Any:
        return rgb.float().unbind(-3)

    @staticmethod
    def mean(array: Any, weight: Any) -> Any:
        """In float64: halves up to 255 and their squares are exact in float32, their sums are not."""
        import torch

        if weight is None:
            return array.mean((-2, -1), dtype=torch.float64)
        return (array * weight).sum((-2, -1), dtype=torch.float64) / weight.sum((-2, -1), dtype=torch.float64)

    @staticmethod
    def clip(array: Any) -> Any:
        return array.clamp(0, 1)

    @staticmethod
    def join(lightness: Any, ab: Any) -> Any:
        import torch

        return torch.cat([lightness, ab], dim=-3)


class _Dali:
    """Nodes of a DALI graph: uint8 sRGB in, float32 out, colours on the last axis, on the nodes' device."""

    @staticmethod
    def check(node: Any) -> None:
        """A node has no shape before it runs; the decoder makes three colours."""

    @staticmethod
    def is_bytes(node: Any) -> bool:
        return True

    @staticmethod
    def lookup(levels: Any, table: NDArray) -> Any:
        from nvidia.dali import fn, types

        keys = list(range(len(table)))
        return fn.lookup_table(levels, keys=keys, values=table.tolist(), dtype=types.FLOAT)

    @staticmethod
    def mix(node: Any, matrix: NDArray, offset: NDArray | float = 0.0) -> Any:
        from nvidia.dali import fn

        shift = np.broadcast_to(offset, matrix.shape[:1]).tolist()
        return fn.coord_transform(node, M=matrix.ravel().tolist(), T=shift)

    @staticmethod
    def curve(xyz: Any) -> Any:
        """Two tables and a line: on the CPU, quicker by a fifth of the whole pipeline than DALI's power."""
        from nvidia.dali import fn, types

        piece = fn.reinterpret(xyz, dtype=types.INT32) >> _PIECE_SHIFT
        slopes, offsets = _curve_in_pieces()
        return _Dali.lookup(piece, slopes) * xyz + _Dali.lookup(piece, offsets)

    @staticmethod
    def grey(rgb: Any) -> Any:
        from nvidia.dali import fn, types

        # whole numbers below 2^24 are exact in float32, in whatever order they are added
        sums = fn.coord_transform(rgb, M=list(map(float, _GREY_WEIGHTS)), T=[float(_GREY_HALF)])
        return fn.cast(fn.cast(sums, dtype=types.INT32) >> _GREY_SHIFT, dtype=types.UINT8)
