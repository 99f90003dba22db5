"""Toned photographs: are they recognised, and is their grey nearer to the one they were toned from than a fixed grey?

    python benchmarks/toning.py PHOTOS [--photos 48] [--side 256]

Photos of a folder are turned grey, and toned by each of several tones, with noise of 2 levels; once as they are and
once through a JPEG of quality 85. A line each compares Rec. 601's grey and the tone's own with the true one: SSIM,
PSNR in dB, and how far differences between neighbouring pixels correlate with the true ones. The last column is the
share of photos whose SSIM gained. The second table is what pictures are taken for, the photos themselves among them;
"as they are" is all photos of the folder, some of which are grey or toned. The third is how far the colours that koala
gives to toned photos are from the photos' own, CIEDE2000 over all pixels, with either grey.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import koala
from koala.imaging import toning
from koala.models.network import Colorizer

sys.path.insert(0, str(Path(__file__).parents[1]))  # some packages install a "tests" of their own
from tests.photographs import SEPIA_FILTER, TONES, toned

QUALITIES = {0: "lossless", 85: "JPEG 85"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos_folder", type=Path, metavar="PHOTOS")
    parser.add_argument("--photos", type=int, default=48)
    parser.add_argument("--side", type=int, default=256)
    options = parser.parse_args()
    files = sorted(path for path in options.photos_folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = [files[at] for at in np.linspace(0, len(files) - 1, options.photos).astype(int)]
    greys = [np.asarray(opened(path, "L", options.side)) for path in chosen]
    kinds = {}
    print(f"{len(greys)} photos  Rec. 601: SSIM  PSNR  edges   own tone: SSIM  PSNR  edges   gained", flush=True)
    for name in (SEPIA_FILTER[0], *TONES):
        for quality, said in QUALITIES.items():
            pictures = [toned(grey, name, quality) for grey in greys]
            kinds[f"{name}, {said}"] = Counter(toning.classify_tone(picture) for picture in pictures)
            scores = np.array([compare(*pair) for pair in zip(pictures, greys, strict=True)])
            fixed, own = scores.mean(axis=0)
            gained = (scores[:, 1, 0] > scores[:, 0, 0]).mean()
            cells = "   ".join("{:.4f} {:.2f} {:.4f}".format(*means) for means in (fixed, own))
            print(f"{name + ', ' + said:26} {cells}   {gained:.2f}", flush=True)
    kinds["as they are"] = Counter()
    for path in files:
        found = toning.classify_tone(np.asarray(opened(path, "RGB", options.side)))
        kinds["as they are"][found] += 1
        if found != "color":
            print(found, path.name, flush=True)
    print(f"\n{'':26} {'grey':>6} {'toned':>6} {'color':>6}")
    for name, count in kinds.items():
        print(f"{name:26} {count['grey']:6} {count['toned']:6} {count['color']:6}")

    print(f"\n{'CIEDE2000 to the photo':26} Rec. 601   own tone")
    model = koala.load_model()
    originals = [np.asarray(opened(path, "RGB", options.side)) for path in chosen]
    pairs = list(zip(originals, greys, strict=True))
    for name in (SEPIA_FILTER[0], *TONES):
        fixed, own = np.mean([colors(model, pair[0], toned(pair[1], name, 85)) for pair in pairs], axis=0)
        print(f"{name:26} {fixed:8.2f} {own:10.2f}", flush=True)


def colors(model: Colorizer, original: np.ndarray, picture: np.ndarray) -> tuple[float, float]:
    """How far a toned photo's new colours are from the original's, turned grey by Rec. 601 and by its own tone."""
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    ways = (koala.colorize(grey, model), koala.colorize(picture, model, recolor=True))
    return tuple(deltaE_ciede2000(rgb2lab(original), rgb2lab(made)).mean() for made in ways)


def opened(path: Path, mode: str, side: int) -> Image.Image:
    with Image.open(path) as image:
        image.draft(mode, (side, side))
        picture = image.convert(mode)
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return picture


def compare(picture: np.ndarray, grey: np.ndarray) -> list[tuple[float, float, float]]:
    """SSIM, PSNR and the correlation of edges, of Rec. 601's grey and of the tone's own."""
    true = (grey / 255).astype(np.float32)
    thumbnail = (picture / 255).astype(np.float32)
    rgb = torch.from_numpy(thumbnail).permute(2, 0, 1)
    return [score(way(rgb)[0].numpy(), true) for way in (toning.REC601, toning.gray_conversion(thumbnail))]


def score(made: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    edges = np.corrcoef(np.diff(made).ravel(), np.diff(true).ravel())[0, 1]
    return structural_similarity(made, true, data_range=1.0), peak_signal_noise_ratio(true, made, data_range=1.0), edges


if __name__ == "__main__":
    main()
