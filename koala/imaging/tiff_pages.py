"""TIFFs page by page: what Pillow cuts to 8 bits or cannot read, and files of several pages to write."""

import io
import logging
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate, islice
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC

from koala.config.imaging import PictureLimits
from koala.imaging import metadata
from koala.imaging.color_profile import srgb_profile
from koala.imaging.errors import UnreadableImageError, check_pixels, optional_package
from koala.imaging.png_chunks import check_zlib
from koala.imaging.samples import ROWS, bands, convert_depth, divide_by_alpha, fill_range

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it warns of is said here in one sentence

_Tag = ExifTags.Base
_COLORS = {  # channels without the extra ones
    **{PHOTOMETRIC.MINISWHITE: 1, PHOTOMETRIC.MINISBLACK: 1, PHOTOMETRIC.PALETTE: 1},
    **{
        PHOTOMETRIC.RGB: 3,
        PHOTOMETRIC.YCBCR: 3,
        PHOTOMETRIC.CIELAB: 3,
        PHOTOMETRIC.ICCLAB: 3,
        PHOTOMETRIC.SEPARATED: 4,
    },
}
_DEFLATED = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
_WORDS = (metadata.XMP_TAG, metadata.IPTC_TAG, metadata.RESOURCES_TAG, int(_Tag.InterColorProfile))
_MOST_PAGES = 10_000
_PREVIEW, _MASK = 1, 4  # bits of NewSubfileType


class TiffPages:
    """The pages of a TIFF, as tifffile reads them.

    Args:
        data: the file.
        limits: to what a page may ask for.

    Raises:
        Exception: tifffile cannot read it.
    """

    def __init__(self, data: bytes, limits: PictureLimits) -> None:
        self._data, self._limits = data, limits
        self._file = tifffile.TiffFile(io.BytesIO(data))
        self._count = 0
        with suppress(Exception):  # a later page may be damaged
            for _ in islice(self._file.pages, _MOST_PAGES):
                self._count += 1

    def numbers(self) -> list[int]:
        """Which of its pages are pictures; the others are previews and masks.

        Raises:
            UnreadableImageError: none is.
            ValueError: there are none.
        """
        if not self._count:
            raise ValueError("no page")
        kinds = [int(self._page(number).subfiletype) for number in range(self._count)]
        found = [number for number, kind in enumerate(kinds) if not kind & (_PREVIEW | _MASK)]
        if not found:
            raise UnreadableImageError("TIFF of previews alone, as in a camera's raw file; save it as a plain TIFF")
        return found

    def has_more(self) -> bool:
        """Whether the last page that was found names a next one."""
        form, at = self._file.tiff, self._page(self._count - 1).offset
        with suppress(struct.error):
            (tags,) = struct.unpack_from(form.tagnoformat, self._data, at)
            following = at + form.tagnosize + tags * form.tagsize
            return any(self._data[following : following + form.offsetsize])
        return False

    def size(self, number: int) -> tuple[int, int]:
        """Width and height of a page."""
        page = self._page(number)
        return page.imagewidth, page.imagelength

    def bits(self, number: int) -> int:
        """Of a page's samples; Pillow cuts off those beyond 8."""
        return _bits(self._page(number))

    def exif(self, number: int) -> Image.Exif:
        """What a page says of itself, its colour profile and XMP among it."""
        page = self._page(number)
        exif = Image.Exif()
        if self._file.is_bigtiff and self._file.byteorder == ">":  # which Pillow does not read
            plain = (tag for tag in page.tags if isinstance(tag.value, str | bytes | int | tuple))
            exif.update({tag.code: tag.value for tag in plain})
        else:
            exif.bigtiff, exif.endian = self._file.is_bigtiff, self._file.byteorder
            exif.load_from_fp(io.BytesIO(self._data), page.offset)
        return exif

    def words(self, number: int) -> dict[int, bytes]:
        """What a page's tags of XMP, IPTC and profiles hold, by their codes, of whatever type they are said to be."""
        found = (self._page(number).tags.get(code) for code in _WORDS)
        return {tag.code: self._data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] for tag in found if tag}

    def check(self, number: int) -> None:
        """Believe the checksums of a page's deflated pixels, and refuse what would inflate to much more than them.

        Raises:
            UnreadableImageError: one differs, or some are missing.
        """
        page = self._checked_page(number)
        if page.compression not in _DEFLATED:
            return
        size = int(np.prod(page.chunks, dtype=np.int64)) * 2
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            if length:
                check_zlib([self._data[start : start + length]], size, "TIFF")

    def read(self, number: int) -> NDArray[Any] | Image.Image:
        """A page as `(H, W, C)` uint8 or uint16 greys or RGB, with or without alpha, or as a CMYK or Lab picture.

        Raises:
            UnreadableImageError: its pixels are of a kind that koala does not know, or not all there.
        """
        page = self._checked_page(number)
        photometric = PHOTOMETRIC(page.photometric)
        if page.compression not in (COMPRESSION.NONE, COMPRESSION.ADOBE_DEFLATE) or _bits(page) not in (8, 16):
            optional_package("imagecodecs", f"TIFFs of {_bits(page)} bits that are stored like this one")
        samples = page.asarray()
        samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples.reshape(*samples.shape[:2], -1)
        if photometric == PHOTOMETRIC.PALETTE:
            assert page.colormap is not None
            return page.colormap.T[samples[..., 0]]
        samples = fill_range(samples, _bits(page))
        colors = _COLORS[photometric]
        if colors == 4:
            return Image.fromarray(np.ascontiguousarray(convert_depth(samples[..., :4], np.uint8)), "CMYK")
        if photometric in (PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB):
            return _lab(samples, photometric)
        if photometric == PHOTOMETRIC.MINISWHITE:
            np.invert(samples[..., :1], out=samples[..., :1])
        extra = page.extrasamples[0] if page.extrasamples else EXTRASAMPLE.UNSPECIFIED
        if extra == EXTRASAMPLE.ASSOCALPHA:
            divide_by_alpha(samples[..., : colors + 1])
        return samples[..., : colors + (extra != EXTRASAMPLE.UNSPECIFIED)]

    def _page(self, number: int) -> tifffile.TiffPage:
        page = self._file.pages[number]
        assert isinstance(page, tifffile.TiffPage), "frames are pages that tifffile was told to skip over"
        return page

    def _checked_page(self, number: int) -> tifffile.TiffPage:
        """A page whose header asks for nothing unusual."""
        page = self._page(number)
        check_pixels(page.imagewidth, page.imagelength, self._limits)
        if page.is_tiled:
            check_pixels(page.tilewidth, page.tilelength, self._limits)
        if page.dtype is None or page.dtype.kind not in "bu" or _bits(page) > 16:
            kind = f"of {page.dtype}" if page.dtype else f"of {page.bitspersample} bits"
            raise UnreadableImageError(f"TIFF {kind}, whose range is not known; save it with 8 or 16 bits")
        photometric = PHOTOMETRIC(page.photometric)
        if photometric not in _COLORS or page.axes not in ("YX", "YXS", "SYX") or page.samplesperpixel > 5:
            raise UnreadableImageError(
                f"TIFF of {_bits(page)} bits of {photometric.name}: not supported; save it as RGB or grey"
            )
        ends = (start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=True))
        if max(ends, default=0) > len(self._data):
            raise UnreadableImageError("damaged TIFF: it ends too early")
        return page


