"""How much nearer to the truth photos come with each true hint.

    python benchmarks/hints.py SOURCE [--model MODEL] [--count 100] [--preset NAME]

SOURCE is a folder, tar or zip of photos in colour. Each is made small (short side 256), coloured with 0, 1, 2, 5, 10
and 20 dabs of its own colours at places drawn at random, the same for every number, and compared by CIEDE2000.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

import koala
from koala.core.progress import Progress
from koala.data.sources import list_source
from koala.imaging import photo_io

NUMBERS = (0, 1, 2, 5, 10, 20)
SIDE = 256
DAB = 7  # pixels a side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--preset", default="")
    given = parser.parse_args()
    model = koala.load_model(given.model)
    photos = list(read_photos(given.source, given.count))
    errors = np.empty((len(photos), len(NUMBERS)))
    with Progress(len(photos), "colouring", unit="photos") as progress:
        for row, photo in zip(errors, photos, strict=True):
            row[:] = [error(photo, hinted(photo, number, model, given.preset)) for number in NUMBERS]
            progress.advance(1)
    grey = np.mean([error(photo, np.asarray(Image.fromarray(photo).convert("L").convert("RGB"))) for photo in photos])
    print(f"{len(photos)} photos, short side {SIDE}, CPU; grey: CIEDE2000 {grey:.2f}")
    print("| true hints | CIEDE2000 | nearer than without |\n|---|---|---|")
    for number, column in zip(NUMBERS, errors.T, strict=True):
        nearer = f"{100 * (column < errors[:, 0]).mean():.0f} %" if number else ""
        print(f"| {number} | {column.mean():.2f} ± {1.96 * column.std() / len(column) ** 0.5:.2f} | {nearer} |")


def read_photos(source: Path, count: int):
    """Photos spread evenly over a source, made small."""
    images = list_source(source).images
    for item in images[:: max(1, len(images) // count)][:count]:
        photo = Image.fromarray(photo_io.decode_photo(item.read()).pixels)
        scale = SIDE / min(photo.size)
        size = [round(length * scale) for length in photo.size]
        yield np.asarray(photo.resize(size, Image.Resampling.BICUBIC))


def hinted(photo: np.ndarray, number: int, model: koala.PretrainedColorizer, preset: str) -> np.ndarray:
    """A photo coloured with so many dabs of its own colours."""
    random = np.random.default_rng(0)
    dabs = np.zeros((*photo.shape[:2], 4), np.uint8)
    for _ in range(number):
        top, left = (random.integers(length - DAB) for length in photo.shape[:2])
        square = slice(top, top + DAB), slice(left, left + DAB)
        dabs[square] = (*photo[square].mean(axis=(0, 1)).round(), 255)
    return koala.colorize(photo, model, recolor=True, hints=dabs if number else None, preset=preset)


def error(photo: np.ndarray, colored: np.ndarray) -> float:
    return deltaE_ciede2000(rgb2lab(photo), rgb2lab(colored)).mean()


if __name__ == "__main__":
    main()
