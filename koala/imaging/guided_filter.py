"""The colours of a small picture at a photo's own size, without bleeding over the photo's edges.

Enlarged by itself, ab changes over a whole pixel of the small picture, on both sides of what is one edge in the photo.
From one place to the next, though, ab goes much as a line of lightness: ab = slope * lightness + offset. `fit` finds
these lines in the small picture; `apply` enlarges them and lets the photo's lightness draw the edges, a strip of rows
at a time, so that the photo may have any size.

A network's own colours wander within what is one thing, and run over its edges. `smooth` mends that before, in the
small picture, with lines over wider windows.

Shapes: B pictures, h x w the small size, H x W the photo's. Lightness and ab are on the network's scale.

References:
    He, Sun and Tang, "Guided image filtering", IEEE Transactions on Pattern Analysis and Machine Intelligence 35
    (2013); He and Sun, "Fast guided filter", arXiv:1505.00996: lines fitted small and used large. `smooth` is theirs.
    The lines of `fit` go through the picture, which `benchmarks/upsampling.py` finds nearer to the truth.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 1  # pixels of the small picture
EPSILON = 0.02  # variance of lightness: where it spreads by 7 L*, half of the slope is left

_SMOOTHED_SIDE = 48  # pixels of the short side at which colours are smoothed
_SMOOTHED_RADIUS = 3  # of them
_SMOOTHED_EPSILON = 0.005  # variance of lightness: half of the slope is left where it spreads by 3.5 L*

_SHARED_FLOATS = 12_288  # that a GPU's threads share: 48 kB


def smooth(lightness: Tensor, ab: Tensor) -> Tensor:
    """Let a network's colours change where lightness does, and nowhere else: He and Sun's filter.

    Windows are a seventh of the short side wide, whatever the size of the picture.

    Args:
        lightness: `(B, 1, h, w)`, of what the network saw.
        ab: `(B, 2, h, w)`, of what it predicted.

    Returns:
        `(B, 2, h, w)`.
    """
    scale = _SMOOTHED_SIDE / min(lightness.shape[-2:])
    height, width = (max(1, round(scale * length)) for length in lightness.shape[-2:])
    small, ab = _resize(lightness, (height, width)), _resize(ab, (height, width))
    slope = _slope(small, ab, _SMOOTHED_RADIUS, _SMOOTHED_EPSILON)
    offset = box_mean(ab, _SMOOTHED_RADIUS) - slope * box_mean(small, _SMOOTHED_RADIUS)
    return apply(box_mean(torch.cat([slope, offset], dim=1), _SMOOTHED_RADIUS), lightness)


def fit(lightness: Tensor, ab: Tensor, radius: int = RADIUS, epsilon: float = EPSILON) -> Tensor:
    """Find how ab goes with lightness around each pixel of the small picture.

    Args:
        lightness: `(B, 1, h, w)`, of the photo made small.
        ab: `(B, 2, h, w)`.
        radius: lines are fitted in windows of 2 radius + 1 pixels a side, and their slopes smoothed by the same.
        epsilon: variance of lightness at which slopes are halved; above that of grain, so that it stays without colour.

    Returns:
        `(B, 4, h, w)`: the slopes of a and b, then their offsets. The lines go through the picture:
        slope * lightness + offset is ab again.
    """
    slope = box_mean(_slope(lightness, ab, radius, epsilon), radius)
    return torch.cat([slope, ab - slope * lightness], dim=1)


def apply(lines: Tensor, lightness: Tensor, top: int = 0, height: int | None = None) -> Tensor:
    """Bring ab to the photo's size, or to some of its rows.

    Args:
        lines: `(B, 4, h, w)` from `fit`.
        lightness: `(B, 1, rows, W)`, rows of the photo.
        top: number of the first of these rows.
        height: H; by default these rows are the whole photo.

    Returns:
        `(B, 2, rows, W)` ab: the same whichever rows come with them.

    Raises:
        ValueError: the photo ends before these rows do.
    """
    rows, width = lightness.shape[-2:]
    height = height or rows
    if top < 0 or top + rows > height:
        raise ValueError(f"rows {top} to {top + rows} are not of a photo of {height}")
    every = torch.eye(lines.shape[-2], device=lines.device)[None, None]
    # what each row of the photo takes of each row of the lines
    shares = _resize(every, (height, lines.shape[-2]))[0, 0, top : top + rows]
    slope, offset = _resize(shares @ lines, (rows, width)).chunk(2, dim=1)
    return torch.addcmul(offset, slope, lightness)


def box_mean(values: Tensor, radius: int) -> Tensor:
    """The mean of `(B, C, h, w)` in windows of 2 radius + 1 pixels a side; at the edges of what there is."""
    return F.avg_pool2d(values, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def _slope(lightness: Tensor, ab: Tensor, radius: int, epsilon: float) -> Tensor:
    """Of the line that is nearest in the window around each pixel, less steep where lightness tells little."""
    mean = box_mean(lightness, radius)
    covariance = box_mean(lightness * ab, radius) - mean * box_mean(ab, radius)
    variance = box_mean(lightness * lightness, radius) - mean * mean
    return covariance / (variance.clamp(min=0) + epsilon)


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubically, pixels being areas; without aliasing where the photo is smaller than the small picture."""
    device = values.device
    if values.is_cuda and not fits_gpu(values.shape[-2:], size):
        values = values.cpu()
    return F.interpolate(values, size, mode="bicubic", align_corners=False, antialias=True).to(device)


def fits_gpu(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether torch's kernel for GPUs can make pictures so much smaller: its weights must fit into 48 kB.

    Args:
        before: height and width.
        after: height and width.

    References:
        torch/aten/src/ATen/native/cuda/UpSampleBilinear2d.cu, _upsample_gen2d_aa: a side that shrinks s times takes at
        most 4 s + 3 weights, for 32 columns and, at the least, one row of 32 places.
    """
    height, width = (4 * max(1.0, old / new) + 3 for old, new in zip(before, after, strict=True))
    return 32 * width + 33 * height < _SHARED_FLOATS