class TiffWriter:
    """Writes a TIFF of 8 or 16 bits, page by page: EXIF is one without pixels, so the pixels are what is added to it.

    Args:
        file: empty, and open for reading and writing.

    References:
        TIFF Revision 6.0, 1992: sections 2, 8 and 14 (baseline RGB, horizontal differencing); Adobe Photoshop TIFF
        Technical Notes, 2002 (deflate).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._link = 0  # where the offset of the next page goes

    def add(self, picture: NDArray[Any], exif: Image.Exif, words: dict[int, bytes]) -> None:
        """Write a page.

        Args:
            picture: `(H, W, 3 or 4)` uint8 or uint16 sRGB, alpha not multiplied in.
            exif: what the page says.
            words: further tags, such as XMP.
        """
        height, width, channels = picture.shape
        with ThreadPoolExecutor() as pool:
            strips = list(pool.map(lambda rows: zlib.compress(_differences(picture[rows]).data), bands(height)))
        exif.endian = "<"
        exif.update(words | _layout(height, width, channels, 8 * picture.itemsize, [len(strip) for strip in strips]))
        start = self._file.tell() + self._file.tell() % 2 or 8
        head, directory = (whole := exif.tobytes(start).removeprefix(b"Exif\0\0"))[:8], whole[8:]
        self._file.seek(start if self._link else 0)
        self._file.write(directory if self._link else head + directory)
        self._file.writelines(strips)
        end = self._file.tell()
        if self._link:
            self._file.seek(self._link)
            self._file.write(start.to_bytes(4, "little"))
            self._file.seek(end)
        self._link = start + 2 + 12 * int.from_bytes(directory[:2], "little")


def _layout(height: int, width: int, channels: int, bits: int, lengths: Sequence[int]) -> dict[int, Any]:
    """The tags that say where and how a page's pixels are."""
    tags: dict[int, Any] = {
        _Tag.ImageWidth: width,
        _Tag.ImageLength: height,
        _Tag.BitsPerSample: (bits,) * channels,
        _Tag.Compression: int(COMPRESSION.ADOBE_DEFLATE),
        _Tag.PhotometricInterpretation: int(PHOTOMETRIC.RGB),
        _Tag.StripOffsets: tuple(accumulate(lengths[:-1], initial=0)),  # Pillow adds where they begin
        _Tag.SamplesPerPixel: channels,
        _Tag.RowsPerStrip: ROWS,
        _Tag.StripByteCounts: tuple(lengths),
        _Tag.Predictor: int(tifffile.PREDICTOR.HORIZONTAL),
        _Tag.InterColorProfile: srgb_profile(),
    }
    return tags | ({_Tag.ExtraSamples: int(EXTRASAMPLE.UNASSALPHA)} if channels == 4 else {})


def _differences(band: NDArray[Any]) -> NDArray[Any]:
    """Each sample less the one to its left, modulo 2 to the power of its bits, the low byte first."""
    little = band.astype(band.dtype.newbyteorder("<"), copy=False)
    return np.diff(little, axis=1, prepend=little.dtype.type(0))


def _bits(page: tifffile.TiffPage) -> int:
    bits = page.bitspersample
    return bits if isinstance(bits, int) else max(bits)


def _lab(samples: NDArray[Any], photometric: PHOTOMETRIC) -> Image.Image:
    """L*a*b* as Pillow takes it: with a* and b* counted from 0 up and down, as in CIELAB; ICCLAB counts from 128."""
    lab = np.array(convert_depth(samples[..., :3], np.uint8))
    if photometric == PHOTOMETRIC.ICCLAB:
        lab[..., 1:] ^= 128
    return Image.fromarray(lab, "LAB")
