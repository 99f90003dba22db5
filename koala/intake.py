"""What may enter a shard: upright baseline or progressive JPEGs, RGB or grey, that decode to the end.

Bytes that are so already are taken as they are. Other pictures are turned into such a JPEG, in 4:4:4 because
chroma is what the network learns, and what was done is said. What cannot be decoded is refused.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, ImageOps

from koala.config import Resize

_ORIENTATION = 0x0112  # EXIF tag; 1 is upright


class UnusableError(Exception):
    """A file that cannot enter a shard, and why."""


@dataclass(frozen=True)
class Admitted:
    """A picture as it enters a shard.

    Attributes:
        jpeg: the bytes.
        height: of the stored picture, in pixels.
        width: of the stored picture, in pixels.
        source_height: of the picture as it was found, upright.
        source_width: of the picture as it was found, upright.
        changes: what was done to it; empty when the bytes are the source's own.
    """

    jpeg: bytes
    height: int
    width: int
    source_height: int
    source_width: int
    changes: tuple[str, ...]


def admit(data: bytes, resize: Resize) -> Admitted:
    """Make of a file's bytes what a shard may hold.

    Raises:
        UnusableError: the bytes are no picture, or not a whole one.
    """
    image = _open(data)
    changes = list(_needed_changes(image))
    upright = _upright(image)
    size = _target_size(upright.size, resize)
    if size != upright.size:
        changes.append(f"resized from {upright.width}x{upright.height}")
    stored = _encode(upright, size, resize.quality) if changes else data
    return Admitted(stored, size[1], size[0], upright.height, upright.width, tuple(changes))


def decode(data: bytes) -> Image.Image:
    """A file's picture, upright, 8 bits deep, in RGB or grey; what is transparent shows white paper.

    Raises:
        UnusableError: the bytes are no picture, or not a whole one.
    """
    return _to_8_bits(_upright(_open(data)))


def _open(data: bytes) -> Image.Image:
    """Decode to the end."""
    if not data:
        raise UnusableError("empty file")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("Pillow is set to accept truncated images; shards must not hold them")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF: the pixels are fine
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                return image
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise UnusableError(_reason(error)) from None


def _upright(image: Image.Image) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ImageOps.exif_transpose(image)


def _needed_changes(image: Image.Image) -> list[str]:
    """Why the bytes cannot be taken as they are."""
    changes = []
    if image.format != "JPEG":
        changes.append(f"encoded from {image.format}")
    if image.mode not in ("RGB", "L"):
        changes.append(f"converted from {image.mode}")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        changes.append("turned upright")
    return changes


def _target_size(size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Width and height after resizing; never larger than they were."""
    if resize.side == "none":
        return size
    side = min(size) if resize.side == "short" else max(size)
    scale = min(1.0, resize.pixels / side)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _encode(image: Image.Image, size: tuple[int, int], quality: int) -> bytes:
    picture = _to_8_bits(image)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
    return buffer.getvalue()


def _to_8_bits(image: Image.Image) -> Image.Image:
    """RGB or grey."""
    if image.mode in ("RGB", "L"):
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):  # no agreement on what is white
        raise UnusableError(f"pixels of mode {image.mode}, whose range is not known")
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _reason(error: Exception) -> str:
    text = str(error).partition(" <_io")[0].partition(": <_io")[0]
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return text or type(error).__name__
