"""The colours of a small picture at a photo's own size, without bleeding over the photo's edges.

Enlarged by itself, ab changes over a whole pixel of the small picture, on both sides of what is one edge in the photo.
From one place to the next, though, ab goes much as a line of lightness: ab = slope * lightness + offset. `fit` finds
these lines in the small picture; `apply` enlarges them and lets the photo's lightness draw the edges, a strip of rows
at a time, so that the photo may have any size. Colours that run over an edge already in the small picture still do.

Shapes: B pictures, h x w the small size, H x W the photo's. Lightness and ab are on the network's scale.

References:
    He, Sun and Tang, "Guided image filtering", IEEE Transactions on Pattern Analysis and Machine Intelligence 35
    (2013); He and Sun, "Fast guided filter", arXiv:1505.00996: lines fitted small and used large. Theirs smooth the
    picture, these go through it, which `benchmarks/upsampling.py` finds nearer to the truth.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 1  # pixels of the small picture
EPSILON = 0.02  # variance of lightness: where it spreads by 7 L*, half of the slope is left

_SHARED_FLOATS = 12_288  # that a GPU's threads share: 48 kB


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

    def smooth(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)

    mean = smooth(lightness)
    covariance = smooth(lightness * ab) - mean * smooth(ab)
    variance = smooth(lightness * lightness) - mean * mean
    slope = smooth(covariance / (variance.clamp(min=0) + epsilon))
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
