"""Metrics: what is measured of each picture, and what is measured of all of them together.

Of each picture there is one number, so that every picture counts the same whatever batch it came in: `mse`, `psnr`,
`ssim`, `ciede2000`, `chroma`, `koala.imaging.color.colorfulness`. Of all of them there are sums in float64 that
processes add together, `Moments` and `Histograms`: the empty one is neutral, `of` measures a part, `+` joins parts,
`compute` ends.

Shapes: B pictures of C channels and H x W pixels. Where pictures are given a `weight`, `(B, 1, H, W)`, it says how much
each pixel counts; None lets all count the same.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from koala.imaging import hues
from koala.imaging.device_constants import constant

SSIM_WINDOW = 11  # pixels
_FLAT = 0.99  # of tanh: its slope is 0.02 from here on
_SSIM_SIGMA = 1.5
_HUE_BINS, _CHROMA_BINS, CHROMA_STEP = 36, 60, 2.0
_LEAST_CHROMA_OF_A_HUE = 5.0  # what is nearer to grey has no hue one would see
_KERNEL_ROWS = 500  # of a kernel are in memory at a time
_EVERY = 4  # th row and column of pixels is counted in histograms

# ---------------------------------------------------------------- of each picture


def mse(predicted: Tensor, true: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of each picture: `(B, C, H, W)` twice to `(B,)`, on the scale of the arguments."""
    return mean((predicted.float() - true.float()).square(), weight)


