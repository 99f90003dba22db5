"""What "cannot be read" means for a picture: one answer for all decoders and all commands."""

import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from PIL import Image

from koala.config.imaging import PictureLimits
from koala.core.errors import UserError
from koala.core.extras import pip_line

_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BRANDS = {  # of ISO's base media files, the first that is found among a file's own
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
    b"crx ": "camera's raw file",
}
_JPEG = b"\xff\xd8\xff"
_STRAY_HEAD = 64  # bytes at most that may stand before a JPEG, as a lost line end or a byte order mark does
_STARTS = {
    _JPEG: "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    **dict.fromkeys(_TIFFS, "TIFF"),
    **dict.fromkeys((b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS"), "camera's raw file"),
    **dict.fromkeys((b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL"),
    b"II\xbc\x01": "JPEG XR",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"gimp xcf": "XCF",
    b"%PDF": "PDF",
    b"%!PS": "EPS",
}

_MOST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768}  # that libjpeg and libwebp write, and libavif reads


class UnreadableImageError(Exception):
    """A picture that cannot be used, and why."""


class MissingPackageError(UnreadableImageError):
    """A picture that a package of the extra `photos` would read."""


@contextmanager
def decoder_errors(kind: str = "") -> Iterator[None]:
    """Whatever a decoder raises, as one kind of error that says what the file is and not what a library calls it.

    Args:
        kind: what the file is; see `kind_of`.

    Raises:
        UnreadableImageError: anything was raised but what koala says itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corrupt EXIF: the pixels are fine
        try:
            yield
        except (UnreadableImageError, UserError):
            raise
        except Exception as error:
            raise UnreadableImageError(_reason(error, kind)) from None


def kind_of(data: bytes) -> str:
    """What a file is by its first bytes: Pillow's name of the format, or another; empty where none is known."""
    if data[4:8] == b"ftyp":
        brands = data[8 : max(12, int.from_bytes(data[:4], "big"))][:256]
        return next((kind for brand, kind in _BRANDS.items() if brand in brands), "video")
    for start, kind in _STARTS.items():
        if data.startswith(start):
            return kind
    Image.init()
    for kind, (_, accepts) in Image.OPEN.items():
        if accepts and _is_accepted(accepts, data):
            return kind
    return "JPEG" if _JPEG in data[:_STRAY_HEAD] else ""


def _is_accepted(accepts: Callable[[bytes], bool | str], data: bytes) -> bool:
    """Whether one of Pillow's readers knows a file by its first bytes."""
    try:
        return accepts(data[:16]) is True
    except (struct.error, LookupError):  # there are fewer than it looks at
        return False


def check_pixels(width: int, height: int, limits: PictureLimits) -> None:
    """Refuse a picture whose header asks for more memory than is allowed.

    Raises:
        UnreadableImageError: it does, or asks for none.
    """
    if width < 1 or height < 1:
        raise UnreadableImageError(f"a picture of {width}x{height} pixels")
    if width * height > limits.max_pixels:
        raise UnreadableImageError(
            f"{width}x{height} pixels are more than the {limits.max_pixels} that are allowed (max_pixels)"
        )


def check_side(width: int, height: int, kind: str) -> None:
    """Refuse a picture that a format cannot hold, before it is written.

    Args:
        width: in pixels.
        height: in pixels.
        kind: Pillow's name of the format.

    Raises:
        UnreadableImageError: a side is too long.
    """
    side, most = max(width, height), _MOST_SIDE.get(kind, sys.maxsize)
    if side > most:
        raise UnreadableImageError(f"a side of {side} pixels; a {kind} has {most} at most; make it smaller")


def check_bytes(size: int, limits: PictureLimits) -> None:
    """Refuse a file that is empty or too large to be read into memory.

    Raises:
        UnreadableImageError: it is.
    """
    if not size:
        raise UnreadableImageError("empty file")
    if size > limits.max_bytes:
        raise UnreadableImageError(f"{size} bytes are more than the {limits.max_bytes} that are allowed (max_bytes)")


def optional_package(name: str, user: str) -> ModuleType:
    """A package of the extra `photos`.

    Args:
        name: of the package on PyPI.
        user: what needs it, in the plural.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return import_module(name.replace("-", "_"))
    except ImportError:
        raise MissingPackageError(f"{user} need {name}; {pip_line('photos')}") from None


def _reason(error: Exception, kind: str) -> str:
    if isinstance(error, MemoryError):
        return f"{kind or 'a picture'} that does not fit into memory"
    if isinstance(error, Image.DecompressionBombError):
        return f"{kind or 'a picture'} of too many pixels"
    if isinstance(error, OSError) and error.errno:
        return error.strerror or "cannot be read"
    if isinstance(error, Image.UnidentifiedImageError) and not kind:
        return "not an image"
    short = isinstance(error, EOFError) or any(word in str(error).lower() for word in ("truncated", "premature end"))
    return f"damaged {kind or 'picture'}{': it ends too early' if short else ''}"
