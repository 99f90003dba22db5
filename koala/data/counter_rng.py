"""Random numbers as a pure function of (seed, epoch, sample), for a whole batch at once.

References:
    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011: Philox4x32-10, as in curand and torch.
"""

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10.

    Args:
        counter: `(N, 4)`; equal counters give equal numbers.
        key: two numbers of 32 bits.

    Returns:
        `(N, 4)` random bits.
    """
    a, b, c, d = (counter[:, column].astype(np.uint64) for column in range(4))
    first, second = key
    for _ in range(_ROUNDS):
        left, right = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b = (right >> _HALF) ^ b ^ np.uint64(first), right & _LOW
        c, d = (left >> _HALF) ^ d ^ np.uint64(second), left & _LOW
        first, second = (first + _WEYL[0]) & 0xFFFFFFFF, (second + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([a, b, c, d], axis=1).astype(np.uint32)


def uniforms(seed: int, epochs: NDArray[np.int64], samples: NDArray[np.int64], use: int = 0) -> NDArray[np.float64]:
    """Four numbers in [0, 1) for each sample in each epoch, whatever batch it comes in.

    Args:
        seed: of a training, below 2^64.
        epochs: `(N,)`.
        samples: `(N,)`.
        use: what they are for; other uses get other numbers.

    Returns:
        `(N, 4)`.
    """
    samples = samples.astype(np.uint64)
    columns = samples & _LOW, samples >> _HALF, epochs.astype(np.uint64), np.full_like(samples, use)
    bits = philox(np.stack(columns, axis=1).astype(np.uint32), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    return bits / 2.0**32
