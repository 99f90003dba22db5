"""Colouring photos: koala against the plain loop that its users would otherwise write.

    python benchmarks/colorize.py PHOTOS [--model RUN] [--count 100] [--rounds 3]

PHOTOS is a folder of photographs, whose first 100 are coloured anew in each round. Both ways begin with a file and end
with one: decode, grey, network, full size, encode; the loop does it with Pillow and scikit-image, one photo after the
other, with the same network at the same working size. The last line is the ratio of photos per second.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side_by_side import measure, ratio, report
from skimage.color import gray2rgb, lab2rgb, rgb2lab
from skimage.transform import resize

from koala.config.inference import ColorizeSettings
from koala.inference import batch
from koala.models.network import Colorizer
from koala.models.pretrained import load_model

KOALA, LOOP = "koala colorize", "Pillow and scikit-image in a loop"


def koalas_way(photos: Path, out: Path, model: Path | None) -> Callable[[], int]:
    settings = ColorizeSettings((photos,), out, model, recolor=True, overwrite=True)

    def color_all() -> int:
        assert batch.colorize_command(settings) == 0
        return sum(path.is_file() for path in out.rglob("*"))

    return color_all


def plain_loop(files: list[Path], out: Path, model: Path | None) -> Callable[[], int]:
    def color_all() -> int:
        network = load_model(model)
        for path in files:
            Image.fromarray(color(np.asarray(Image.open(path).convert("RGB")), network)).save(
                out / f"{path.stem}.jpg", quality=95, subsampling="4:4:4"
            )
        return len(files)

    return color_all


def color(rgb: np.ndarray, network: Colorizer) -> np.ndarray:
    """One photo, `(H, W, 3)` uint8 in and out."""
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    scale, stride = network.size / min(grey.shape), network.network.stride
    working = [max(stride, round(length * scale / stride) * stride) for length in grey.shape]
    lightness = resize(rgb2lab(gray2rgb(grey))[..., 0], working, anti_aliasing=True) / 50 - 1
    ab = network(torch.tensor(lightness, dtype=torch.float32)[None, None])[0].permute(1, 2, 0).numpy() * 127
    lab = np.dstack([rgb2lab(rgb)[..., 0], resize(ab, rgb.shape[:2], order=1)])
    return (lab2rgb(lab) * 255).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.photos.rglob("*") if path.is_file())[: arguments.count]
    with tempfile.TemporaryDirectory() as folder:
        photos, ours, theirs = (Path(folder) / name for name in ("photos", "koala", "loop"))
        photos.mkdir()
        theirs.mkdir()
        for number, path in enumerate(files):
            shutil.copy(path, photos / f"{number:06d}{path.suffix}")
        ways = {
            KOALA: koalas_way(photos, ours, arguments.model),
            LOOP: plain_loop(sorted(photos.iterdir()), theirs, arguments.model),
        }
        rates = measure(ways, arguments.rounds)
    print(f"colouring {len(files)} photographs on {torch.get_num_threads()} cores")
    report(rates)
    print(f"colouring ratio {ratio(rates, KOALA, LOOP):.2f}")


if __name__ == "__main__":
    main()
