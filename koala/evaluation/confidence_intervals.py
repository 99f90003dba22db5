"""Intervals of means by the bootstrap: what would the mean be, had the same number of other pictures been drawn?

References:
    Efron and Tibshirani, "An introduction to the bootstrap" (1993); the intervals are those of its chapter 13, by
    percentiles.
"""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000


def resampled_means(values: NDArray, seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Means over pictures drawn anew, with replacement.

    The columns of one resample are means over the same draw, so that their differences are paired.

    Args:
        values: `(N, K)`, of N pictures K values each.
        seed: of the draws.
        resamples: R, how often pictures are drawn.

    Returns:
        `(R, K)`.
    """
    count = len(values)
    rng = np.random.default_rng(seed)
    values = values.astype(np.float64)
    draws = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(resamples))
    return np.stack([draw @ values for draw in draws]) / count


def interval(resampled: NDArray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of `(R,)` resampled values: its lower and its upper end."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
