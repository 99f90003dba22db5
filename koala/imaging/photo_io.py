"""Photographs as people have them, read to be coloured and written back in their format and depth, with their metadata.

A scan of 16 bits stays one of 16 bits, on its way through a colour profile too. What comes out is upright, in sRGB
and says so, and has a note in the history of its XMP, which every format that is written can carry.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from koala.config.imaging import PictureLimits
from koala.core.atomic_io import open_atomic
from koala.core.errors import UserError
from koala.imaging import metadata
from koala.imaging.color_profile import convert_to_srgb, srgb_profile
from koala.imaging.decoders import Decoded, decode_pillow_image, open_picture
from koala.imaging.errors import (
    UnreadableImageError,
    check_bytes,
    check_side,
    decoder_errors,
    kind_of,
    optional_package,
)
from koala.imaging.samples import convert_depth
from koala.imaging.tiff_pages import TiffWriter

_LARGE_PIXELS, _LARGE_BYTES = 24 << 20, 24 << 20
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {  # by EXIF's orientation
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
        *(*_SUFFIXES, *_FORMATS),
        *(".heic", ".heif", ".hif", ".jxl", ".jls", ".jp2", ".j2k", ".jpf", ".jpx", ".bmp", ".dib", ".gif", ".apng"),
        *(".mpo", ".psd", ".tga", ".pcx", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".icns", ".dds", ".sgi", ".qoi"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    ]
)
_JPEG_ROOM = 65_504  # bytes that EXIF, XMP, IPTC or a comment may have in a JPEG


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph and what its file says of it.

    Attributes:
        pixels: `(H, W, 3)` uint8 or uint16, upright, in sRGB; R = G = B where the file is grey.
        alpha: `(H, W)` of the same dtype, not multiplied into the pixels; none where the file has none.
        exif: without orientation and thumbnail, as Pillow writes it; empty where there is none.
        xmp: the packet as it was found; empty where there is none.
        dpi: dots per inch along x and y; none where the file does not say.
        iptc: IPTC's records (IIM) as they were found; empty where there are none.
        comments: of a JPEG or GIF.
        texts: kind and payload of a PNG's chunks of text.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    iptc: bytes = b""
    comments: tuple[bytes, ...] = ()
    texts: tuple[tuple[bytes, bytes], ...] = ()


class PhotoFile:
    """The photographs in a file: the pages of a TIFF, or the one that other files hold.

    Iterating reads them, one at a time; that raises `UnreadableImageError` where a page cannot be read.

    Args:
        data: the file's bytes.
        limits: to what it may ask for.

    Raises:
        UnreadableImageError: they are no picture, not a whole one, or of a kind that is refused.
    """

    def __init__(self, data: bytes, limits: PictureLimits | None = None) -> None:
        self._kind = kind_of(data)
        with decoder_errors(self._kind):
            self._file = open_picture(data, limits)

    def __len__(self) -> int:
        return len(self._file.pages)

    def __iter__(self) -> Iterator[Photo]:
        for number, page in enumerate(self._file.pages, start=1):
            try:
                with decoder_errors(self._kind):
                    photo = _finished(self._file.read(page))
            except UnreadableImageError as error:
                raise UnreadableImageError(f"page {number}: {error}" if len(self) > 1 else str(error)) from None
            yield photo

    @property
    def remainder(self) -> str:
        """What else is in the file and is not read, in words; empty where nothing is."""
        return self._file.remainder


def open_photos(path: Path, limits: PictureLimits | None = None) -> PhotoFile:
    """Look at a file of photographs.

    Raises:
        UserError: the file cannot be read, is no picture, not a whole one, or of a kind that is refused.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise UnreadableImageError("neither a file nor a folder")  # a device or pipe, whose end may never come
        check_bytes(path.stat().st_size, limits or PictureLimits())
        return PhotoFile(path.read_bytes(), limits)
    except (UnreadableImageError, OSError, MemoryError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def read_photo(path: Path, limits: PictureLimits | None = None) -> Photo:
    """Read a photograph of any kind; of several pages or frames the first.

    TIFFs, PNGs and JPEGs of more than 8 bits are read as such, and so are greys of other formats; all else is read in
    8 bits. EXIF that cannot be read is left out: the pixels are fine.

    Raises:
        UserError: the file cannot be read, is no picture, not a whole one, or of a kind that is refused.
    """
    try:
        return next(iter(open_photos(path, limits)))
    except UnreadableImageError as error:
        raise UserError(f"{path}: {error}") from None


def is_large(path: Path) -> bool:
    """Whether a photo should be alone in memory, by the size of its file and by what its header says."""
    with suppress(UnreadableImageError, OSError), decoder_errors():
        if not path.is_file():  # a pipe would be waited for
            return False
        if path.stat().st_size > _LARGE_BYTES:
            return True
        with Image.open(path) as image:
            return image.width * image.height > _LARGE_PIXELS
    return False


def decode_photo(data: bytes, limits: PictureLimits | None = None) -> Photo:
    """The photograph that a file's bytes are; see `read_photo`.

    Raises:
        UnreadableImageError: they are no picture, not a whole one, or of a kind that is refused.
    """
    return next(iter(PhotoFile(data, limits)))


def is_picture_name(path: Path) -> bool:
    """Whether a file is a picture by its name; what it really is, reading it tells."""
    return path.suffix.lower() in _PICTURES


def from_image(image: Image.Image) -> Photo:
    """The photograph that Pillow holds in memory; see `decode_photo`."""
    with decoder_errors(image.format or ""):
        return _finished(decode_pillow_image(image))


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
        UnreadableImageError: the format does not hold so long a side, or needs a package that is not installed.
    """
    write_pages([(picture, like)], path)


def write_pages(pages: Iterable[tuple[NDArray[Any], Photo]], path: Path) -> None:
    """Write coloured photos to a file, as `write_photo` does; several of them to a TIFF.

    Args:
        pages: pictures and the photos they were made of; each is asked for when the one before is written.
        path: of a suffix that is written (`suffix_for`), in any spelling.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path, durable=False) as file:
        _write(pages, _FORMATS[suffix_for(path)], file)


