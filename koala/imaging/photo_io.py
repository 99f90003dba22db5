"""Photographs as people have them, read to be coloured and written back in their format and depth, with their metadata.

A scan of 16 bits stays one of 16 bits, on its way through a colour profile too. What comes out is upright, in sRGB
and says so, and has a note in the history of its XMP, which every format that is written can carry.
"""

import io
import logging
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tifffile
from numpy.typing import DTypeLike, NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError, first_line
from koala.core.extras import pip_line
from koala.imaging import metadata
from koala.imaging.jpeg_intake import (
    UnreadableImageError,
    check_size,
    decoder_errors,
    load_pixels,
    open_image,
    transform_to_srgb,
)
from koala.imaging.metadata import ORIENTATION, exif_of

_Operation = Callable[[NDArray[Any]], NDArray[Any]]

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is said here in one sentence

_ROWS = 256  # are converted at a time: a second copy of 100 megapixels would be 600 MB
_LARGE_PIXELS, _LARGE_BYTES = 24 << 20, 24 << 20
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_COLORS = {tifffile.PHOTOMETRIC.MINISWHITE: 1, tifffile.PHOTOMETRIC.MINISBLACK: 1, tifffile.PHOTOMETRIC.RGB: 3}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_UPRIGHT: dict[int, _Operation] = {  # by EXIF's orientation
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: lambda samples: samples.swapaxes(0, 1),
    6: partial(np.rot90, k=-1),
    7: lambda samples: np.rot90(samples, 2).swapaxes(0, 1),
    8: np.rot90,
}

_SUFFIXES = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}  # other spellings of those below
_FORMATS = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".webp": "WEBP", ".avif": "AVIF"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
}
_PICTURES = frozenset(  # those that are refused with a reason, as cameras' raw files are, are pictures too
    [
        *(
            *_SUFFIXES,
            *_FORMATS,
            ".heic",
            ".heif",
            ".hif",
            ".jxl",
            ".jp2",
            ".j2k",
            ".jpf",
            ".jpx",
            ".bmp",
            ".dib",
            ".gif",
        ),
        *(
            ".apng",
            ".mpo",
            ".psd",
            ".tga",
            ".pcx",
            ".ppm",
            ".pgm",
            ".pbm",
            ".pnm",
            ".ico",
            ".icns",
            ".dds",
            ".sgi",
            ".qoi",
        ),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    ]
)
_JPEG_ROOM = 65_504  # bytes that EXIF or XMP may have in a JPEG
_Tag = ExifTags.Base


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph and what its file says of it.

    Attributes:
        pixels: `(H, W, 3)` uint8 or uint16, upright, in sRGB; R = G = B where the file is grey.
        alpha: `(H, W)` of the same dtype, not multiplied into the pixels; none where the file has none.
        exif: without orientation and thumbnail, as Pillow writes it; empty where there is none.
        xmp: the packet as it was found; empty where there is none.
        dpi: dots per inch along x and y; none where the file does not say.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None