def psnr(predicted: Tensor, true: Tensor, weight: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB: `(B, 3, H, W)` uint8 twice to `(B,)`.

    Pictures that are equal get 100 dB, a finite stand-in for infinity.
    """
    error = mse(predicted, true, weight).clamp(min=255**2 * 1e-10)
    return 10 * torch.log10(255**2 / error)


def ssim(predicted: Tensor, true: Tensor, weight: Tensor | None = None) -> Tensor:
    """Structural similarity of each picture: `(B, 3, H, W)` uint8 twice to `(B,)`, the mean over the three channels.

    Windows are those that lie within the picture and have no pixel of no weight; a picture in which there is none
    counts with all its windows.

    Raises:
        ValueError: the pictures are smaller than a window.

    References:
        Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
        similarity", IEEE Transactions on Image Processing 13 (2004): a Gaussian window of 11 x 11 pixels with
        sigma 1.5, K1 = 0.01, K2 = 0.03.
    """
    height, width = predicted.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"structural similarity needs {SSIM_WINDOW} pixels or more a side, got {height} x {width}")
    # around the middle of the range, so that the differences of squares below keep their digits in float32
    x, y = (picture.float() - 127.5 for picture in (predicted, true))
    maps = torch.cat([x, y, x * x + y * y, x * y], dim=1)
    blurred = _blurred(maps.contiguous(memory_format=torch.channels_last))
    # maps first: the arithmetic that follows is several times as quick on what lies together
    x_mean, y_mean, squares, product = blurred.transpose(0, 1).contiguous().chunk(4)
    covariance = product - x_mean * y_mean
    variances = squares - x_mean * x_mean - y_mean * y_mean
    x_mean, y_mean = x_mean + 127.5, y_mean + 127.5
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * x_mean * y_mean + c1) * (2 * covariance + c2)
    similarity = similarity / ((x_mean * x_mean + y_mean * y_mean + c1) * (variances + c2))
    return mean(similarity.transpose(0, 1), None if weight is None else _whole_windows(weight))


def _blurred(maps: Tensor) -> Tensor:
    """`(B, N, H, W)` to `(B, N, H - 10, W - 10)`: means under the Gaussian window, one axis after the other.

    On the CPU this is several times as quick with the maps last in memory.
    """
    count = maps.shape[1]
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=maps.device) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    window = (window / window.sum()).to(maps.dtype)
    maps = F.conv2d(maps, window.view(1, 1, -1, 1).repeat(count, 1, 1, 1), groups=count)
    return F.conv2d(maps, window.view(1, 1, 1, -1).repeat(count, 1, 1, 1), groups=count)


def _whole_windows(weight: Tensor) -> Tensor:
    """1 where a window has no pixel of no weight; 1 everywhere for a picture without such a window."""
    empty = (weight == 0).float()
    for window in ((SSIM_WINDOW, 1), (1, SSIM_WINDOW)):  # one axis after the other
        empty = F.max_pool2d(empty, window, stride=1)
    whole = 1 - empty
    return torch.where(whole.sum(dim=(2, 3), keepdim=True) > 0, whole, torch.ones_like(whole))


def mean_ab(ab: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean colour of each picture: `(B, 2, H, W)` to `(B, 2)` float64, on the scale of the argument."""
    return torch.stack([mean(channel, weight) for channel in ab.split(1, dim=1)], dim=1)


def chroma(ab: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean chroma, sqrt(a*^2 + b*^2), of each picture: `(B, 2, H, W)` to `(B,)`, on the scale of the argument."""
    return mean(torch.hypot(ab[:, :1], ab[:, 1:]), weight)


def saturated(ab: Tensor, weight: Tensor | None = None) -> Tensor:
    """Share of each picture's ab at the end of the network's scale, where tanh is flat: `(B, 2, H, W)` to `(B,)`."""
    return mean((ab.abs() > _FLAT).float(), weight)


def mean_ciede2000(predicted: Tensor, true: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean colour difference of each picture: `(B, 3, H, W)` L*a*b* twice to `(B,)`."""
    return mean(ciede2000(predicted, true)[:, None], weight)


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """Colour difference as it is seen: `(..., 3, H, W)` L*a*b* twice to `(..., H, W)`; about 1 is just noticed.

    References:
        CIE 142-2001; Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula: implementation notes,
        supplementary test data, and mathematical observations", Color Research and Application 30 (2005), whose
        equations the comments name.
    """
    (l1, a1, b1), (l2, a2, b2) = first.unbind(-3), second.unbind(-3)
    circle = 2 * math.pi
    stretch = 1.5 - 0.5 * _seventh_power_share((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)  # 1 + G, (4)
    a1, a2 = a1 * stretch, a2 * stretch  # (5)
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)  # (6)
    h1, h2 = _angle(b1, a1), _angle(b2, a2)  # (7)

    dl, dc, turn = l2 - l1, c2 - c1, h2 - h1  # (8), (9)
    turn = turn - circle * torch.round(turn / circle)  # the shorter way round, (10)
    dh = 2 * torch.sqrt(c1 * c2) * torch.sin(turn / 2)  # (11)
    lightness, c = (l1 + l2) / 2, (c1 + c2) / 2  # (12), (13)
    h = h1 + turn / 2  # (14), where a colour without hue makes no difference
    h = h - circle * torch.floor(h / circle)

    t = (  # (15)
        1
        - 0.17 * torch.cos(h - math.radians(30))
        + 0.24 * torch.cos(2 * h)
        + 0.32 * torch.cos(3 * h + math.radians(6))
        - 0.20 * torch.cos(4 * h - math.radians(63))
    )
    rotation = math.radians(30) * torch.exp(-((h - math.radians(275)) / math.radians(25)).square())  # (16)
    r_t = -2 * torch.sin(2 * rotation) * _seventh_power_share(c)  # (17), (21)
    from_middle = (lightness - 50).square()
    dl = dl / (1 + 0.015 * from_middle / torch.sqrt(20 + from_middle))  # over S_L, (18)
    dc = dc / (1 + 0.045 * c)  # over S_C, (19)
    dh = dh / (1 + 0.015 * c * t)  # over S_H, (20)
    return torch.sqrt((dl.square() + dc.square() + dh.square() + r_t * dc * dh).clamp(min=0))  # (22)


def _seventh_power_share(chroma: Tensor) -> Tensor:
    """sqrt(C^7 / (C^7 + 25^7))."""
    squared = (chroma / 25).square()
    seventh = squared * squared * squared * chroma / 25
    return torch.sqrt(seventh / (seventh + 1))


def _angle(b: Tensor, a: Tensor) -> Tensor:
    """The angle of `(a, b)` in 0..2 pi; 0 for (0, 0)."""
    angle = torch.atan2(b, a)
    return angle + 2 * math.pi * (angle < 0).to(angle.dtype)


def mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted mean of each picture, in float64: `(B, C, H, W)` to `(B,)`."""
    if weight is None:
        return values.mean(dim=(1, 2, 3), dtype=torch.float64)
    weighted = (values * weight).sum(dim=(1, 2, 3), dtype=torch.float64)
    return weighted / (weight.sum(dim=(1, 2, 3), dtype=torch.float64) * values.shape[1])


# ---------------------------------------------------------------- of all pictures: colours


@dataclass(frozen=True)
class Histograms:
    """How often each hue and each chroma occurs in pictures, counted on every fourth row and column of pixels.

    Attributes:
        hue: `(36,)` pixels in each 10 degrees of hue, those with a chroma of 5 or more.
        chroma: `(60,)` pixels in each 2 units of chroma; the last holds all beyond.
        named: `(8,)` coloured pixels in each of `koala.imaging.hues.HUES`.
    """

    hue: NDArray[np.float64]
    chroma: NDArray[np.float64]
    named: NDArray[np.float64]

    @classmethod
    def empty(cls) -> "Histograms":
        """Of no picture."""
        return cls(np.zeros(_HUE_BINS), np.zeros(_CHROMA_BINS), np.zeros(len(hues.HUES)))

    @classmethod
    def of(cls, lab: Tensor, weight: Tensor | None = None) -> "Histograms":
        """Of `(B, 3, H, W)` L*a*b*; pixels of no weight are not counted."""
        a, b = lab[:, 1, ::_EVERY, ::_EVERY].flatten(), lab[:, 2, ::_EVERY, ::_EVERY].flatten()
        if weight is not None:
            counted = weight[:, 0, ::_EVERY, ::_EVERY].flatten() > 0
            a, b = a[counted], b[counted]
        chroma, angle = torch.hypot(a, b), _angle(b, a)
        hue = (angle * (_HUE_BINS / (2 * math.pi))).long() % _HUE_BINS
        borders = constant(np.radians(hues.BORDERS), angle.dtype, angle.device)
        named = (torch.bucketize(angle, borders, right=True) - 1) % len(hues.HUES)
        counts = (
            torch.bincount(hue[chroma >= _LEAST_CHROMA_OF_A_HUE], minlength=_HUE_BINS),
            torch.bincount((chroma / CHROMA_STEP).long().clamp(max=_CHROMA_BINS - 1), minlength=_CHROMA_BINS),
            torch.bincount(named[chroma > hues.COLORED], minlength=len(hues.HUES)),
        )
        return cls(*(count.double().cpu().numpy() for count in counts))

    def __add__(self, other: "Histograms") -> "Histograms":
        return Histograms(self.hue + other.hue, self.chroma + other.chroma, self.named + other.named)

    def compute(self) -> dict[str, NDArray[np.float64]]:
        """Shares of the counted pixels, `hue`, `chroma` and `named`; zeros where there was none."""
        counts = {"hue": self.hue, "chroma": self.chroma, "named": self.named}
        return {name: count / max(count.sum(), 1) for name, count in counts.items()}


# ---------------------------------------------------------------- of all pictures: features


@dataclass(frozen=True)
class Moments:
    """Sums of features and of their outer products: what a Frechet distance needs.

    Attributes:
        count: pictures.
        total: `(D,)` sums.
        products: `(D, D)` sums of outer products.
    """

    count: int
    total: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def empty(cls, size: int) -> "Moments":
        """Of no picture, D = `size`."""
        return cls(0, np.zeros(size), np.zeros((size, size)))

    @classmethod
    def of(cls, features: NDArray) -> "Moments":
        """Of `(N, D)` features."""
        features = features.astype(np.float64)
        return cls(len(features), features.sum(axis=0), features.T @ features)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    def compute(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean `(D,)` and covariance `(D, D)`, the latter over count - 1.

        Raises:
            ValueError: there are less than two pictures.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two pictures, got {self.count}")
        mean = self.total / self.count
        return mean, (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Squared Frechet distance between the normal distributions that have these moments.

    References:
        Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs trained by a two time-scale update rule converge
        to a local Nash equilibrium", NeurIPS 2017.
    """
    (mean_1, cov_1), (mean_2, cov_2) = first.compute(), second.compute()
    root = _root(cov_1)
    # the trace of the root of cov_1 cov_2, which has the eigenvalues of this symmetric matrix
    values = np.linalg.eigvalsh(root @ cov_2 @ root)
    trace = np.sqrt(values.clip(min=0)).sum()
    return float(np.square(mean_1 - mean_2).sum() + np.trace(cov_1) + np.trace(cov_2) - 2 * trace)


def _root(matrix: NDArray) -> NDArray:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def kernel_distance(first: NDArray, second: NDArray) -> float:
    """Squared maximum mean discrepancy under the kernel (x y / D + 1)^3, without bias: `(N, D)` twice.

    Over all pairs of pictures: what the usual mean over random subsets estimates.

    References:
        Binkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", ICLR 2018.
    """
    m, n = len(first), len(second)
    among_first, among_second = (_kernel_sum(x, x) - _kernel_sum_of_each(x) for x in (first, second))
    return float(among_first / (m * (m - 1)) + among_second / (n * (n - 1)) - 2 * _kernel_sum(first, second) / (m * n))


def _kernel_sum(first: NDArray, second: NDArray) -> float:
    """The kernel's sum over all pairs, some rows at a time."""
    scaled = second.T.astype(np.float64) / second.shape[1]
    rows = (first[start : start + _KERNEL_ROWS].astype(np.float64) for start in range(0, len(first), _KERNEL_ROWS))
    return sum(float(((block @ scaled + 1) ** 3).sum()) for block in rows)


def _kernel_sum_of_each(features: NDArray) -> float:
    """The kernel's sum over the pairs of each with itself."""
    return float(((np.square(features, dtype=np.float64).sum(axis=1) / features.shape[1] + 1) ** 3).sum())
