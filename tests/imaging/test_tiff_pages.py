"""TIFFs that Pillow does not read or would cut to 8 bits, and those of several pages."""

import io
import zlib

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from koala.config.data import ResizeRule
from koala.config.imaging import PictureLimits
from koala.imaging import photo_io
from koala.imaging.errors import UnreadableImageError
from koala.imaging.jpeg_intake import validate_or_transcode
from koala.imaging.photo_io import Photo, PhotoFile, decode_photo, write_pages
from tests.photographs import encoded, make_photo, packet

PHOTO = np.asarray(make_photo(1, 61, 43))
GREY = np.asarray(make_photo(1, 61, 43).convert("L"))
DEEP = PHOTO * np.uint16(257)
XMP = packet().replace(b'tiff:Orientation="6"', b"")
AS_IS = ResizeRule()
Tag = ExifTags.Base


def tiff(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **{"metadata": None, "software": False, **options})
    return buffer.getvalue()


def stored(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(validate_or_transcode(data, AS_IS).jpeg)), int)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [True, False])
@pytest.mark.parametrize("picture", [PHOTO, DEEP], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_both_byte_orders_of_both_kinds(byteorder, bigtiff, picture, compression):
    data = tiff(
        picture,
        photometric="rgb",
        byteorder=byteorder,
        bigtiff=bigtiff,
        compression=compression,
        extratags=[(int(Tag.Artist), "s", 0, "Zoe", True), (700, "B", len(XMP), XMP, True)],
    )
    photo = decode_photo(data)
    assert np.array_equal(photo.pixels, picture) and photo.xmp == XMP and b"Zoe" in photo.exif
    assert np.abs(stored(data) - PHOTO).mean() < 4


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_other_depths_fill_the_whole_range(bits):
    levels = np.rint(GREY / 255 * ((1 << bits) - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    data = tiff(levels, bitspersample=bits, photometric="minisblack")
    photo = decode_photo(data)
    assert photo.pixels.dtype == (np.uint8 if bits <= 8 else np.uint16)
    most = 255 if bits <= 8 else 65535
    assert np.abs(photo.pixels[..., 0] / most - levels / ((1 << bits) - 1)).max() < 0.003
    assert np.abs(stored(data) / 255 - levels / ((1 << bits) - 1)).mean() < 0.02


@pytest.mark.parametrize("compression", ["png", "jpeg2000", "jpegxl", "lerc", "zstd", "lzma"])
@pytest.mark.parametrize("picture", [PHOTO, DEEP], ids=["8 bits", "16 bits"])
def test_compressions_that_pillow_does_not_know(compression, picture):
    assert np.array_equal(decode_photo(tiff(picture, photometric="rgb", compression=compression)).pixels, picture)


def test_webp_within_a_tiff():
    data = tiff(PHOTO, photometric="rgb", compression="webp", compressionargs={"lossless": True})
    assert np.array_equal(decode_photo(data).pixels, PHOTO)


def test_printers_colours_of_16_bits_are_those_of_8():
    cmyk = np.asarray(make_photo(1, 61, 43).convert("CMYK"))
    eight, sixteen = (tiff(each, photometric="separated") for each in (cmyk, cmyk * np.uint16(257)))
    assert np.array_equal(decode_photo(sixteen).pixels, decode_photo(eight).pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("kind", "zero"), [("cielab", 0), ("icclab", 128)])
def test_lab(dtype, kind, zero):
    """L* of 50 is 119 in sRGB; a* of 40 makes it red. CIELAB counts a* from 0, ICCLAB from 128."""
    scale = np.iinfo(dtype).max // 255
    lab = np.array([[[128, zero, zero], [128, (zero + 40) % 256, zero]]], dtype) * dtype(scale)
    grey, red = decode_photo(tiff(lab, photometric=kind)).pixels[0].astype(int)
    assert np.abs(grey - 119).max() <= 2
    assert red[0] - red[1] > 60


def test_palettes_of_16_bits():
    colors = np.random.default_rng(0).integers(0, 65536, (3, 65536), np.uint16)
    data = tiff(GREY.astype(np.uint16) * 3, photometric="palette", colormap=colors)
    assert np.array_equal(decode_photo(data).pixels, colors.T[GREY.astype(int) * 3])


@pytest.mark.parametrize(
    ("array", "options", "reason"),
    [
        (np.zeros((8, 8), np.int16), {}, "TIFF of int16, whose range is not known; save it with 8 or 16 bits"),
        (np.zeros((8, 8), np.float16), {}, "TIFF of float16, whose range"),
        (
            np.zeros((8, 8, 7), np.uint16),
            {"photometric": "rgb", "planarconfig": "contig"},
            "TIFF of 16 bits of RGB: not",
        ),
        (
            np.zeros((8, 8), np.uint16),
            {"photometric": "logl"},
            "TIFF of 16 bits of LOGL: not supported; save it as RGB",
        ),
    ],
)
def test_a_refusal_says_what_the_file_is(array, options, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode_photo(tiff(array, **options))


def test_shards_believe_the_checksums_of_deflated_pixels():
    data = bytearray(tiff(PHOTO, photometric="rgb", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        end = page.dataoffsets[0] + page.databytecounts[0]
    data[end - 4 : end] = b"oops"
    with pytest.raises(UnreadableImageError, match="damaged TIFF: the checksum of its pixels differs"):
        validate_or_transcode(bytes(data), AS_IS)


def test_a_strip_that_inflates_without_end_is_refused():
    """1 GB of zeros where 1 MB of pixels belong."""
    bomb = zlib.compress(bytes(1 << 30), 1)
    small = tiff(np.zeros((600, 600, 3), np.uint8), photometric="rgb", compression="zlib", rowsperstrip=600)
    with tifffile.TiffFile(io.BytesIO(small)) as file:
        tags = file.pages.first.tags
        offset, length = (tags[name].valueoffset for name in ("StripOffsets", "StripByteCounts"))
    data = bytearray(small + bomb)
    data[offset : offset + 4] = len(small).to_bytes(4, "little")
    data[length : length + 4] = len(bomb).to_bytes(4, "little")
    with pytest.raises(UnreadableImageError, match="damaged TIFF: it holds more than its pixels"):
        validate_or_transcode(bytes(data), AS_IS)


@pytest.mark.parametrize("tag", [Tag.ImageWidth, Tag.ImageLength, Tag.TileWidth, Tag.TileLength])
def test_sizes_beyond_the_limit_are_refused(tag):
    data = bytearray(tiff(DEEP, photometric="rgb", tile=(16, 16)))
    entry = data.index(int(tag).to_bytes(2, "little"), 8)
    data[entry + 2 : entry + 12] = b"\4\0\1\0\0\0" + (65_000_000).to_bytes(4, "little")
    with pytest.raises(UnreadableImageError, match="pixels are more than the 100000000 that are allowed"):
        decode_photo(bytes(data), PictureLimits())


# ---------------------------------------------------------------- pages


def test_all_pages_are_read_but_previews_and_masks():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for picture, kind in ((GREY, 2), (GREY[::4, ::4], 1), (DEEP, 2), (GREY, 1), (PHOTO, 0)):
            photometric = "rgb" if picture.ndim == 3 else "minisblack"
            writer.write(picture, photometric=photometric, subfiletype=kind, metadata=None)
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as file:
        mask = file.pages[3].tags["NewSubfileType"].valueoffset
    buffer.getbuffer()[mask] = 4
    pages = list(PhotoFile(buffer.getvalue()))
    assert [page.pixels.dtype for page in pages] == [np.uint8, np.uint16, np.uint8]
    assert np.array_equal(pages[0].pixels[..., 1], GREY)
    assert np.array_equal(pages[1].pixels, DEEP) and np.array_equal(pages[2].pixels, PHOTO)
    assert len(PhotoFile(buffer.getvalue())) == 3
    assert "the first of 3 pages" in validate_or_transcode(buffer.getvalue(), AS_IS).changes


def test_each_page_keeps_what_it_says_and_how_it_is_turned():
    first, second = Image.Exif(), Image.Exif()
    first[Tag.ImageDescription], second[Tag.ImageDescription], second[Tag.Orientation] = "recto", "verso", 6
    pages = [Image.fromarray(PHOTO), Image.fromarray(PHOTO)]
    for page, exif in zip(pages, (first, second), strict=True):
        page.encoderinfo = {"exif": exif}
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:], exif=first)
    one, two = PhotoFile(data)
    assert b"recto" in one.exif and b"verso" in two.exif
    assert np.array_equal(two.pixels, np.rot90(PHOTO, -1))


def test_a_damaged_page_is_named():
    data = encoded(Image.fromarray(PHOTO), "TIFF", save_all=True, append_images=[make_photo(2), make_photo(3)])
    pages = iter(PhotoFile(data[: len(data) - 100]))
    next(pages), next(pages)
    with pytest.raises(UnreadableImageError, match="page 3: damaged TIFF: it ends too early"):
        next(pages)


@pytest.mark.parametrize("suffix", [".tif", ".TIFF"])
def test_pages_are_written_one_after_the_other(suffix, tmp_path):
    """Of any size and depth; other programs read them, and each has its own words."""
    pictures = [PHOTO, DEEP[:20], PHOTO[:1, :1], np.zeros((300, 7, 3), np.uint8)]
    likes = [
        Photo(each, np.full(each.shape[:2], 9, each.dtype), xmp=packet(f"<tiff:Make>{n}</tiff:Make>"), dpi=(300, 300))
        for n, each in enumerate(pictures)
    ]
    path = tmp_path / f"pages{suffix}"
    write_pages(zip(pictures, likes, strict=True), path)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 4
        for page, picture in zip(file.pages, pictures, strict=True):
            assert np.array_equal(page.asarray()[..., :3], picture)
    with Image.open(path) as image:
        assert image.n_frames == 4
    for number, (again, picture) in enumerate(zip(photo_io.open_photos(path), pictures, strict=True)):
        assert np.array_equal(again.pixels, picture) and (again.alpha == 9).all() and again.dpi == (300, 300)
        assert f"<tiff:Make>{number}</tiff:Make>".encode() in again.xmp


def test_one_page_gives_the_bytes_of_a_photo(tmp_path):
    photo = Photo(PHOTO, xmp=packet())
    write_pages([(PHOTO, photo)], tmp_path / "page.tif")
    assert (tmp_path / "page.tif").read_bytes() == photo_io.encode_photo(PHOTO, photo, ".tif")


def test_nothing_is_left_where_a_page_fails(tmp_path):
    def pages():
        yield PHOTO, Photo(PHOTO)
        raise UnreadableImageError("page 2")

    with pytest.raises(UnreadableImageError):
        write_pages(pages(), tmp_path / "pages.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("picture", [PHOTO, DEEP], ids=["8 bits", "16 bits"])
def test_the_orientation_of_xmp_counts_where_there_is_no_other(picture):
    data = tiff(picture, photometric="rgb", extratags=[(700, "B", len(packet()), packet(), True)])
    assert np.array_equal(decode_photo(data).pixels, np.rot90(picture, -1))