def encode_photo(picture: NDArray[Any], like: Photo, suffix: str) -> bytes:
    """The bytes of a coloured photo's file; see `write_photo`."""
    buffer = io.BytesIO()
    _write([(picture, like)], _FORMATS[suffix.lower()], buffer)
    return buffer.getvalue()


def upright_in_srgb(decoded: Decoded) -> NDArray[Any]:
    """`(H, W, C)` samples of a decoded picture, turned upright, and brought to sRGB in place."""
    convert_to_srgb(decoded.samples, decoded.profile)
    turn = _UPRIGHT.get(metadata.orientation_of(decoded.exif))
    return turn(decoded.samples) if turn else decoded.samples


def _finished(decoded: Decoded) -> Photo:
    samples = upright_in_srgb(decoded)
    height, width, channels = samples.shape
    return Photo(
        np.ascontiguousarray(samples[..., :3]) if channels > 2 else np.repeat(samples[..., :1], 3, axis=-1),
        np.ascontiguousarray(samples[..., -1]) if channels % 2 == 0 else None,
        metadata.updated_exif(decoded.exif, width, height),
        decoded.info.get("xmp") or b"",
        metadata.resolution(decoded.exif, decoded.info),
        decoded.info.get("iptc") or b"",
        decoded.info.get("comments") or (),
        decoded.info.get("texts") or (),
    )


def _write(pages: Iterable[tuple[NDArray[Any], Photo]], kind: str, file: BinaryIO) -> None:
    if kind == "TIFF":
        writer = TiffWriter(file)
        for picture, like in pages:
            writer.add(*_tiff_page(_with_alpha(picture, like.alpha), like))
        return
    ((picture, like),) = pages
    file.write(_encoded(_with_alpha(picture, like.alpha), kind, like))


def _with_alpha(picture: NDArray[Any], alpha: NDArray[Any] | None) -> NDArray[Any]:
    return picture if alpha is None else np.dstack([picture, convert_depth(alpha, picture.dtype)])


def _tiff_page(picture: NDArray[Any], like: Photo) -> tuple[NDArray[Any], Image.Exif, dict[int, bytes]]:
    words = {metadata.XMP_TAG: metadata.xmp_with_note(like.xmp), metadata.IPTC_TAG: like.iptc}
    exif = metadata.exif_with_resolution(like.exif, like.dpi)
    return picture, exif, {tag: text for tag, text in words.items() if text}


def _encoded(picture: NDArray[Any], kind: str, like: Photo) -> bytes:
    """A file's bytes: `(H, W, 3 or 4)` pixels and what `like` says of them."""
    check_side(picture.shape[1], picture.shape[0], kind)
    exif = metadata.exif_with_resolution(like.exif, like.dpi)
    xmp = metadata.xmp_with_note(like.xmp)
    said: dict[str, Any] = {"icc_profile": srgb_profile(), "exif": exif.tobytes() if exif else b"", "xmp": xmp}
    if like.dpi:
        said["dpi"] = like.dpi
    if kind == "PNG":
        said["pnginfo"] = _png_words(like, xmp)
        if picture.dtype == np.uint16:
            return _deep_png(picture, said)
    if kind == "JPEG":
        picture = picture[..., :3]
        said["exif"] = said["exif"] if len(said["exif"]) <= _JPEG_ROOM else b""
        said["xmp"] = xmp if len(xmp) <= _JPEG_ROOM else metadata.xmp_with_note(b"")
        said["extra"] = metadata.jpeg_segments(like.iptc, like.comments, _JPEG_ROOM)
    return _saved(Image.fromarray(convert_depth(picture, np.uint8)), kind, **_OPTIONS.get(kind, {}), **said)


def _png_words(like: Photo, xmp: bytes) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    for kind, payload in (*like.texts, *metadata.png_texts(like.iptc, like.comments)):
        info.add(kind, payload)
    return info


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _deep_png(picture: NDArray[np.uint16], said: dict[str, Any]) -> bytes:
    """The pixels as one library writes them, which knows 16 bits, with the chunks of another, which knows the words."""
    pixels = optional_package("imagecodecs", "PNGs of 16 bits").png_encode(np.ascontiguousarray(picture), level=6)
    words = _saved(Image.new("L", (1, 1)), "PNG", **said)
    head = 8 + 25  # signature and IHDR
    return pixels[:head] + words[head : words.rindex(b"IDAT") - 4] + pixels[head:]
