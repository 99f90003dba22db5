"""What may enter a shard: upright baseline or progressive JPEGs, RGB or grey, that decode to the end.

Bytes that are so already are taken as they are. Other pictures are turned into such a JPEG, in 4:4:4 because
chroma is what the network learns, and what was done is said. What cannot be decoded is refused.
"""

import io
import warnings
from dataclasses import dataclass

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
    if not data:
        raise UnusableError("empty file")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("Pillow is set to accept truncated images; shards must not hold them")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF: the pixels are fine
        try:
            return _admit(data, resize)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise UnusableError(_reason(error)) from None


def _admit(data: bytes, resize: Resize) -> Admitted:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        changes = list(_needed_changes(image))
        upright = ImageOps.exif_transpose(image)
    size = _target_size(upright.size, resize)
    if size != upright.size:
        changes.append(f"resized from {upright.width}x{upright.height}")
    stored = _encode(upright, size, resize.quality) if changes else data
    return Admitted(stored, size[1], size[0], upright.height, upright.width, tuple(changes))


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
    picture = image if image.mode == "L" else _on_white(image)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
    return buffer.getvalue()


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent shows white paper."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(paper, picture).convert("RGB")


def _reason(error: Exception) -> str:
    text = str(error).partition(" <_io")[0].partition(": <_io")[0]
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return text or type(error).__name__
