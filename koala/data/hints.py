"""Hints for training: the true ab of some small squares of each picture, as people would give them.

Half of the pictures come without any, so that the network colours well alone, too.

References:
    Zhang et al., "Real-Time User-Guided Image Colorization with Learned Deep Priors", arXiv:1705.02999, whose hints are
    revealed so; theirs are up to 9 pixels a side, and their number follows a geometric distribution.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from koala.data.counter_rng import uniforms

if TYPE_CHECKING:
    from torch import Tensor

MOST = 10  # squares in a picture
_LARGEST = 1 / 14  # of the picture's side
_FIRST_USE = 100  # tells what is drawn for hints from all else


def draw_squares(seed: int, clock: int, samples: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Draw which squares of each picture are revealed: the same whatever process a sample comes to.

    Args:
        seed: of the training.
        clock: images seen before the step.
        samples: `(B,)`.
        size: H and W of the pictures.

    Returns:
        `(B, 10, 4)`: top, left, bottom, right of each; those that are not revealed are empty.
    """
    clocks = np.full(len(samples), clock)
    count = uniforms(seed, clocks, samples, _FIRST_USE)
    drawn = np.stack([uniforms(seed, clocks, samples, _FIRST_USE + 1 + place) for place in range(MOST)], axis=1)
    wanted = np.where(count[:, 0] < 0.5, 0, 1 + np.floor(count[:, 1] * MOST))  # none in half of the pictures
    side = 1 + np.floor(drawn[..., 0] * max(1, size * _LARGEST)).astype(np.int64)
    side[np.arange(MOST) >= wanted[:, None]] = 0
    top, left = (np.floor(drawn[..., axis] * (size - side)).astype(np.int64) for axis in (1, 2))
    return np.stack([top, left, top + side, left + side], axis=-1)


def reveal(ab: "Tensor", squares: NDArray[np.int64]) -> "Tensor":
    """The hints that these squares give.

    Args:
        ab: `(B, 2, H, W)`, the true one.
        squares: `(B, N, 4)`.

    Returns:
        `(B, 3, H, W)`: ab within them, else 0, and 1 within them, else 0.
    """
    import torch

    height, width = ab.shape[-2:]
    places = torch.from_numpy(squares)
    if ab.is_cuda:
        places = places.pin_memory().to(ab.device, non_blocking=True)
    top, left, bottom, right = places[..., None].unbind(dim=2)
    rows, columns = (torch.arange(length, device=ab.device) for length in (height, width))
    inside_rows, inside_columns = (top <= rows) & (rows < bottom), (left <= columns) & (columns < right)
    shown = torch.einsum("bnh,bnw->bhw", inside_rows.float(), inside_columns.float())[:, None] > 0
    return torch.cat([ab * shown, shown.float()], dim=1)
