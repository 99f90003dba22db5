"""What may enter a shard: upright baseline or progressive JPEGs, RGB or grey, that decode to the end.

Bytes that are so already are taken as they are. Other pictures are turned into such a JPEG, in 4:4:4 because
chroma is what the network learns, and what was done is said. What cannot be decoded is refused.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageFile, ImageOps

from koala.config.data import ResizeRule
from koala.imaging.metadata import ORIENTATION, exif_of

_JPEG_COLORS = {"RGB": "RGB", "L": "GRAY"}  # Pillow's names and libjpeg's
_MIRRORED, _TURNED = {2, 3, 4}, {5, 6, 7, 8}  # EXIF's orientations that keep or change the sides
_SPACES = {"RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK", "L": "GRAY"}  # Pillow's names and ICC's
_TRANSFORMED = ("RGB", "RGBA", "CMYK")  # in a shard, greys are what they are
_MOST_PIXELS = 178_956_970  # beyond these Pillow, too, speaks of a decompression bomb


class UnreadableImageError(Exception):
    """A file that cannot enter a shard, and why."""


@dataclass(frozen=True)
class IntakeResult:
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


def validate_or_transcode(data: bytes, resize: ResizeRule) -> IntakeResult:
    """Make of a file's bytes what a shard may hold.

    Raises:
        UnusableError: the bytes are no picture, or not a whole one.
    """
    with decoder_errors():
        image = open_image(data)
        changes = list(_needed_changes(image))
        turned = exif_of(image).get(ORIENTATION, 1) in _TURNED and image.format != "TIFF"  # Pillow turns TIFFs itself
        upright = image.size[::-1] if turned else image.size
        size = _target_size(upright, resize)
        if size != upright:
            changes.append(f"resized from {upright[0]}x{upright[1]}")
        if changes:
            stored = _encode(_decode(image, data), size, resize.quality)
        else:
            stored = data
            _check(data)
        return IntakeResult(stored, size[1], size[0], upright[1], upright[0], tuple(changes))


def decode_image(data: bytes) -> Image.Image:
    """A file's picture, upright, 8 bits deep, in sRGB or grey; what is transparent shows white paper.

    Raises:
        UnusableError: the bytes are no picture, or not a whole one.
    """
    with decoder_errors():
        return _decode(open_image(data), data)


def open_image(data: bytes) -> Image.Image:
    """Look at a picture's header; pixels are decoded when they are needed.

    Raises:
        UnusableError: the file is empty, or the picture too large.
    """
    if not data:
        raise UnreadableImageError("empty file")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("Pillow is set to accept truncated images; shards must not hold them")
    image = Image.open(io.BytesIO(data))
    check_size(*image.size)
    return image


def check_size(width: int, height: int) -> None:
    """Refuse a picture whose header asks for more memory than an honest one would."""
    if width * height > _MOST_PIXELS:
        raise UnreadableImageError(f"{width}x{height} pixels are more than {_MOST_PIXELS}")


def _check(data: bytes) -> None:
    """Let libjpeg read all of a JPEG, at an eighth of its size for less arithmetic; what it warns of is damaged."""
    simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)


def _decode(image: Image.Image, data: bytes) -> Image.Image:
    """The picture to the end, upright, as RGB in sRGB or grey."""
    picture = load_pixels(image, data)
    exif_of(picture)  # which takes away what exif_transpose would fail on
    return _to_8_bits(_to_srgb(ImageOps.exif_transpose(picture)))


def load_pixels(image: Image.Image, data: bytes) -> Image.Image:
    """Decode what `open_image` looked at, to the end.

    Raises:
        ValueError: libjpeg warns of damage.
        OSError: Pillow says that the file is damaged.
    """
    if image.format == "JPEG" and image.mode in _JPEG_COLORS:  # the only kind whose damage Pillow passes over
        pixels = simplejpeg.decode_jpeg(data, _JPEG_COLORS[image.mode], strict=True)
        decoded = Image.fromarray(pixels.squeeze(-1) if image.mode == "L" else pixels)
        decoded.info = image.info
        return decoded
    image.load()
    return image


@contextmanager
def decoder_errors() -> Iterator[None]:
    """What Pillow and libjpeg say of a file that cannot be used, as one kind of error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF: the pixels are fine
        try:
            yield
        except (OSError, SyntaxError, ValueError, EOFError, OverflowError, Image.DecompressionBombError) as error:
            raise UnreadableImageError(_reason(error)) from None


def _needed_changes(image: Image.Image) -> list[str]:
    """Why the bytes cannot be taken as they are."""
    changes = []
    if image.format != "JPEG":
        changes.append(f"encoded from {image.format}")
    if image.mode not in ("RGB", "L"):
        changes.append(f"converted from {image.mode}")
    if exif_of(image).get(ORIENTATION, 1) in _TURNED | _MIRRORED:
        changes.append("turned upright")
    if _transform(image) is not None:
        changes.append("converted to sRGB")
    return changes


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours as sRGB has them; those without a profile are so already."""
    transform = _transform(image)
    return image if transform is None else transform.apply(image)


def _transform(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """To sRGB, where the picture is in other colours; greys are taken as they are."""
    return transform_to_srgb(image.info.get("icc_profile") or b"", image.mode) if image.mode in _TRANSFORMED else None


@lru_cache(maxsize=64)  # a camera's photographs have one profile
def transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From an embedded colour profile to sRGB; none where there is no other, or none that can be read.

    Args:
        profile: as it is embedded; may be empty.
        mode: Pillow's name of the pixels; they become RGBA from RGBA, and RGB from RGB, CMYK and L.
    """
    if not profile or mode not in _SPACES:
        return None
    try:
        read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if read.profile.xcolor_space.strip() != _SPACES[mode] or "sRGB" in ImageCms.getProfileDescription(read):
            return None
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(read, srgb, mode, "RGBA" if mode == "RGBA" else "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None


def _target_size(size: tuple[int, int], resize: ResizeRule) -> tuple[int, int]:
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
        raise UnreadableImageError(f"pixels of mode {image.mode}, whose range is not known")
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _reason(error: Exception) -> str:
    text = str(error).partition(" <_io")[0].partition(": <_io")[0]
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return text or type(error).__name__
