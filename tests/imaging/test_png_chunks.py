"""PNGs chunk by chunk: shards believe their checksums, and their colours are what the specification's order says."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from koala.config.data import ResizeRule
from koala.imaging.color_profile import BT709, SRGB_CURVE, Curve, Primaries, profile_of
from koala.imaging.errors import UnreadableImageError
from koala.imaging.jpeg_intake import validate_or_transcode
from koala.imaging.photo_io import decode_photo
from koala.imaging.png_chunks import Chunk, PngChunks
from tests.photographs import encoded, make_photo, swapped_profile

PHOTO = make_photo(4)
PIXELS = np.asarray(PHOTO)
PNG = encoded(PHOTO, "PNG")
HEADER_END = 33
AS_IS = ResizeRule()

GAMMA_1, GAMMA_SRGB = (Chunk(b"gAMA", struct.pack(">I", gamma), True) for gamma in (100_000, 45_455))
SRGB = Chunk(b"sRGB", b"\0", True)
P3 = Chunk(b"cICP", bytes([12, 13, 0, 1]), True)
BT2020_LINEAR = Chunk(b"cICP", bytes([9, 8, 0, 1]), True)
CHROMATICITIES = Chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 15000, 6000, 30000, 60000, 64000, 33000), True)  # BGR
SWAPPED = Chunk(b"iCCP", b"name\0\0" + zlib.compress(swapped_profile()), True)
LINEAR = Chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(profile_of(BT709, Curve(1.0))), True)


def with_chunks(data: bytes, *chunks: Chunk) -> bytes:
    return data[:HEADER_END] + b"".join(chunk.encoded() for chunk in chunks) + data[HEADER_END:]


def damaged(data: bytes, kind: bytes) -> bytes:
    """A wrong checksum for the first chunk of this kind."""
    at = data.index(kind)
    length = struct.unpack_from(">I", data, at - 4)[0]
    return data[: at + 4 + length] + b"oops" + data[at + 8 + length :]


def with_pixels(data: bytes, stream: bytes) -> bytes:
    """The same picture with another zlib stream, in a chunk whose own checksum is right."""
    at = data.index(b"IDAT") - 4
    return data[:at] + Chunk(b"IDAT", stream, True).encoded() + Chunk(b"IEND", b"", True).encoded()


def raw(data: bytes) -> bytes:
    at = data.index(b"IDAT")
    return zlib.decompress(data[at + 4 : at + 4 + struct.unpack_from(">I", data, at - 4)[0]])


# ---------------------------------------------------------------- checksums


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (damaged(PNG, b"IHDR"), "the checksum of its IHDR chunk differs"),
        (damaged(PNG, b"IDAT"), "the checksum of its IDAT chunk differs"),
        (damaged(encoded(PHOTO.convert("P"), "PNG"), b"PLTE"), "the checksum of its PLTE chunk differs"),
        (damaged(PNG, b"IEND"), "the checksum of its IEND chunk differs"),
        (PNG[:-12], "it ends too early"),
        (with_pixels(PNG, zlib.compress(raw(PNG))[:-4] + b"oops"), "the checksum of its pixels differs"),
        (with_pixels(PNG, zlib.compress(raw(PNG))[:-4]), "its pixels end too early"),
        (with_pixels(PNG, zlib.compress(raw(PNG) + bytes(3 << 20))), "it holds more than its pixels"),
    ],
)
def test_shards_believe_checksums(data, reason):
    with pytest.raises(UnreadableImageError, match=f"damaged PNG: {reason}"):
        validate_or_transcode(data, AS_IS)


def test_photos_of_which_all_pixels_decode_are_coloured():
    for data in (damaged(PNG, b"IDAT"), PNG[:-12], with_pixels(PNG, zlib.compress(raw(PNG))[:-4] + b"oops")):
        assert np.array_equal(decode_photo(data).pixels, PIXELS)
    for data in (damaged(PNG, b"IHDR"), PNG[: len(PNG) // 2]):
        with pytest.raises(UnreadableImageError, match="damaged PNG"):
            decode_photo(data)


@pytest.mark.parametrize("kind", [b"tEXt", b"gAMA", b"iCCP", b"eXIf", b"zTXt", b"tIME"])
@pytest.mark.parametrize("source", [PNG, imagecodecs.png_encode(PIXELS * np.uint16(257))], ids=["8 bits", "16 bits"])
def test_what_pixels_do_not_need_may_be_damaged(kind, source):
    """Pillow refuses the whole file."""
    data = with_chunks(damaged(with_chunks(source, Chunk(kind, b"a\0b", True)), kind), GAMMA_SRGB)
    assert np.array_equal(decode_photo(data).pixels // (257 if source is not PNG else 1), PIXELS)
    validate_or_transcode(data, AS_IS)


def test_text_that_inflates_without_end_is_left_out():
    """100 MB of it; Pillow refuses the whole file."""
    bomb = Chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20)), True)
    photo = decode_photo(with_chunks(PNG, bomb))
    assert np.array_equal(photo.pixels, PIXELS)


def test_a_kind_of_apples_own_is_named():
    data = PNG[:8] + Chunk(b"CgBI", b"\0\0\0\0", True).encoded() + PNG[8:]
    with pytest.raises(UnreadableImageError, match=r"PNG of Apple's own kind \(CgBI\): not supported"):
        decode_photo(data)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_whole_ones_of_all_modes_pass(mode):
    PngChunks(encoded(PHOTO.convert(mode), "PNG")).check()


def test_interlaced_ones_pass():
    """Their filters are more than one a row: PNG specification, 9.2."""
    side, passes = 9, [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    grey = np.arange(side * side, dtype=np.uint8).reshape(side, side)
    rows = [row for x, y, across, down in passes for row in grey[y::down, x::across] if row.size]
    header = Chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 1), True)
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = PNG[:8] + header.encoded() + with_pixels(PNG, stream)[PNG.index(b"IDAT") - 4 :]
    assert np.array_equal(decode_photo(data).pixels[..., 0], grey)
    validate_or_transcode(data, AS_IS)


def test_the_first_frame_of_an_animation():
    data = encoded(PHOTO, "PNG", save_all=True, append_images=[make_photo(5)])
    chunks = PngChunks(data)
    assert chunks.is_animation and b"acTL" not in chunks.still()
    assert np.array_equal(decode_photo(data).pixels, PIXELS)
    assert "without the frames of an animation after the first" in validate_or_transcode(data, AS_IS).changes
    assert not PngChunks(PNG).is_animation


# ---------------------------------------------------------------- colours


def linear(pixels: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    value = pixels / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def read_linear(*chunks: Chunk, mode: str = "RGB") -> np.ndarray:
    """How a picture whose levels are light is read, of 16 bits so that none is lost, in 0..255."""
    light = np.rint(linear(np.asarray(PHOTO.convert(mode))) * 65535).astype(np.uint16)
    return decode_photo(with_chunks(imagecodecs.png_encode(light), *chunks)).pixels / 257


def test_gamma_counts_where_there_is_no_profile():
    assert np.abs(read_linear(GAMMA_1) - PIXELS).max() < 0.5
    assert np.abs(read_linear(GAMMA_1, mode="L") - np.asarray(PHOTO.convert("L"))[..., None]).max() < 0.5
    assert np.abs(read_linear() - PIXELS).max() > 50


@pytest.mark.parametrize(
    "chunks",
    [
        (GAMMA_1, SRGB),
        (GAMMA_SRGB,),
        (
            GAMMA_SRGB,
            CHROMATICITIES._replace(
                payload=struct.pack(">8I", *(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
            ),
        ),
        (CHROMATICITIES, GAMMA_1, SRGB),
        (Chunk(b"gAMA", bytes(4), True),),
        (Chunk(b"cHRM", bytes(32), True),),
        (Chunk(b"gAMA", b"x", True),),
        (Chunk(b"iCCP", b"name\0\0no zlib", True), SRGB),
        (Chunk(b"iCCP", b"name\0\0" + zlib.compress(b"no profile"), True), GAMMA_SRGB),
        (Chunk(b"cICP", bytes([1, 13, 0, 1]), True), SWAPPED, GAMMA_1),
        (Chunk(b"cICP", bytes([2, 2, 0, 1]), True), SRGB, GAMMA_1),
        (Chunk(b"cICP", bytes([1, 8, 0, 0]), True),),
    ],
    ids=lambda chunks: "+".join(chunk.kind.decode() for chunk in chunks),
)
def test_what_says_srgb_or_nothing_that_can_be_read_changes_nothing(chunks):
    assert np.array_equal(decode_photo(with_chunks(PNG, *chunks)).pixels, PIXELS)


@pytest.mark.parametrize(
    ("chunks", "first"),
    [
        ((GAMMA_1, SWAPPED), SWAPPED),
        ((SRGB, SWAPPED), SWAPPED),
        ((GAMMA_1, LINEAR, SRGB), LINEAR),
        ((P3, SWAPPED, SRGB, GAMMA_1), P3),
        ((GAMMA_1, SRGB, LINEAR, BT2020_LINEAR), BT2020_LINEAR),
    ],
)
def test_the_order_is_the_specifications(chunks, first):
    """PNG specification, third edition, 4.3: cICP, iCCP, sRGB, gAMA and cHRM; not that of the file."""
    alone = decode_photo(with_chunks(PNG, first)).pixels
    assert np.array_equal(decode_photo(with_chunks(PNG, *chunks)).pixels, alone)
    assert np.abs(alone - PIXELS.astype(int)).max() > 8


def test_chromaticities_are_those_of_the_primaries():
    """Red and blue exchanged."""
    red = encoded(Image.new("RGB", (8, 8), (200, 20, 20)), "PNG")
    pixels = decode_photo(with_chunks(red, CHROMATICITIES)).pixels
    assert np.abs(pixels.astype(int) - (20, 20, 200)).max() <= 2


def test_code_points_of_display_p3():
    """sRGB's full red is (0.917, 0.200, 0.139) in Display P3: CSS Color Module Level 4, as its sample code has it."""
    red = encoded(Image.fromarray(np.full((8, 8, 3), np.rint(np.array([0.917, 0.200, 0.139]) * 255), np.uint8)), "PNG")
    pixels = decode_photo(with_chunks(red, P3)).pixels
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused(transfer, name):
    data = with_chunks(PNG, Chunk(b"cICP", bytes([9, transfer, 0, 1]), True))
    with pytest.raises(UnreadableImageError, match=rf"picture of high dynamic range \({name}\): not supported"):
        decode_photo(data)


def test_shards_convert_as_photos_do():
    taken = validate_or_transcode(with_chunks(PNG, CHROMATICITIES), AS_IS)
    assert "converted to sRGB" in taken.changes
    stored = np.asarray(Image.open(io.BytesIO(taken.jpeg)), int)
    assert np.abs(stored - decode_photo(with_chunks(PNG, CHROMATICITIES)).pixels).mean() < 4


def test_profiles_made_here_do_what_they_say():
    """Through littlecms: sRGB's own primaries and curve change nothing, Adobe's (1998) give its published white."""
    assert profile_of(Primaries((0.3, 0.3), (0.3, 0.3), (0.3, 0.3), (0.3, 0.3)), SRGB_CURVE) is None
    adobe = profile_of(BT709._replace(green=(0.21, 0.71)), Curve(563 / 256))
    picture = encoded(Image.new("RGB", (8, 8), "white"), "PNG", icc_profile=adobe)
    assert (decode_photo(picture).pixels == 255).all()
