"""Pictures made of predictions: colours from lightness and ab, contact sheets, files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from koala.core.atomic_io import write_atomic
from koala.imaging import color

_GAP = 4  # pixels between the pictures of a sheet
_HEADER = 20  # pixels for the names of its columns


def to_uint8(rgb: Tensor) -> Tensor:
    """Colours in 0..1 as uint8, rounded to the nearest."""
    return (rgb * 255).round().to(torch.uint8)


def out_of_gamut(rgb: Tensor) -> Tensor:
    """Where unclipped colours leave 0..1 by more than half a level of 8 bits: `(B, 3, H, W)` to `(B, 1, H, W)`."""
    return ((rgb - rgb.clamp(0, 1)).abs() > 0.5 / 255).any(dim=1, keepdim=True)


def ab_to_rgb(lightness: Tensor, ab: Tensor) -> Tensor:
    """`(..., 1, H, W)` lightness and `(..., 2, H, W)` ab on the network's scale to `(..., 3, H, W)` uint8 sRGB."""
    return to_uint8(color.lab_to_rgb(color.to_lab(lightness.float(), ab.float())))


def lightness_to_rgb(lightness: Tensor) -> Tensor:
    """`(..., 1, H, W)` lightness to `(..., 3, H, W)` uint8 greys."""
    return ab_to_rgb(lightness, lightness.new_zeros(*lightness.shape[:-3], 2, *lightness.shape[-2:]))


def triptychs(lightness: Tensor, predicted: Tensor, true: Tensor) -> NDArray[np.uint8]:
    """Grey, predicted and true colours side by side, for `grid`.

    Args:
        lightness: `(B, 1, H, W)` on the network's scale.
        predicted: `(B, 2, H, W)` ab on the network's scale.
        true: likewise, or the photos themselves, `(B, 3, H, W)` uint8.

    Returns:
        `(3, B, H, W, 3)`.
    """
    original = true if true.shape[1] == 3 else ab_to_rgb(lightness, true)
    columns = torch.stack([lightness_to_rgb(lightness), ab_to_rgb(lightness, predicted), original])
    return columns.permute(0, 1, 3, 4, 2).cpu().numpy()


def grid(columns: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay `(columns, rows, H, W, 3)` pictures out as one `(height, width, 3)` picture on white."""
    framed = np.pad(columns, [(0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)], constant_values=255)
    rows = framed.transpose(1, 2, 0, 3, 4)  # rows, H, columns, W, 3
    return rows.reshape(rows.shape[0] * rows.shape[1], -1, 3)[:-_GAP, :-_GAP]


def contact_sheet(columns: NDArray[np.uint8], names: Sequence[str]) -> Image.Image:
    """A sheet with the columns' names above them; see `grid`."""
    body = grid(columns)
    sheet = Image.new("RGB", (body.shape[1], body.shape[0] + _HEADER), "white")
    sheet.paste(Image.fromarray(body), (0, _HEADER))
    draw = ImageDraw.Draw(sheet)
    for x, name in enumerate(names):
        draw.text((x * (columns.shape[-2] + _GAP) + 2, 4), name, fill="black")
    return sheet


def split_contact_sheet(sheet: Image.Image, columns: int) -> NDArray[np.uint8]:
    """The square pictures of a contact sheet, `(columns, rows, H, H, 3)`: what `contact_sheet` was given."""
    side = (sheet.width + _GAP) // columns - _GAP
    body = np.asarray(sheet.convert("RGB"))[_HEADER:]
    framed = np.pad(body, [(0, _GAP), (0, _GAP), (0, 0)])
    rows = framed.reshape(-1, side + _GAP, columns, side + _GAP, 3)[:, :side, :, :side]
    return rows.transpose(2, 0, 1, 3, 4)


def save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Write an image file so that it is there whole or not at all; its suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode_image(image, path.suffix, **options), durable=False)


def encode_image(image: Image.Image, suffix: str, **options: Any) -> bytes:
    """The bytes of an image file whose name ends so."""
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[suffix.lower()], **options)
    return buffer.getvalue()
