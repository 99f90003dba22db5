"""Small photographs, made here."""

import io

import numpy as np
from PIL import Image


def make_photo(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """A smooth, colourful picture: random colours on a coarse grid, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()
