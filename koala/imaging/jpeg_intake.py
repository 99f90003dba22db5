"""What may enter a shard: upright baseline or progressive JPEGs, RGB or grey, that decode to the end.

Bytes that are so already are taken as they are. Other pictures are turned into such a JPEG, in 4:4:4 because
chroma is what the network learns, and what was done is said. What cannot be decoded is refused.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from koala.config.data import ResizeRule
from koala.config.imaging import PictureLimits
from koala.imaging import metadata
from koala.imaging.color_profile import transform_to_srgb
from koala.imaging.decoders import Decoded, PictureFile, open_picture
from koala.imaging.errors import (
    MissingPackageError,
    check_bytes,
    check_pixels,
    check_side,
    decoder_errors,
    kind_of,
)
from koala.imaging.jpeg_stream import JpegStream
from koala.imaging.photo_io import upright_in_srgb
from koala.imaging.samples import convert_depth, lay_on_white


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


def validate_or_transcode(data: bytes, resize: ResizeRule, limits: PictureLimits | None = None) -> IntakeResult:
    """Make of a file's bytes what a shard may hold.

    Raises:
        UnreadableImageError: the bytes are no picture, not a whole one, or larger than the limits allow.
    """
    limits = limits or PictureLimits()
    kind = kind_of(data)
    with decoder_errors(kind):
        check_bytes(len(data), limits)
        taken = _as_it_is(data, resize, limits) if kind == "JPEG" else None
        return taken or _transcoded(open_picture(data, limits, for_shards=True), resize)


def decode_image(data: bytes, limits: PictureLimits | None = None) -> Image.Image:
    """A file's picture, upright, 8 bits deep, in sRGB or grey; what is transparent shows white paper.

    Raises:
        UnreadableImageError: the bytes are no picture, or not a whole one.
    """
    with decoder_errors(kind_of(data)):
        file = open_picture(data, limits, for_shards=True)
        return _shown(file.read(file.pages[0]))


def _as_it_is(data: bytes, resize: ResizeRule, limits: PictureLimits) -> IntakeResult | None:
    """A JPEG that may enter with its own compressed pixels; none where it may not."""
    stream = JpegStream(data)
    width, height = size = stream.frame.width, stream.frame.height
    check_pixels(width, height, limits)
    words = stream.words()
    mode = "L" if len(stream.frame.sampling) == 1 else "RGB"
    if (
        not stream.frame.is_common
        or metadata.orientation_of(metadata.exif_of(words)) != 1
        or transform_to_srgb(words.info.get("icc_profile") or b"", mode) is not None
        or _target_size(size, resize) != size
        or (sound := stream.sound()) is None
    ):
        return None
    return IntakeResult(
        sound, height, width, height, width, () if sound is data else ("freed of what libjpeg warns of",)
    )


def _transcoded(file: PictureFile, resize: ResizeRule) -> IntakeResult:
    decoded = file.read(file.pages[0])
    changes = _changes(file, decoded)
    picture = _shown(decoded)
    size = _target_size(picture.size, resize)
    if size != picture.size:
        changes.append(f"resized from {picture.width}x{picture.height}")
    if not changes:
        changes.append("encoded anew")  # a JPEG of an unusual kind
    jpeg = _encode(picture, size, resize.quality)
    return IntakeResult(jpeg, size[1], size[0], picture.height, picture.width, tuple(changes))


def _changes(file: PictureFile, decoded: Decoded) -> list[str]:
    """Why the bytes cannot be taken as they are."""
    mode = "L" if decoded.samples.shape[-1] < 3 else "RGB"
    said = {
        f"encoded from {file.kind}": file.kind != "JPEG",
        f"converted from {decoded.mode}": decoded.mode not in ("RGB", "L"),
        "turned upright": metadata.orientation_of(decoded.exif) != 1,
        "converted to sRGB": transform_to_srgb(decoded.profile, mode) is not None,
        f"the first of {len(file.pages)} pages": len(file.pages) > 1,
        f"without {file.remainder}": bool(file.remainder),
    }
    return [change for change, is_so in said.items() if is_so]


def _target_size(size: tuple[int, int], resize: ResizeRule) -> tuple[int, int]:
    """Width and height after resizing; never larger than they were."""
    if resize.side == "none":
        return size
    side = min(size) if resize.side == "short" else max(size)
    scale = min(1.0, resize.pixels / side)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shown(decoded: Decoded) -> Image.Image:
    """RGB or grey of 8 bits, upright, in sRGB, on white."""
    try:
        samples = upright_in_srgb(decoded)
    except MissingPackageError:  # which converts 16 bits
        samples = upright_in_srgb(replace(decoded, samples=convert_depth(decoded.samples, np.uint8)))
    pixels = convert_depth(samples, np.uint8)
    if pixels.shape[-1] % 2 == 0:
        pixels = lay_on_white(pixels)
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))


def _encode(picture: Image.Image, size: tuple[int, int], quality: int) -> bytes:
    check_side(*size, "JPEG")
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling="4:4:4")
    return buffer.getvalue()
