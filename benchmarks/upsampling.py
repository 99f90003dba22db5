"""ab brought from a small picture to the photo's size: koala's guided filter against others, on the CPU.

    python benchmarks/upsampling.py PHOTOS [--photos 40] [--megapixels 100]

PHOTOS is a folder of full-size photographs. Each is made small, to several short sides; its colours there, first as
they are (the ideal network) and then blurred to a short side of 32 (a network whose colours bleed), are brought back
in several ways and compared with the photo's own, on every third row and column. "Edges" are the tenth of the pixels
where L* changes most. Below each mean is the share of photos that are nearer to the truth than with bilinear.
CIEDE2000: less is better; PSNR of ab in dB, peak to peak: more is better.

First, a photo of so many megapixels is gone over in strips, and memory and time are measured.
"""

import argparse
import math
import random
import resource
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from koala.evaluation import metrics
from koala.imaging import color, guided_filter

SIDES = (64, 128, 224)  # pixels
BLEEDING = 32  # pixels of the short side
CASES = [(side, bleeding) for bleeding in (False, True) for side in SIDES]
EVERY = 3  # th row and column is compared
STRIP = 256  # rows


def resize(picture: Tensor, size: tuple[int, ...], mode: str = "bilinear") -> Tensor:
    return F.interpolate(picture, tuple(size), mode=mode, antialias=True, align_corners=False)


def small_size(rgb: Tensor, short_side: int) -> tuple[int, ...]:
    return tuple(max(1, round(length * short_side / min(rgb.shape[-2:]))) for length in rgb.shape[-2:])


def lanczos(ab: Tensor, size: tuple[int, ...]) -> Tensor:
    height, width = size
    enlarged = [Image.fromarray(part.numpy()).resize((width, height), Image.Resampling.LANCZOS) for part in ab[0]]
    return torch.from_numpy(np.stack([np.asarray(part) for part in enlarged]))[None]


def fast_guided_filter(small: Tensor, ab: Tensor, lightness: Tensor, radius: int = 2, epsilon: float = 0.003) -> Tensor:
    """He and Sun: the offsets, too, are fitted and smoothed."""

    def smooth(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)

    mean, mean_ab = smooth(small), smooth(ab)
    slope = (smooth(small * ab) - mean * mean_ab) / (smooth(small * small) - mean * mean + epsilon)
    lines = smooth(torch.cat([slope, mean_ab - slope * mean], dim=1))
    slope, offset = resize(lines, lightness.shape[-2:]).chunk(2, dim=1)
    return slope * lightness + offset


def joint_bilateral(small: Tensor, ab: Tensor, lightness: Tensor, near: float = 0.7, alike: float = 0.1) -> Tensor:
    """Kopf, Cohen, Lischinski and Uyttendaele, "Joint bilateral upsampling", SIGGRAPH 2007, over 3 x 3 pixels."""
    places = [
        (torch.arange(large) + 0.5) * length / large - 0.5
        for length, large in zip(small.shape[-2:], lightness.shape[-2:], strict=True)
    ]
    values, weights = torch.zeros(()), torch.full((), 1e-8)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            taps = [place.round() + step for place, step in zip(places, (dy, dx), strict=True)]
            y, x = (tap.clamp(0, n - 1).long() for tap, n in zip(taps, small.shape[-2:], strict=True))
            near_y, near_x = ((tap - place) ** 2 for tap, place in zip(taps, places, strict=True))
            unlike = (lightness - small[:, :, y[:, None], x]) ** 2
            weight = torch.exp(-(near_y[:, None] + near_x) / (2 * near**2) - unlike / (2 * alike**2)) + 1e-8
            values, weights = values + weight * ab[:, :, y[:, None], x], weights + weight
    return values / weights


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "bilinear": lambda small, ab, lightness: resize(ab, lightness.shape[-2:]),
    "bicubic": lambda small, ab, lightness: resize(ab, lightness.shape[-2:], "bicubic"),
    "Lanczos": lambda small, ab, lightness: lanczos(ab, lightness.shape[-2:]),
    "fast guided filter": fast_guided_filter,
    "joint bilateral": joint_bilateral,
    "koala.imaging.guided_filter": lambda small, ab, lightness: guided_filter.apply(
        guided_filter.fit(small, ab), lightness
    ),
}


