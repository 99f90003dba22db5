"""The ab plane in squares of 10: those that sRGB can show, the colours' frequencies over them, soft targets, decoding.

Shapes: B pictures, Q bins, H x W places. ab is in units of L*a*b* here, not on the network's scale.

References:
    Zhang, Isola, Efros: Colorful Image Colorization, arXiv:1603.08511. Its list has 313 bins; only those below can be
    hit by a colour of sRGB.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from koala.imaging import color
from koala.imaging.device_constants import constant

STEP = 10.0  # of the grid
STRIDE = 4  # of the logits of a network that predicts bins
TEMPERATURE = 0.38  # of the mean over bins, as in the paper
_NEIGHBOURS = 5  # bins that share a soft target
_SIGMA = 5.0  # of the Gaussian by which they share it, and which smooths the prior
_REACH = 12  # bins from the middle to each side of the square that holds all


@cache
@torch.inference_mode(False)  # whoever asks first: a training goes back through them
def centers() -> Tensor:
    """`(Q, 2)` float32: the middles of all bins that a colour of sRGB falls into, by a* and then b*.

    A line of constant a*b* through the solid of sRGB's colours leaves it through its surface, so that the colours on
    the six faces of the cube tell.
    """
    levels = np.arange(256, dtype=np.uint8)
    first, second = (part.ravel() for part in np.meshgrid(levels, levels))
    faces = []
    for axis in range(3):
        for level in (0, 255):
            face = np.insert(np.stack([first, second], axis=1), axis, level, axis=1)
            faces.append(np.unique(rounded(color.rgb_to_lab(face[None])[0, :, 1:]), axis=0))
    return torch.from_numpy(np.unique(np.concatenate(faces), axis=0) * STEP).float()


def _centers_on(device: torch.device) -> Tensor:
    return centers() if device.type == "cpu" else constant(centers().numpy(), torch.float32, device)


def rounded(ab: NDArray) -> NDArray[np.int64]:
    """Numbers of the squares along a* and b*: `(..., 2)` to `(..., 2)`."""
    return np.floor(ab / STEP + 0.5).astype(np.int64)


@cache
def _table() -> Tensor:
    """`(2R + 1, 2R + 1)`: the bin of each square of the plane; for those outside sRGB the nearest one."""
    side = torch.arange(-_REACH, _REACH + 1) * STEP
    squares = torch.cartesian_prod(side, side)
    return torch.cdist(squares, centers()).argmin(dim=1).view(len(side), -1)


def bin_index(ab: Tensor) -> Tensor:
    """The bin that each colour falls into: `(B, 2, H, W)` to `(B, H, W)` int64."""
    square = torch.floor(ab.float() / STEP + 0.5).long().clamp(-_REACH, _REACH) + _REACH
    return constant(_table().numpy(), torch.int64, ab.device)[square[:, 0], square[:, 1]]


def bin_shares(ab: NDArray) -> NDArray[np.float64]:
    """What part of all places falls into each bin: `(..., 2)` to `(Q,)`."""
    square = rounded(ab).clip(-_REACH, _REACH) + _REACH
    places = _table().numpy()[square[..., 0], square[..., 1]]
    return np.bincount(places.ravel(), minlength=len(centers())) / places.size


def smooth(frequencies: Tensor) -> Tensor:
    """A prior: frequencies spread over their surroundings by a Gaussian, `(Q,)` to `(Q,)` that sum to 1."""
    distance = torch.cdist(centers().double(), centers().double())
    kernel = torch.exp(-(distance**2) / (2 * _SIGMA**2))
    spread = (kernel / kernel.sum(dim=0)) @ (frequencies.double() / frequencies.sum())
    return (spread / spread.sum()).float()


def even_prior() -> Tensor:
    """The prior of who knows of no data: all bins are as frequent, `(Q,)`."""
    return torch.full((len(centers()),), 1 / len(centers()))


def rebalancing_weights(prior: Tensor, rebalancing: float) -> Tensor:
    """What a place counts by its colour, so that rare colours count more: `(Q,)`, 1 on average over the prior.

    Args:
        prior: `(Q,)`.
        rebalancing: 0 lets all count the same, towards 1 a colour counts as much more as it is rarer.

    References:
        Zhang et al., eq. 4, where it is 1 - lambda, 0.5.
    """
    inverse = 1 / (rebalancing * prior.double() + (1 - rebalancing) / len(prior))
    return (inverse / (prior.double() * inverse).sum()).float()


def soft_targets(ab: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest bins of each colour and the share of each by a Gaussian of its distance.

    Args:
        ab: `(B, 2, H, W)`.

    Returns:
        `(B, K, H, W)` int64 bins and `(B, K, H, W)` float32 shares that sum to 1 over K.
    """
    batch, _, height, width = ab.shape
    places = ab.float().permute(0, 2, 3, 1).reshape(-1, 2)
    # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, of which the first does not matter for what is nearest
    middles = _centers_on(ab.device)
    scores = torch.addmm(-(middles**2).sum(dim=1), places, middles.T, beta=1, alpha=2)
    nearest, which = scores.topk(_NEIGHBOURS, dim=1)
    shares = torch.softmax(nearest / (2 * _SIGMA**2), dim=1)

    def shaped(values: Tensor) -> Tensor:
        return values.view(batch, height, width, _NEIGHBOURS).permute(0, 3, 1, 2)

    return shaped(which), shaped(shares)


def annealed_mean(logits: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """The colour of a distribution: `(B, Q, H, W)` logits to `(B, 2, H, W)`.

    Args:
        logits: of the bins.
        temperature: 1 gives the mean, which is grey where colours are open; towards 0 it becomes the likeliest bin.
        weights: `(Q,)` by which each bin's share is multiplied before; none leaves the shares as they are.

    References:
        Zhang et al., eq. 5, with 0.38.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        if weights is not None:
            logits = logits + weights.log()[:, None, None]
        shares = torch.softmax(logits / temperature, dim=1)
        return torch.einsum("bqhw,qc->bchw", shares, _centers_on(logits.device))
