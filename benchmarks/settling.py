"""How much nearer colours come to the truth when they keep to things and faint ones fade (koala.inference.settle).

    python benchmarks/settling.py PHOTOS [--model MODEL] [--count 100]

PHOTOS is a folder, tar or zip of photos in colour. Each is made small (short side 256) and coloured in each of the
model's presets, with the colours as they are predicted and as koala paints them. CIEDE2000 over all pixels, its
difference with a 95 % interval over photos, the squared error of ab at the best saturation over all photos as a share
of grey's, and the share of photos that are nearer.
"""

import argparse
from pathlib import Path
from unittest import mock

import numpy as np
from hints import error, read_photos
from numpy.typing import NDArray
from skimage.color import rgb2lab

import koala
from koala.core.progress import Progress
from koala.evaluation import scoring
from koala.inference import colorize
from koala.models.network import Colorizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--count", type=int, default=100)
    given = parser.parse_args()
    model = koala.load_model(given.model)
    photos = list(read_photos(given.photos, given.count))
    presets = list(model.presets) or [""]
    measured = {preset: np.empty((len(photos), 2, 4)) for preset in presets}
    with Progress(len(photos), "colouring", unit="photos") as progress:
        for number, photo in enumerate(photos):
            for preset, values in measured.items():
                values[number] = both(photo, model, preset)
            progress.advance(1)
    print(f"{len(photos)} photos, short side 256, CPU")
    print("| preset | colours | CIEDE2000 | squared error, of grey's | nearer |\n|---|---|---|---|---|")
    for preset, values in measured.items():
        (before, after), (left_before, left_after) = (
            values[:, :, 0].T,
            (unexplained(way) for way in values.swapaxes(0, 1)),
        )
        change = after - before
        spread = 1.96 * change.std() / len(change) ** 0.5
        print(f"| {preset} | as predicted | {before.mean():.2f} | {left_before:.3f} | |")
        print(
            f"| {preset} | settled | {after.mean():.2f} ({change.mean():+.2f} ± {spread:.2f}) | {left_after:.3f} "
            f"| {100 * (change < 0).mean():.0f} % |"
        )


def both(photo: NDArray, model: Colorizer, preset: str) -> list[tuple[float, ...]]:
    """Measures of a photo whose colours are as predicted, and of it as koala paints it."""
    with mock.patch.object(colorize, "settle", lambda lightness, ab, *_: ab):
        predicted = koala.colorize(photo, model, recolor=True, preset=preset)
    return [
        measures(photo, colored) for colored in (predicted, koala.colorize(photo, model, recolor=True, preset=preset))
    ]


def measures(photo: NDArray, colored: NDArray) -> tuple[float, ...]:
    """CIEDE2000, the squared error of ab, and the mean squares of found and of true ab."""
    true, found = (rgb2lab(pixels)[..., 1:] for pixels in (photo, colored))
    return error(photo, colored), ((found - true) ** 2).mean(), (found**2).mean(), (true**2).mean()


def unexplained(values: NDArray) -> float:
    """The squared error that the best factor leaves, as a share of grey's."""
    _, mse, power, true_power = values.mean(axis=0)
    return scoring.best_factor(mse, power, true_power)[1] / true_power


if __name__ == "__main__":
    main()
