"""Toned photographs (sepia, cyanotypes, faded prints): recognised, and turned back to the greys they were toned from.

In the light parts of a sepia picture red and green are full, and what detail there is lies in blue, which is a ninth
of a fixed grey. A faded picture keeps to the middle of the scale, and so does its fixed grey. Both are undone by asking
the picture: a tone is a line through the colours, from its black to its white, along which each channel stops where it
is empty or full. `gray_conversion` finds that line; where on it a colour lies is its grey.

Pictures are judged by a smaller copy, averaged down to 100 to 500 pixels a side, and turned grey pixel by pixel, so
that large ones can be taken in strips.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from koala.imaging import color

Kind = Literal["grey", "toned", "color"]

NEAR_GREY_AB = 5.0  # |a*| and |b*| up to here do not count as colour: as where Zhang et al. (2016) trained
NEAR_GREY_SHARE = 0.01  # of the pixels may lie beyond: specks, a date, ringing; they allow none

# What is toned has one hue, and in that hue a curve over lightness that its pixels keep to. The last tells a sepia
# print from a brown dog on a brown carpet; that the curve is left by less than lightness varies tells a cyanotype from
# a blue sky. The bounds were set on 600 photographs of ImageNet and on 20 of them in each of nine tones.
TONED_CHROMA = 3.0, 45.0  # mean chroma at least and at most; beyond are red things, not prints
TONED_HUE = 0.95  # |sum of ab| / sum of chroma at least; 1 is a ray from the neutral axis
TONED_CONTRAST = 5.0  # standard deviation of L* at least
TONED_DEVIATION = 0.3, 0.2  # distance of ab from its mean at the same L* (RMS), over mean chroma and contrast, at most
_LIGHTNESS_BIN = 2.0  # of L*, in which that mean is taken
# Seas, skies and snow have one hue, too, and a sky is light where the sea is dark. But theirs is no simple curve. Where
# a tone is blue or green, ab has to be a line over L*, or a parabola with little chroma at black and white.
BLUE_DEVIATION = 0.12  # distance of ab from that curve (RMS), noise apart, over contrast, at most
_END_CHROMA = 1.25  # of a parabola, at black and at white, over mean chroma, at most
_SIDE = 128  # pixels, to which noise and the smears of JPEG are averaged out first
_BORDER_L, _PICTURE_SHARE = 2.0, 0.1  # so near to black or white is border, if so much is left

_EDGE = 0.02  # of a channel's range: so near to its ends it may have stopped
_APART = 0.1  # by which the others have to go on, and one be away from that end, to be sure
_STOPPED_SHARE = 0.002  # of the pixels in which it has to be so
_TAIL = 0.2  # percent of the pixels that may be darker than black, or lighter than white
_SURE_SHARE = 0.05  # of the pixels, in which no channel may have stopped, are enough to find the line
_STILL = 0.1  # of the quickest channel's pace: none is taken to be slower along the line
_FAR = 2.0  # along the line; sRGB measures the root of 3 from corner to corner
_FADED = 0.05  # of the line inside sRGB: so far from its ends a tone's black and white may lie


@dataclass(frozen=True)
class GrayConversion:
    """A way from sRGB to grey: a weighted sum of the channels, then a curve of straight pieces.

    Attributes:
        weights: of red, green and blue; their sum is 1.
        sums: where the curve bends, rising.
        greys: what these sums become, from 0 to 1.
    """

    weights: tuple[float, ...]
    sums: tuple[float, ...] = (0.0, 1.0)
    greys: tuple[float, ...] = (0.0, 1.0)

    def __call__(self, rgb: Tensor) -> Tensor:
        """`(..., 3, H, W)` float in 0..1 to `(..., 1, H, W)`; where there is no bend, greys stay to the last bit."""
        red, green, blue = rgb.split(1, dim=-3)
        total = green + self.weights[0] * (red - green) + self.weights[2] * (blue - green)
        slopes = np.diff(self.greys) / np.diff(self.sums)
        bends = np.diff(slopes, prepend=0.0).tolist()
        grey = torch.zeros_like(total)
        for bend, at in zip(bends, self.sums, strict=False):  # at the last, the curve ends
            grey += bend * (total - at).clamp(min=0)
        return grey.clamp(0, 1)


REC601 = GrayConversion(tuple(color.GREY_FROM_RGB.ravel().tolist()))  # for what is grey, and what is in colour


def classify_tone(thumbnail: NDArray) -> Kind:
    """Tell grey pictures, toned ones and those in colour apart.

    Args:
        thumbnail: `(H, W, 3)` sRGB, uint8 or float in 0..1; the picture, averaged down to 100 to 500 pixels a side.
    """
    lab = color.rgb_to_lab(thumbnail)
    if is_near_grey(lab):
        return "grey"
    return "toned" if is_toned(lab) else "color"


def gray_conversion(thumbnail: NDArray, known: Kind | None = None) -> GrayConversion:
    """How a picture is turned grey: by its own tone where it is toned, by `REC601` where not.

    The line of a tone goes through the mean of the colours, along what they have most in common (their first
    principal component), of pixels in which no channel may have stopped. Black and white are the darkest and the
    lightest pixels, but not further in than `_FADED` from where the line leaves sRGB (by a channel that has not
    stopped): a photo need hold neither.

    Args:
        thumbnail: `(H, W, 3)` sRGB, float in 0..1; as for `classify_tone`.
        known: its kind, where that was asked already.
    """
    return _along_tone(thumbnail) if (known or classify_tone(thumbnail)) == "toned" else REC601


def is_grey(rgb: NDArray[np.uint8]) -> bool:
    """Whether red, green and blue are equal in every pixel of `(H, W, 3)`."""
    return bool((rgb == rgb[..., :1]).all())


def is_near_grey(lab: NDArray) -> bool:
    """Whether hardly a pixel of `(H, W, 3)` L*a*b* has a colour one would notice.

    That is, `|a*|` or `|b*|` is above `NEAR_GREY_AB` in `NEAR_GREY_SHARE` of the pixels at most. The mean chroma would
    not do: a red clock on white paper has less of it than a photograph on yellowed paper.

    References:
        Zhang, Isola and Efros, "Colorful image colorization", ECCV 2016; the bound is that of the NonGrayMaskLayer in
        their training code.
    """
    colored = np.maximum(np.abs(lab[..., 1]), np.abs(lab[..., 2])) > NEAR_GREY_AB
    return bool(colored.mean() <= NEAR_GREY_SHARE)


def is_toned(lab: NDArray) -> bool:
    """Whether `(H, W, 3)` L*a*b* is a toned monochrome: sepia, or a cyanotype's blue, or any other single hue.

    Its ab lies about on one ray from the neutral axis, and how far out depends on L* alone: see `TONED_CHROMA` and the
    constants after it. A black or white border does not count.
    """
    picture = _averaged(lab, _SIDE)
    inner = np.abs(picture[..., 0] - 50) < 50 - _BORDER_L
    counted = inner if inner.mean() > _PICTURE_SHARE else np.ones_like(inner)
    lightness, *ab = picture[counted].T
    chroma, contrast = np.hypot(*ab), lightness.std()
    if not TONED_CHROMA[0] <= chroma.mean() <= TONED_CHROMA[1] or contrast < TONED_CONTRAST:
        return False
    one_hue = np.hypot(*np.sum(ab, axis=1)) >= TONED_HUE * chroma.sum()
    of_chroma, of_contrast = TONED_DEVIATION
    if not one_hue or _deviation(lightness, ab) > min(of_chroma * chroma.mean(), of_contrast * contrast):
        return False
    is_blue_or_green = np.sum(ab) < 0
    return bool(not is_blue_or_green or _follows_simple_curve(picture, counted, BLUE_DEVIATION * contrast))


def _averaged(picture: NDArray, side: int) -> NDArray:
    """`(H, W, C)` made smaller by a whole factor, until no side is longer."""
    factor = -(-max(picture.shape[:2]) // side)
    if factor > min(picture.shape[:2]):
        return picture
    height, width = (length // factor for length in picture.shape[:2])
    cells = picture[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return cells.mean(axis=(1, 3))


def _deviation(lightness: NDArray, ab: list[NDArray]) -> float:
    """RMS distance of ab, two of `(N,)`, from its mean at about the same of `(N,)` lightness."""
    bins = np.maximum(lightness / _LIGHTNESS_BIN, 0).astype(np.int64)
    counts = np.maximum(np.bincount(bins), 1)
    distance = np.hypot(*(axis - (np.bincount(bins, axis) / counts)[bins] for axis in ab))
    return float(np.sqrt(np.square(distance).mean()))


def _follows_simple_curve(lab: NDArray, counted: NDArray, most: float) -> bool:
    """Whether ab is a line over L*, or a parabola that is not far from neutral at its ends.

    Args:
        lab: `(H, W, 3)`.
        counted: `(H, W)`, the pixels that matter.
        most: RMS distance of ab from the curve, noise apart.
    """
    ab, chroma = lab[..., 1:], np.hypot(lab[..., 1], lab[..., 2])[counted].mean()
    for degrees in (np.arange(2), np.arange(3)):
        powers = (lab[..., :1] / 50 - 1) ** degrees
        curve = np.linalg.lstsq(powers[counted], ab[counted], rcond=None)[0]
        ends = np.hypot(*(np.array([[-1.0], [1.0]]) ** degrees @ curve).T)
        is_tone = len(degrees) == 2 or ends.max() <= _END_CHROMA * chroma
        if is_tone and _rms_without_noise(ab - powers @ curve, counted) <= most:
            return True
    return False


def _rms_without_noise(distance: NDArray, counted: NDArray) -> float:
    """RMS of `(H, W, 2)` distances, less what changes from pixel to pixel."""
    across, down = counted[:, 1:] & counted[:, :-1], counted[1:] & counted[:-1]
    steps = np.concatenate([np.diff(distance, axis=1)[across], np.diff(distance, axis=0)[down]])
    noise = np.square(steps).sum(axis=-1).mean() / 2 if len(steps) else 0.0  # neighbours differ by two of it
    return float(np.sqrt(max(np.square(distance[counted]).sum(axis=-1).mean() - noise, 0.0)))


def _along_tone(thumbnail: NDArray) -> GrayConversion:
    """The reduction of a toned picture, `(H, W, 3)` in 0..1."""
    pixels = thumbnail.reshape(-1, 3).astype(np.float64)
    empty, full = pixels < _EDGE, pixels > 1 - _EDGE
    inner = ~(empty.all(axis=1) | full.all(axis=1))  # not a border, of which a tone says nothing
    pixels, empty, full = pixels[inner], empty[inner], full[inner]
    sure = ~(empty | full).any(axis=1)
    middle, axis = _line(pixels[sure] if sure.mean() > _SURE_SHARE else pixels)
    at_0, at_1 = ((end - middle) / axis for end in (0, 1))

    # it has stopped where others go on well beyond its end; at a white that is neutral, the others have caught up
    reach = at_0 + pixels / axis  # how far along the line each channel has got
    beyond_0 = middle + reach.min(axis=1, keepdims=True) * axis < -_APART
    beyond_1 = middle + reach.max(axis=1, keepdims=True) * axis > 1 + _APART
    stopped_at_0 = empty & beyond_0 & (pixels.max(axis=1, keepdims=True) > _APART)
    stopped_at_1 = full & beyond_1 & (pixels.min(axis=1, keepdims=True) < 1 - _APART)
    stops_at_0, stops_at_1 = (stopped.mean(axis=0) > _STOPPED_SHARE for stopped in (stopped_at_0, stopped_at_1))
    bottom, top = np.where(stops_at_0, 0, -np.inf), np.where(stops_at_1, 1, np.inf)
    stops = np.concatenate([at_0[stops_at_0], at_1[stops_at_1]])
    weights = axis / axis.sum()

    def sums(places: NDArray) -> NDArray:
        return (middle + places[:, None] * axis).clip(bottom, top) @ weights

    line = np.unique([-_FAR, *stops[np.abs(stops) < _FAR], _FAR])
    darkest, lightest = np.interp(np.percentile(pixels @ weights, [_TAIL, 100 - _TAIL]), sums(line), line)
    first, last = at_0[~stops_at_0].max(initial=at_0.min()), at_1[~stops_at_1].min(initial=at_1.max())
    black = min(darkest, first + _FADED * (last - first))
    white = max(lightest, last - _FADED * (last - first))
    bends = np.array([black, *line[(line > black) & (line < white)], white])
    return GrayConversion(
        tuple(weights.tolist()), tuple(sums(bends).tolist()), tuple(((bends - black) / (white - black)).tolist())
    )


def _line(pixels: NDArray) -> tuple[NDArray, NDArray]:
    """A point of the line of `(N, 3)` colours, and its direction towards the light ones."""
    axis = np.linalg.eigh(np.cov(pixels.T))[1][:, -1]
    axis = axis * np.sign(axis.sum())
    return pixels.mean(axis=0), np.maximum(axis, _STILL * axis.max())
