"""Photos -> colour photos, at their own size and with their own lightness."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from koala import color, config, pictures
from koala.checkpoint import load_model
from koala.errors import UserError
from koala.intake import UnusableError, decode
from koala.model import STRIDE, Colorizer
from koala.progress import Progress

SAVE_OPTIONS: dict[str, dict[str, Any]] = {".jpg": {"quality": 95, "subsampling": "4:4:4"}}
"""Pillow's, by the suffix of a coloured photo."""


def colorize(
    photo: NDArray[np.uint8] | str | Path, model: Colorizer, size: int = 0, saturation: float = 1.0
) -> NDArray[np.uint8]:
    """Colour a photo.

    The network works on the grey-scaled photo at its working size; the ab it predicts is brought to the photo's
    size and joined with the photo's own lightness.

    Args:
        photo: `(H, W, 3)` or `(H, W)` uint8 sRGB, or a file's path.
        model: from `load_model`.
        size: short side at which the network works, in pixels; 0 takes the size it was trained at.
        saturation: what the predicted ab is multiplied by.

    Returns:
        `(H, W, 3)` uint8 sRGB.

    Raises:
        UserError: the file cannot be read as a picture.
        ValueError: the array is not of that shape and type.
    """
    array = _read(Path(photo)) if isinstance(photo, str | Path) else photo
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"a photo is (H, W, 3) or (H, W) uint8, got {array.shape} {array.dtype}")
    device = next(model.parameters()).device
    rgb = torch.tensor(array, device=device).permute(2, 0, 1)[None]
    small = _working_size(rgb.shape[-2], rgb.shape[-1], size or model.size)
    ab = saturation * model(_resize(color.to_lightness(rgb, "grey"), small))
    picture = pictures.colored(color.to_lightness(rgb, "color"), _resize(ab, tuple(rgb.shape[-2:])))
    return picture[0].permute(1, 2, 0).cpu().numpy()


def _working_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width for the network: the photo's proportions, in multiples of its stride."""
    scale = short_side / min(height, width)
    return tuple(max(STRIDE, round(length * scale / STRIDE) * STRIDE) for length in (height, width))  # type: ignore[return-value]


def _resize(picture: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)


def _read(path: Path) -> NDArray[np.uint8]:
    """A file's picture, upright, in sRGB."""
    try:
        return np.asarray(decode(path.read_bytes()).convert("RGB"))
    except (UnusableError, OSError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def colorize_command(settings: config.Colorize) -> int:
    """`koala colorize`: colour files and folders of files.

    Returns:
        0 when all were coloured, 1 when some could not be read: each of these is named.
    """
    jobs = list(_jobs(settings.photos, settings.out))
    _check(jobs)
    model = load_model(settings.model, settings.extractor.weights).to(device_for(settings.device))
    model.temperature = settings.temperature or model.temperature
    failed = 0
    with Progress(len(jobs), "colouring", unit="photos") as progress:
        for source, target in jobs:
            try:
                picture = Image.fromarray(colorize(source, model, settings.size))
            except UserError as error:
                progress.say(str(error))
                failed += 1
            else:
                pictures.save(picture, target, **SAVE_OPTIONS.get(target.suffix, {}))
            progress.advance(1)
    print(f"{settings.out}: {len(jobs) - failed} coloured" + (f", {failed} could not be read" if failed else ""))
    return 1 if failed else 0


def _jobs(photos: tuple[Path, ...], out: Path) -> Iterator[tuple[Path, Path]]:
    """Each photo and where its coloured one goes."""
    for photo in photos:
        if photo.is_dir():
            files = sorted(path for path in photo.rglob("*") if path.is_file() and not path.name.startswith("."))
            yield from ((path, out / target_name(path.relative_to(photo))) for path in files)
        else:
            yield photo, out / target_name(Path(photo.name))


def _check(jobs: list[tuple[Path, Path]]) -> None:
    """Refuse to write over a photo, or two photos to one place."""
    if not jobs:
        raise UserError("there is no photo to colour; name photos or folders of photos")
    sources = {source.resolve() for source, _ in jobs}
    seen: dict[Path, Path] = {}
    for source, target in jobs:
        if target.resolve() in sources:
            raise UserError(f"{source} would be written over {target}; choose another --out")
        if target in seen:
            raise UserError(f"{seen[target]} and {source} would both become {target}; colour them one after the other")
        seen[target] = source


def target_name(name: Path) -> Path:
    """What the coloured photo is called: JPEGs stay JPEGs, all others become PNGs."""
    return name.with_suffix(".jpg" if name.suffix.lower() in (".jpg", ".jpeg") else ".png")


def device_for(name: config.Device) -> str:
    """Where a network runs that is not trained."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