def seen(values: Tensor) -> Tensor:
    """The pixels that are compared."""
    return values[..., ::EVERY, ::EVERY]


def edges(lightness: Tensor) -> Tensor:
    """1 where lightness changes most, 0 elsewhere, on the pixels that are compared."""
    down = F.pad(lightness[..., 2:, :] - lightness[..., :-2, :], (0, 0, 1, 1))
    right = F.pad(lightness[..., 2:] - lightness[..., :-2], (1, 1))
    change = seen(torch.hypot(down, right))
    return (change >= change.quantile(0.9)).float()


def scores(rgb: Tensor) -> Tensor:
    """Of each case and way CIEDE2000 of the whole picture and at edges and PSNR of both: `(cases, ways, 4)`."""
    lightness, true = color.to_lightness(rgb, "color"), color.to_ab(rgb)
    edge, true_lab = edges(lightness), color.to_lab(seen(lightness), seen(true))
    found = []
    for side, bleeding in CASES:
        size = small_size(rgb, side)
        small_rgb = resize(rgb.float(), size).round().clamp(0, 255).to(torch.uint8)
        small, ab = color.to_lightness(small_rgb, "color"), color.to_ab(small_rgb)
        if bleeding:
            ab = resize(resize(ab, small_size(rgb, BLEEDING)), size)
        for way in WAYS.values():
            brought = seen(way(small, ab, lightness))
            delta = metrics.ciede2000(color.to_lab(seen(lightness), brought), true_lab)[:, None]
            errors = [metrics.mse(brought, seen(true), weight).item() for weight in (None, edge)]
            found.append([metrics.mean(delta, weight).item() for weight in (None, edge)])
            found[-1] += [10 * math.log10(4 / max(error, 1e-10)) for error in errors]
    return torch.tensor(found, dtype=torch.float64).view(len(CASES), len(WAYS), 4)


def photographs(folder: Path) -> Iterator[Tensor]:
    """The folder's colour photographs that are larger than what they are made small to, in a random order."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    random.Random(0).shuffle(files)
    for path in files:
        with Image.open(path) as photo:
            if photo.mode == "RGB" and min(photo.size) > max(SIDES):
                yield torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]


def table(measured: Tensor) -> None:
    """Print the means of `(photos, ways, 4)` scores and the shares of photos that are better than bilinear's."""
    signs = torch.tensor([-1, -1, 1, 1])  # of better
    better = ((measured - measured[:, :1]) * signs > 0).double().mean(0)
    for name, means, shares in zip(WAYS, measured.mean(0), better, strict=True):
        print(f"  {name:20}" + "".join(f"{mean:9.3f}" for mean in means))
        print(f"  {'':20}" + "".join(f"{100 * share:8.0f}%" for share in shares))


def quality(measured: Tensor) -> None:
    """Print a table for each case of `(photos, cases, ways, 4)` scores."""
    for (side, bleeding), values in zip(CASES, measured.unbind(1), strict=True):
        print(f"\n{len(values)} photos, short side {side}, " + (f"ab blurred to {BLEEDING}" if bleeding else "true ab"))
        print(f"  {'':20}{'CIEDE2000':>9}{'edges':>9}{'PSNR':>9}{'edges':>9}")
        table(values)


def cost(megapixels: int) -> None:
    """Memory and CPU seconds of a photo of 3:2 in strips, the reading and writing of which is not counted."""
    height = round(math.sqrt(megapixels * 1e6 / 1.5))
    width = round(1.5 * height)
    row = torch.linspace(-1, 1, width).expand(1, 1, STRIP, width).contiguous()
    small = torch.rand(1, 1, 224, 336) * 2 - 1
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    lines = guided_filter.fit(small, torch.rand(1, 2, 224, 336) - 0.5)
    for top in range(0, height, STRIP):
        guided_filter.apply(lines, row[..., : min(STRIP, height - top), :], top, height)
    seconds = time.process_time() - began
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{width} x {height} in strips of {STRIP} rows: {seconds:.1f} CPU seconds, {more:.0f} MB more memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--photos", type=int, default=40, dest="count")
    parser.add_argument("--megapixels", type=int, default=100)
    arguments = parser.parse_args()
    cost(arguments.megapixels)
    quality(torch.stack([scores(rgb) for rgb in islice(photographs(arguments.photos), arguments.count)]))


if __name__ == "__main__":
    main()
