"""Files of pictures -> samples as they are in the file, with what it says of them: one way for photos and for shards.

What a file is, is told by its first bytes. Where one decoder does not know a kind, the next one is asked: simplejpeg,
Pillow, tifffile, imagecodecs.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from koala.config.imaging import PictureLimits
from koala.imaging import metadata
from koala.imaging.color_profile import transform_to_srgb
from koala.imaging.errors import (
    MissingPackageError,
    UnreadableImageError,
    check_bytes,
    check_pixels,
    decoder_errors,
    kind_of,
    optional_package,
)
from koala.imaging.jpeg_stream import JpegStream
from koala.imaging.png_chunks import PngChunks
from koala.imaging.samples import bands, fill_range
from koala.imaging.tiff_pages import TiffPages

Samples = NDArray[Any]

_Tag = ExifTags.Base
_UNSUPPORTED = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF")  # Ghostscript would run, or nothing can be read
_JPEG_CHANNELS = {1: "GRAY", 3: "RGB"}  # as libjpeg calls them
_FRAMES = "the frames of an animation after the first"
_REMAINDERS = {**dict.fromkeys(("GIF", "WEBP", "AVIF", "FLI"), _FRAMES), "HEIF": "all of its pictures but the main one"}


@dataclass(eq=False)
class Decoded:
    """A picture as it is in its file, and what the file says of it.

    Attributes:
        samples: `(H, W, C)` uint8 or uint16: grey, grey and alpha, RGB or RGBA.
        mode: Pillow's name of how the pixels are in the file.
        profile: the ICC profile of the samples; empty where they are in sRGB.
        exif: as the file has it.
        info: what else is said, by Pillow's keys, and `iptc`, `comments` and `texts` of `koala.imaging.photo_io.Photo`.
    """

    samples: Samples
    mode: str
    profile: bytes
    exif: Image.Exif
    info: dict[Any, Any]


@dataclass(frozen=True)
class PictureFile:
    """A file whose header has been looked at.

    Attributes:
        kind: what it is, as Pillow calls it.
        size: width and height of the first picture in it, in pixels, as it is stored.
        pages: numbers of the pictures in it that are to be read: all pages of a TIFF, of other files the first alone.
        remainder: what else is in the file and is not read, in words; empty where nothing is.
        read: decodes one of them.
    """

    kind: str
    size: tuple[int, int]
    pages: Sequence[int]
    remainder: str
    read: Callable[[int], Decoded]


def open_picture(data: bytes, limits: PictureLimits | None = None, for_shards: bool = False) -> PictureFile:
    """Look at a file's header; pixels are decoded when they are asked for.

    Args:
        data: the file.
        limits: to what its header may ask for.
        for_shards: refuse what decodes and yet differs from what its own checksums and sizes say; and take 8 bits of a
            deeper picture where the package is missing that reads them all.

    Raises:
        Exception: it cannot be read; within `decoder_errors` that is an `UnreadableImageError`.
    """
    limits = limits or PictureLimits()
    check_bytes(len(data), limits)
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UnreadableImageError("Pillow is set to accept truncated pictures; set it back to read any")
    if Image.MAX_IMAGE_PIXELS is not None:  # beyond twice of which Pillow refuses, also within other pictures
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.max_pixels)
    kind = kind_of(data)
    opened = _OPENERS.get(kind, partial(_open_with_pillow, kind))
    return opened(data, limits, for_shards)


# ---------------------------------------------------------------- JPEG


def _open_jpeg(data: bytes, limits: PictureLimits, for_shards: bool) -> PictureFile:
    stream = JpegStream(data)
    check_pixels(*(size := (stream.frame.width, stream.frame.height)), limits)
    return PictureFile("JPEG", size, [0], "", lambda _: _read_jpeg(stream, data))


def _read_jpeg(stream: JpegStream, data: bytes) -> Decoded:
    words = stream.words()
    exif, info = metadata.exif_of(words), {**words.info, "comments": stream.comments}
    info["iptc"] = metadata.iptc_of_jpeg(info)
    profile = info.get("icc_profile") or b""
    channels = _JPEG_CHANNELS.get(len(stream.frame.sampling))
    if channels and (pixels := _libjpeg_pixels(stream, data, channels)) is not None:
        return Decoded(pixels, "L" if channels == "GRAY" else "RGB", profile, exif, info)
    sound = stream.sound()
    if sound is None and not stream.is_closed:
        raise UnreadableImageError(f"damaged {stream.frame}: it ends too early")
    try:
        image = _opened(sound or stream.tidied(), "JPEG")
        image.load()
    except MemoryError:
        raise
    except Exception:  # of a kind that Pillow does not read
        return Decoded(_unusual_jpeg(stream, data), f"{stream.frame.precision} bits", profile, exif, info)
    return _of_image(image, profile, exif, info)


def _libjpeg_pixels(stream: JpegStream, data: bytes, channels: str) -> Samples | None:
    """Pixels of which libjpeg says that none is missing; none where it cannot tell."""
    try:
        return simplejpeg.decode_jpeg(data, channels, strict=True) if stream.frame.is_common else None
    except ValueError:
        sound = stream.sound()
        return None if sound is None else simplejpeg.decode_jpeg(sound, channels, strict=True)


def _unusual_jpeg(stream: JpegStream, data: bytes) -> Samples:
    """Pixels of more than 8 bits, or of JPEG-LS."""
    frame = stream.frame
    codecs = optional_package("imagecodecs", f"{frame}s".replace("JPEG-LSs", "JPEG-LS files"))
    try:
        pixels = codecs.jpegls_decode(data) if "JPEG-LS" in str(frame) else codecs.jpeg8_decode(stream.tidied())
    except Exception:
        raise UnreadableImageError(f"{frame}: not supported; save it as a JPEG of 8 bits or as a PNG") from None
    return fill_range(pixels.reshape(*pixels.shape[:2], -1), frame.precision)


# ---------------------------------------------------------------- PNG


def _open_png(data: bytes, limits: PictureLimits, for_shards: bool) -> PictureFile:
    chunks = PngChunks(data)
    check_pixels(*(size := (chunks.width, chunks.height)), limits)
    remainder = _FRAMES if chunks.is_animation else ""
    return PictureFile("PNG", size, [0], remainder, lambda _: _read_png(chunks, for_shards))


def _read_png(chunks: PngChunks, for_shards: bool) -> Decoded:
    try:
        chunks.check()
        png = chunks.still()
    except UnreadableImageError:
        if for_shards:
            raise
        png = chunks.mended()
    try:
        image = _opened(png, "PNG")
    except Exception:  # something that its pixels do not need
        image = _opened(png := chunks.bare(), "PNG")
    exif, info, profile = metadata.exif_of(image), {**image.info, "texts": chunks.texts()}, chunks.profile() or b""
    if chunks.depth == 16:
        try:
            samples = optional_package("imagecodecs", "PNGs of 16 bits").png_decode(png)
            return Decoded(samples.reshape(*samples.shape[:2], -1), "16 bits", profile, exif, info)
        except MissingPackageError:
            if not for_shards:
                raise
    return _of_image(image, profile, exif, info)


# ---------------------------------------------------------------- TIFF


def _open_tiff(data: bytes, limits: PictureLimits, for_shards: bool) -> PictureFile:
    try:
        pages = TiffPages(data, limits)
        numbers = pages.numbers()
    except UnreadableImageError:
        raise
    except Exception:  # Pillow may see more in it
        return _open_with_pillow("TIFF", data, limits, for_shards)

    def read(number: int) -> Decoded:
        if for_shards:
            pages.check(number)
        return _read_page(pages, number, data, limits, for_shards)

    remainder = f"what follows page {len(numbers)}: the file may be cut off" if pages.has_more() else ""
    return PictureFile("TIFF", pages.size(numbers[0]), numbers, remainder, read)


def _read_page(pages: TiffPages, number: int, data: bytes, limits: PictureLimits, for_shards: bool) -> Decoded:
    try:
        exif, words = pages.exif(number), pages.words(number)
    except Exception:  # the pixels may be fine
        exif, words = Image.Exif(), {}
    info = {"xmp": words.get(metadata.XMP_TAG), "iptc": metadata.iptc_of_tiff(words)}
    profile = words.get(_Tag.InterColorProfile) or b""
    pixels, is_upright = _page_pixels(pages, number, data, for_shards)
    if is_upright:
        exif.pop(metadata.ORIENTATION, None)
    else:
        metadata.add_orientation(exif, words.get(metadata.XMP_TAG, b""))
    if isinstance(pixels, Image.Image):
        check_pixels(*pixels.size, limits)
        return _of_image(pixels, profile, exif, info)
    return Decoded(pixels, f"{8 * pixels.itemsize} bits", profile, exif, info)


def _page_pixels(pages: TiffPages, number: int, data: bytes, for_shards: bool) -> tuple[Samples | Image.Image, bool]:
    """A page by Pillow, which turns TIFFs upright itself, or by tifffile if it is deeper or unknown to Pillow."""
    image = None if pages.bits(number) > 8 else _tiff_image(data, number)
    if image is None:
        try:
            return pages.read(number), False
        except MissingPackageError:
            if not for_shards or pages.bits(number) != 16 or (image := _tiff_image(data, number)) is None:
                raise
    return image, True


def _tiff_image(data: bytes, number: int) -> Image.Image | None:
    """A page of which Pillow knows what it is."""
    try:
        image = _opened(data, "TIFF")
        image.seek(number)
    except Exception:
        return None
    return image if image.info.get("compression") != "webp" else None


# ---------------------------------------------------------------- all others


def _open_with_pillow(kind: str, data: bytes, limits: PictureLimits, for_shards: bool) -> PictureFile:
    if kind == "HEIF":
        optional_package("pillow-heif", "HEIF pictures").register_heif_opener()
    Image.init()
    if kind in _UNSUPPORTED or (kind and kind not in Image.OPEN):
        raise UnreadableImageError(f"{kind}: not supported; save it as JPEG, PNG or TIFF")
    image = _opened(data, *(name for name in Image.OPEN if name not in _UNSUPPORTED))
    check_pixels(*image.size, limits)
    if for_shards and kind == "WEBP":
        _check_riff(data)
    kind = image.format or kind
    remainder = _REMAINDERS.get(kind, "") if getattr(image, "is_animated", False) else ""

    def read(number: int) -> Decoded:
        if kind == "WEBP" and (samples := _webp_samples(data, image.size)) is not None:
            profile = image.info.get("icc_profile") or b""
            return Decoded(samples, image.mode, profile, metadata.exif_of(image), dict(image.info))
        return decode_pillow_image(image)

    return PictureFile(kind, image.size, [0], remainder, read)


def _opened(data: bytes, *kinds: str) -> Image.Image:
    """Pillow's picture, not yet decoded."""
    return Image.open(io.BytesIO(data), formats=kinds)


