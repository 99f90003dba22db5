"""Whatever goes wrong in a decoder is one kind of error, which says what the file is."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError

from koala.config.data import ResizeRule
from koala.config.imaging import PictureLimits
from koala.core.errors import UserError
from koala.imaging import decoders
from koala.imaging.errors import UnreadableImageError, check_pixels, decoder_errors, kind_of
from koala.imaging.jpeg_intake import decode_image, validate_or_transcode
from koala.imaging.photo_io import decode_photo, is_large, open_photos
from tests.photographs import encoded, make_photo

WAYS = {
    "photo": decode_photo,
    "shard": lambda data, limits=None: validate_or_transcode(data, ResizeRule(), limits),
    "picture": decode_image,
}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "AVIF that does not fit into memory"),
        (RecursionError("maximum recursion depth"), "damaged AVIF"),
        (RuntimeError("Failed to decode image: Missing or empty image item"), "damaged AVIF"),
        (ZeroDivisionError("division by zero"), "damaged AVIF"),
        (EOFError(), "damaged AVIF: it ends too early"),
        (OSError("image file is truncated (5 bytes not processed)"), "damaged AVIF: it ends too early"),
        (UnidentifiedImageError("cannot identify image file <_io.BytesIO>"), "damaged AVIF"),
        (Image.DecompressionBombError("bomb"), "AVIF of too many pixels"),
        (UnreadableImageError("said by koala"), "said by koala"),
    ],
)
def test_every_exception_is_one_that_says_what_the_file_is(error, message):
    with pytest.raises(UnreadableImageError, match=f"^{message}$"), decoder_errors("AVIF"):
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_it(error):
    with pytest.raises(error), decoder_errors():
        raise error


def test_a_users_error_stays_one():
    with pytest.raises(UserError, match="as it was"), decoder_errors():
        raise UserError("as it was")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), RuntimeError("inner words"), ZeroDivisionError()])
def test_no_way_lets_a_decoders_exception_through(way, error, monkeypatch):
    def fail(*_args, **_options):
        raise error

    data = encoded(make_photo(0), "BMP")
    monkeypatch.setattr(decoders.Image, "open", fail)
    with pytest.raises(UnreadableImageError, match="BMP") as raised:
        WAYS[way](data)
    assert "inner words" not in str(raised.value)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", ""),
        (b"text" * 9, ""),
        (encoded(make_photo(0), "JPEG"), "JPEG"),
        (encoded(make_photo(0), "QOI"), "QOI"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera's raw file"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_kinds_are_told_by_their_first_bytes(data, kind):
    assert kind_of(data) == kind


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\x0a" + bytes(99), "JPEG XL: not supported; save it as JPEG, PNG or TIFF"),
        (b"II\xbc\x01" + bytes(99), "JPEG XR: not supported"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "camera's raw file: not supported"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video: not supported"),
        (encoded(make_photo(0), "EPS"), "EPS: not supported"),
        (b"text" * 99, "not an image"),
        (b"", "empty file"),
    ],
)
def test_a_refusal_says_what_the_file_is(way, data, message):
    with pytest.raises(UnreadableImageError, match=message):
        WAYS[way](data)


@pytest.mark.parametrize("way", ["photo", "shard"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "BMP", "GIF", "JPEG2000"])
def test_pixels_are_counted_before_they_are_decoded(way, kind, monkeypatch):
    data = encoded(make_photo(0, 100, 60), kind)
    WAYS[way](data, PictureLimits(max_pixels=6000))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("its pixels were decoded"))
    with pytest.raises(
        UnreadableImageError, match=r"100x60 pixels are more than the 5999 that are allowed \(max_pixels\)"
    ):
        WAYS[way](data, PictureLimits(max_pixels=5999))


def test_bytes_are_counted_before_they_are_read(tmp_path):
    """A file without an end on the disk: 1 TB, of which none is there."""
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"huge.png: 1099511627776 bytes are more than the 1073741824 that are allowed"):
        open_photos(path)


def test_what_has_no_end_is_not_opened(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    assert not is_large(tmp_path / "pipe.jpg")
    with pytest.raises(UserError, match=r"pipe.jpg: neither a file nor a folder"):
        open_photos(tmp_path / "pipe.jpg")


def test_more_pixels_can_be_allowed(monkeypatch):
    """Also more than Pillow allows by itself."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = encoded(Image.fromarray(np.zeros((60, 60), np.uint8)), "BMP")
    assert decode_photo(data, PictureLimits(max_pixels=3600)).pixels.shape == (60, 60, 3)
    assert Image.open(io.BytesIO(data)).size == (60, 60)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_pixels_is_none(size):
    with pytest.raises(UnreadableImageError, match="pixels"):
        check_pixels(*size, PictureLimits())


def test_webps_are_as_long_as_they_say():
    """Whoever cuts one off there loses nothing that Pillow would miss."""
    data = encoded(make_photo(0), "WEBP")
    for broken in (
        data[:4] + (len(data) + 100).to_bytes(4, "little") + data[8:],
        data[:-2],
        data[:16] + b"\xff" + data[17:],
    ):
        with pytest.raises(UnreadableImageError, match="damaged WEBP"):
            validate_or_transcode(broken, ResizeRule())
