"""Mergeable metrics: sums in float64 that processes add together.

A metric is computed for each picture and averaged over pictures, so that every picture counts the same whatever
batch it came in. Sums have the shape `(N,)`: one entry per metric.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Means:
    """Sums over pictures of named values, and how many pictures there were.

    `Means() + other` is `other`: the empty one is the neutral element.
    """

    count: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> "Means":
        """From the values of a batch's pictures, each `(B,)`."""
        counts = {len(value) for value in values.values()}
        if len(counts) != 1:
            raise ValueError(f"every metric needs one value a picture, got {counts} values")
        return cls(counts.pop(), {name: float(value.double().sum()) for name, value in values.items()})

    def __add__(self, other: "Means") -> "Means":
        names = {**self.sums, **other.sums}
        return Means(
            self.count + other.count, {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in names}
        )

    def compute(self) -> dict[str, float]:
        """The means.

        Raises:
            ValueError: no picture was counted.
        """
        if not self.count:
            raise ValueError("no picture was counted")
        return {name: total / self.count for name, total in self.sums.items()}


def mse(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of each picture: `(B, C, H, W)` twice to `(B,)`, on the scale of the arguments."""
    return (predicted.double() - true.double()).square().mean(dim=(1, 2, 3))


def psnr(predicted: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB: `(B, 3, H, W)` uint8 twice to `(B,)`.

    Pictures that are equal get 100 dB, a finite stand-in for infinity.
    """
    error = mse(predicted, true).clamp(min=255**2 * 1e-10)
    return 10 * torch.log10(255**2 / error)


def chroma(ab: Tensor) -> Tensor:
    """Mean chroma, sqrt(a*^2 + b*^2), of each picture: `(B, 2, H, W)` to `(B,)`, on the scale of the argument."""
    return ab.double().square().sum(dim=1).sqrt().mean(dim=(1, 2))