def read_photo(path: Path) -> Photo:
    """Read a photograph of any kind; of several pages or frames the first.

    TIFFs and PNGs of 16 bits are read as such, and so are greys of other formats; all else is read in 8 bits.
    EXIF that cannot be read is left out: the pixels are fine.

    Raises:
        UserError: the file cannot be read, is no picture, not a whole one, or of a kind that is refused.
    """
    try:
        return decode_photo(path.read_bytes())
    except (UnreadableImageError, OSError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def is_large(path: Path) -> bool:
    """Whether a photo should be alone in memory, by the size of its file and by what its header says."""
    with suppress(UnreadableImageError, OSError), decoder_errors():
        if path.stat().st_size > _LARGE_BYTES:
            return True
        with Image.open(path) as image:
            return image.width * image.height > _LARGE_PIXELS
    return False


def decode_photo(data: bytes) -> Photo:
    """The photograph that a file's bytes are; see `read_photo`.

    Raises:
        UnusableError: they are no picture, not a whole one, or of a kind that is refused.
        UserError: its kind needs a package that is not installed.
    """
    with decoder_errors(), _damage_is_said():
        return _photo(data)


def is_picture_name(path: Path) -> bool:
    """Whether a file is a picture by its name; what it really is, reading it tells."""
    return path.suffix.lower() in _PICTURES


def from_image(image: Image.Image) -> Photo:
    """The photograph that Pillow holds in memory; see `decode_photo`."""
    with decoder_errors(), _damage_is_said():
        copied = image.copy()  # which its profile is taken from
        return _finished(_samples(copied), exif_of(copied), copied.info)


def suffix_for(photo: Path) -> str:
    """The suffix of a photo's coloured file: that of its own format where koala writes it, and .png for all others."""
    suffix = photo.suffix.lower()
    suffix = _SUFFIXES.get(suffix, suffix)
    return suffix if suffix in _FORMATS else ".png"


def write_photo(picture: NDArray[Any], like: Photo, path: Path) -> None:
    """Write a coloured photo so that it is there whole or not at all, with all that its source said of itself.

    Args:
        picture: `(H, W, 3)` uint8 or uint16 sRGB; uint16 is kept by PNG and TIFF, the others hold 8 bits.
        like: the photo it was made of.
        path: of a suffix that is written (`suffix_for`), in any spelling.

    Raises:
        UserError: a PNG of 16 bits needs a package that is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode_photo(picture, like, suffix_for(path)), durable=False)


def encode_photo(picture: NDArray[Any], like: Photo, suffix: str) -> bytes:
    """The bytes of a coloured photo's file; see `write_photo`."""
    return _encode(_with_alpha(picture, like.alpha), _FORMATS[suffix.lower()], like)


def _photo(data: bytes) -> Photo:
    if data.startswith(_TIFF_STARTS):
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            if _is_deep(file.pages.first):
                return _read_deep_tiff(file.pages.first, data)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        _accept_heif()
    image = open_image(data)
    deep = image.format == "PNG" and data[24] == 16
    pixels = load_pixels(image, data)  # of deep PNGs as well: chunks behind the pixels are read with them
    exif, info = exif_of(pixels), pixels.info
    if deep:
        del image, pixels
        samples = _imagecodecs().png_decode(data)
        samples = samples.reshape(*samples.shape[:2], -1)
    else:
        samples = _samples(pixels)
        del image, pixels
    return _finished(samples, exif, info)


@contextmanager
def _damage_is_said() -> Iterator[None]:
    """What the libraries beside Pillow say of a file that cannot be used, as one kind of error."""
    try:
        yield
    except (tifffile.TiffFileError, zlib.error, struct.error, LookupError, TypeError, RuntimeError) as error:
        raise UnreadableImageError(f"damaged: {first_line(error)}") from None


def _finished(samples: NDArray[Any], exif: Image.Exif, info: dict[Any, Any]) -> Photo:
    """A photo of `(H, W, C)` samples as they are in a file: grey or RGB, with or without alpha."""
    _convert(samples, info.get("icc_profile") or b"")
    if turn := _UPRIGHT.get(exif.get(ORIENTATION, 1)):
        samples = turn(samples)
    height, width, channels = samples.shape
    return Photo(
        np.ascontiguousarray(samples[..., :3]) if channels > 2 else np.repeat(samples[..., :1], 3, axis=-1),
        np.ascontiguousarray(samples[..., -1]) if channels % 2 == 0 else None,
        metadata.updated_exif(exif, width, height),
        info.get("xmp") or b"",
        metadata.resolution(exif, info),
    )


def _bands(height: int) -> Iterator[slice]:
    return (slice(top, min(top + _ROWS, height)) for top in range(0, height, _ROWS))


def _samples(image: Image.Image) -> NDArray[Any]:
    """`(H, W, C)` of what Pillow decoded: grey, grey and alpha, RGB or RGBA."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    mode = _mode(image)
    printed = transform_to_srgb(image.info.pop("icc_profile", b""), "CMYK") if image.mode == "CMYK" else None
    samples = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows in _bands(image.height):
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


def _is_deep(page: tifffile.TiffPage) -> bool:
    """Whether a TIFF has 16 bits, which Pillow would cut to 8."""
    if page.is_reduced:
        raise UnreadableImageError("its first page is a preview, as in a camera's raw file; save it as a plain TIFF")
    if page.dtype is None or page.dtype.itemsize == 1:
        return False
    if page.dtype != np.uint16 or page.bitspersample != 16:
        raise UnreadableImageError(f"pixels of type {page.dtype}, whose range is not known; save it with 8 or 16 bits")
    return True


def _read_deep_tiff(page: tifffile.TiffPage, data: bytes) -> Photo:
    check_size(page.imagewidth, page.imagelength)
    if any(start + length > len(data) for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)):
        raise UnreadableImageError("image file is truncated")
    photometric = tifffile.PHOTOMETRIC(page.photometric)
    if photometric not in _TIFF_COLORS or page.axes not in ("YX", "YXS", "SYX"):
        raise UnreadableImageError(f"16 bits of {photometric.name} {page.axes}; save it as RGB or grey")
    if page.compression not in (tifffile.COMPRESSION.NONE, tifffile.COMPRESSION.ADOBE_DEFLATE):
        _imagecodecs()
    samples = page.asarray().astype(np.uint16, copy=False)  # from the file's byte order
    colors = _TIFF_COLORS[photometric]
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples.reshape(*samples.shape[:2], -1)
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        np.invert(samples[..., :1], out=samples[..., :1])
    extra = page.extrasamples[0] if page.extrasamples else tifffile.EXTRASAMPLE.UNSPECIFIED
    if extra == tifffile.EXTRASAMPLE.ASSOCALPHA:
        _divide_by_alpha(samples[..., : colors + 1])
    samples = samples[..., : colors + (extra != tifffile.EXTRASAMPLE.UNSPECIFIED)]
    exif = Image.Exif()
    exif.bigtiff, exif.endian = page.parent.is_bigtiff, page.parent.byteorder
    exif.load_from_fp(io.BytesIO(data), page.offset)
    info = {"icc_profile": exif.get(_Tag.InterColorProfile), "xmp": exif.get(_Tag.XMLPacket)}
    return _finished(samples, exif, info)


def _divide_by_alpha(samples: NDArray[np.uint16]) -> None:
    """Undo, in place, what was multiplied into the other channels."""
    for rows in _bands(len(samples)):
        alpha = samples[rows, :, -1:]
        whole = samples[rows, :, :-1].astype(np.uint32) * 65535 // np.maximum(alpha, 1)
        samples[rows, :, :-1] = np.minimum(whole, 65535)


def _convert(samples: NDArray[Any], profile: bytes) -> None:
    """Bring `(H, W, C)` samples, in place, from an embedded profile to sRGB."""
    mode = "L" if samples.shape[-1] < 3 else "RGB"
    convert = _converter(profile, mode, samples.dtype)
    if convert is None:
        return
    if mode == "L":
        greys = np.arange(np.iinfo(samples.dtype).max + 1, dtype=samples.dtype).reshape(-1, 256)
        samples[..., 0] = convert(greys)[..., 1].reshape(-1)[samples[..., 0]]
    else:
        for rows in _bands(len(samples)):
            samples[rows, :, :3] = convert(np.ascontiguousarray(samples[rows, :, :3]))


def _converter(profile: bytes, mode: str, dtype: np.dtype[Any]) -> _Operation | None:
    """From the `(H, W)` greys or `(H, W, 3)` colours of a profile to those of sRGB; none where they are so already."""
    transform = transform_to_srgb(profile, mode)
    if transform is None:
        return None
    if dtype == np.uint8:
        return lambda pixels: np.asarray(transform.apply(Image.fromarray(pixels)))
    spaces = {"colorspace": "gray" if mode == "L" else "rgb", "outcolorspace": "rgb"}
    return partial(_imagecodecs().cms_transform, profile=profile, outprofile=srgb_profile(), **spaces)


@cache
def srgb_profile() -> bytes:
    """The ICC profile of sRGB, the same at any time: littlecms writes into it when it was made."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def convert_depth(samples: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Samples in uint8 or uint16."""
    if samples.dtype == dtype:
        return samples
    if dtype == np.uint8:
        return np.right_shift(samples, 8, out=np.empty(samples.shape, np.uint8), casting="unsafe")
    return samples * np.uint16(257)


def _with_alpha(picture: NDArray[Any], alpha: NDArray[Any] | None) -> NDArray[Any]:
    return picture if alpha is None else np.dstack([picture, convert_depth(alpha, picture.dtype)])


def _encode(picture: NDArray[Any], kind: str, like: Photo) -> bytes:
    """A file's bytes: `(H, W, 3 or 4)` pixels and what `like` says of them."""
    exif = metadata.exif_with_resolution(like.exif, like.dpi)
    xmp = metadata.xmp_with_note(like.xmp)
    if kind == "TIFF":
        return _tiff(picture, exif, xmp)
    said: dict[str, Any] = {"icc_profile": srgb_profile(), "exif": exif.tobytes() if exif else b"", "xmp": xmp}
    if like.dpi:
        said["dpi"] = like.dpi
    if kind == "PNG":
        said["pnginfo"] = PngImagePlugin.PngInfo()
        said["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
        if picture.dtype == np.uint16:
            return _deep_png(picture, said)
    if kind == "JPEG":
        picture = picture[..., :3]
        said["exif"] = said["exif"] if len(said["exif"]) <= _JPEG_ROOM else b""
        said["xmp"] = xmp if len(xmp) <= _JPEG_ROOM else metadata.xmp_with_note(b"")
    return _saved(Image.fromarray(convert_depth(picture, np.uint8)), kind, **_OPTIONS.get(kind, {}), **said)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _deep_png(picture: NDArray[np.uint16], said: dict[str, Any]) -> bytes:
    """The pixels as one library writes them, which knows 16 bits, with the chunks of another, which knows the words."""
    pixels = _imagecodecs().png_encode(np.ascontiguousarray(picture), level=6)
    words = _saved(Image.new("L", (1, 1)), "PNG", **said)
    head = 8 + 25  # signature and IHDR
    return pixels[:head] + words[head : words.rindex(b"IDAT") - 4] + pixels[head:]


def _tiff(picture: NDArray[Any], exif: Image.Exif, xmp: bytes) -> bytes:
    """A TIFF of 8 or 16 bits: EXIF is one without pixels, so the pixels are what is added to it.

    References:
        TIFF Revision 6.0, 1992: sections 8 and 14 (baseline RGB, horizontal differencing); Adobe Photoshop TIFF
        Technical Notes, 2002 (deflate).
    """
    height, width, channels = picture.shape
    bits = 8 * picture.itemsize
    with ThreadPoolExecutor() as pool:
        strips = list(pool.map(lambda rows: zlib.compress(_differences(picture[rows]).data), _bands(height)))
    lengths = [len(strip) for strip in strips]
    exif.endian = "<"
    exif.update(
        {
            _Tag.ImageWidth: width,
            _Tag.ImageLength: height,
            _Tag.BitsPerSample: (bits,) * channels,
            _Tag.Compression: int(tifffile.COMPRESSION.ADOBE_DEFLATE),
            _Tag.PhotometricInterpretation: int(tifffile.PHOTOMETRIC.RGB),
            _Tag.StripOffsets: tuple(accumulate(lengths[:-1], initial=0)),  # Pillow adds where they begin
            _Tag.SamplesPerPixel: channels,
            _Tag.RowsPerStrip: _ROWS,
            _Tag.StripByteCounts: tuple(lengths),
            _Tag.Predictor: int(tifffile.PREDICTOR.HORIZONTAL),
            _Tag.XMLPacket: xmp,
            _Tag.InterColorProfile: srgb_profile(),
        }
    )
    if channels == 4:
        exif[_Tag.ExtraSamples] = int(tifffile.EXTRASAMPLE.UNASSALPHA)
    return b"".join([exif.tobytes().removeprefix(b"Exif\0\0"), *strips])


def _differences(band: NDArray[Any]) -> NDArray[Any]:
    """Each sample less the one to its left, modulo 2 to the power of its bits, the low byte first."""
    little = band.astype(band.dtype.newbyteorder("<"), copy=False)
    return np.diff(little, axis=1, prepend=little.dtype.type(0))


def _imagecodecs() -> ModuleType:
    try:
        import imagecodecs
    except ImportError:
        raise UserError(f"pictures of this kind in 16 bits need imagecodecs; {pip_line('photos')}") from None
    return imagecodecs


def _accept_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise UserError(f"HEIF pictures need pillow-heif; {pip_line('photos')}") from None
    pillow_heif.register_heif_opener()
