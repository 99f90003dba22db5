"""JPEGs of which libjpeg warns, and of kinds that few decoders know: what costs no pixel is no damage."""

import struct

import imagecodecs
import numpy as np
import pytest
import simplejpeg

from koala.config.data import ResizeRule
from koala.imaging.errors import UnreadableImageError
from koala.imaging.jpeg_intake import validate_or_transcode
from koala.imaging.jpeg_stream import JpegStream
from koala.imaging.photo_io import decode_photo
from tests.imaging.odd_jpegs import ODD_JPEGS, SUBJECT
from tests.photographs import jpeg, make_photo

WHOLE = jpeg(make_photo(1))
GREY = jpeg(make_photo(1).convert("L"))
PROGRESSIVE = jpeg(make_photo(1), progressive=True)
AS_IS = ResizeRule()


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def inserted(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at:]


def scan_header(data: bytes) -> int:
    """Where the last three bytes of the first scan's header are, which a sequential scan does not use."""
    start = data.index(b"\xff\xda")
    return start + 2 + struct.unpack_from(">H", data, start + 2)[0] - 3


def adobe(transform: int) -> bytes:
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


SLIPS = {
    "a line end before the beginning": (b"\r\n" + WHOLE, WHOLE),
    "two beginnings": (WHOLE[:2] + WHOLE, WHOLE),
    "spectral selection": (patched(GREY, scan_header(GREY), b"\0\0\0"), GREY),
    "Adobe transform": (WHOLE[:2] + adobe(5) + WHOLE[20:], WHOLE),  # in place of JFIF's segment of 18 bytes
    "JFIF revision": (patched(WHOLE, WHOLE.index(b"JFIF") + 5, b"\3"), WHOLE),
    "no end marker": (WHOLE[:-2], WHOLE),
    "zeros before the end marker": (inserted(WHOLE, -2, bytes(7)), WHOLE),
    "rubbish before the end marker": (inserted(WHOLE, -2, b"rubbish"), WHOLE),
    "zeros before a table": (inserted(WHOLE, WHOLE.index(b"\xff\xc4"), bytes(2)), WHOLE),
    "rubbish before a table": (inserted(WHOLE, WHOLE.index(b"\xff\xdb"), b"rubbish"), WHOLE),
    "rubbish between scans": (inserted(PROGRESSIVE, PROGRESSIVE.rindex(b"\xff\xc4"), b"rubbish" * 4), PROGRESSIVE),
    "zeros before the last scan": (inserted(PROGRESSIVE, PROGRESSIVE.rindex(b"\xff\xda"), bytes(9)), PROGRESSIVE),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_that_cost_no_pixel_are_taken_out(slip):
    """libjpeg warns of each; what is stored it warns of no longer, with the very pixels."""
    broken, whole = SLIPS[slip]
    with pytest.raises(ValueError):
        simplejpeg.decode_jpeg(broken, strict=True)
    taken = validate_or_transcode(broken, AS_IS)
    assert taken.changes and taken.jpeg != broken
    expected = simplejpeg.decode_jpeg(whole)
    assert np.array_equal(simplejpeg.decode_jpeg(taken.jpeg, strict=True), expected)
    assert np.array_equal(decode_photo(broken).pixels, expected)


@pytest.mark.parametrize("trailing", [b"\0" * 100, WHOLE, b"video" * 1000])
def test_what_follows_the_end_is_passed_over(trailing):
    data = WHOLE + trailing
    assert validate_or_transcode(data, AS_IS).jpeg is data
    assert np.array_equal(decode_photo(data).pixels, simplejpeg.decode_jpeg(WHOLE))


@pytest.mark.parametrize("whole", [WHOLE, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("slip", [b"", bytes(9)])
def test_missing_pixels_are_refused_behind_a_slip_too(whole, slip):
    """libjpeg speaks of its first warning alone."""
    half = inserted(whole, whole.index(b"\xff\xdb"), slip)[: len(whole) * 3 // 4] + b"\xff\xd9"
    for read in (decode_photo, lambda data: validate_or_transcode(data, AS_IS)):
        with pytest.raises(UnreadableImageError, match=r"damaged (progressive )?JPEG(: it ends too early)?$"):
            read(half)


def test_a_height_that_stands_behind_the_pixels():
    """DNL, T.81 B.2.5: libjpeg refuses it."""
    frame = WHOLE.index(b"\xff\xc0")
    height = WHOLE[frame + 5 : frame + 7]
    data = inserted(patched(WHOLE, frame + 5, b"\0\0"), -2, b"\xff\xdc\0\4" + height)
    assert np.array_equal(decode_photo(data).pixels, simplejpeg.decode_jpeg(WHOLE))
    assert validate_or_transcode(data, AS_IS).height == 40


@pytest.mark.parametrize("kind", ODD_JPEGS)
def test_unusual_kinds_are_read_and_stored_as_usual_ones(kind):
    """nvJPEG and DALI need not know them."""
    data = ODD_JPEGS[kind]
    expected = imagecodecs.jpeg8_decode(data).astype(int)
    assert np.abs(expected - np.asarray(make_photo(*SUBJECT))).mean() < 15, "of quality 75, with few samples of colour"
    assert np.abs(decode_photo(data).pixels - expected).max() <= 1
    taken = validate_or_transcode(data, AS_IS)
    assert taken.changes == ("encoded anew",) and JpegStream(taken.jpeg).frame.marker == 0xC0
    assert np.abs(simplejpeg.decode_jpeg(taken.jpeg, strict=True) - expected).mean() < 4
    with pytest.raises(UnreadableImageError):
        validate_or_transcode(data[: len(data) * 9 // 10], AS_IS)


def test_12_bits_are_kept():
    picture = np.asarray(make_photo(2), np.uint16) * 16
    photo = decode_photo(imagecodecs.jpeg8_encode(picture, level=98, bitspersample=12))
    assert photo.pixels.dtype == np.uint16 and photo.pixels.max() > 60_000
    assert np.abs(photo.pixels / 65535 - picture / 4095).mean() < 0.01
    taken = validate_or_transcode(imagecodecs.jpeg8_encode(picture, bitspersample=12), AS_IS)
    assert np.abs(simplejpeg.decode_jpeg(taken.jpeg) - picture / 16).mean() < 6


def test_jpeg_ls_is_read_exactly():
    picture = np.asarray(make_photo(2))
    assert np.array_equal(decode_photo(imagecodecs.jpegls_encode(picture)).pixels, picture)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WHOLE.replace(b"\xff\xc0", b"\xff\xc5", 1), "hierarchical JPEG: not supported; save it as"),
        (WHOLE.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x07", 1), "7-bit JPEG: not supported"),
        (ODD_JPEGS["-sample 3x1"].replace(b"\2\x11\1", b"\2\x21\1", 1), "JPEG sampled 3x1, 2x1, 1x1: not supported"),
        (WHOLE[:100], "damaged JPEG: it has no header"),
    ],
)
def test_a_refusal_says_what_the_file_is(data, message):
    with pytest.raises(UnreadableImageError, match=message):
        decode_photo(data)


def test_12_bits_without_the_package_that_reads_them(monkeypatch):
    data = imagecodecs.jpeg8_encode(np.zeros((8, 8, 3), np.uint16), bitspersample=12)
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(UnreadableImageError, match="12-bit JPEGs need imagecodecs; pip install"):
        decode_photo(data)


def test_scans_without_end_are_refused():
    """Each takes libjpeg the time of a whole picture, and some ten bytes."""
    scan = PROGRESSIVE.rindex(b"\xff\xda")
    many = PROGRESSIVE[:scan] + PROGRESSIVE[scan:-2] * 600 + PROGRESSIVE[-2:]
    with pytest.raises(UnreadableImageError, match=r"JPEG of 6\d\d scans, more than 500"):
        validate_or_transcode(many, AS_IS)


def test_cmyk_of_which_a_part_is_missing():
    whole = jpeg(make_photo(2, 200, 100).convert("CMYK"))
    with pytest.raises(UnreadableImageError, match="damaged JPEG: it ends too early"):
        decode_photo(whole[: len(whole) // 2] + b"\xff\xd9")