def _webp_samples(data: bytes, size: tuple[int, int]) -> Samples | None:
    """A WebP's pixels without the four copies that Pillow makes of them; none where it has to."""
    try:
        import imagecodecs
    except ImportError:
        return None
    samples = imagecodecs.webp_decode(data)
    return samples if samples.shape[1::-1] == size else None  # of an animation, a frame may cover a part


def _check_riff(data: bytes) -> None:
    """Believe the sizes that a WebP has of itself and of its chunks."""
    end, at = int.from_bytes(data[4:8], "little") + 8, 12
    while at < end:
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        at += at % 2
    if end > len(data) or at > end + 1:
        raise UnreadableImageError("damaged WEBP: its sizes are not those of its parts")


# ---------------------------------------------------------------- samples


def decode_pillow_image(image: Image.Image) -> Decoded:
    """What Pillow holds in memory or is about to decode."""
    exif, info = metadata.exif_of(image), dict(image.info)
    info["comments"] = (info["comment"],) if isinstance(info.get("comment"), bytes) else ()
    return _of_image(image, info.get("icc_profile") or b"", exif, info)


def _of_image(image: Image.Image, profile: bytes, exif: Image.Exif, info: dict[Any, Any]) -> Decoded:
    """What Pillow decodes."""
    with decoder_errors(image.format or ""):
        image.load()
        samples = _samples(image, profile)
    return Decoded(samples, image.mode, b"" if image.mode == "CMYK" else profile, exif, info)


def _samples(image: Image.Image, profile: bytes) -> Samples:
    """`(H, W, C)` of what Pillow decoded; CMYK through its profile, in which there is no other way to RGB."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # which fills 16 bits
        return np.asarray(image).astype(np.uint16)[..., None]
    mode = _mode(image)
    printed = transform_to_srgb(profile, "CMYK") if image.mode == "CMYK" else None
    samples = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows in bands(image.height):
        band = image.crop((0, rows.start, image.width, rows.stop))
        converted = band.convert(mode) if printed is None else printed.apply(band)
        samples[rows] = np.asarray(converted).reshape(samples[rows].shape)
    return samples


def _mode(image: Image.Image) -> str:
    """The one of L, LA, RGB and RGBA that loses nothing."""
    if image.mode in ("I", "F"):
        raise UnreadableImageError(f"pixels of mode {image.mode}, whose range is not known; save it with 8 or 16 bits")
    color = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    return color + "A" if image.has_transparency_data else color


_OPENERS: dict[str, Callable[[bytes, PictureLimits, bool], PictureFile]] = {
    "JPEG": _open_jpeg,
    "PNG": _open_png,
    "TIFF": _open_tiff,
}
