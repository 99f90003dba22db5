"""What may enter a shard, and what is made of what may not as it is."""

import io
import sys

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms

from koala.config.data import ResizeRule
from koala.imaging.errors import UnreadableImageError
from koala.imaging.jpeg_intake import validate_or_transcode
from tests.photographs import encoded, jpeg, make_photo, swapped_profile

AS_IS = ResizeRule()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}])
def test_upright_jpegs_are_taken_as_they_are(options):
    data = jpeg(make_photo(0), **options)
    assert validate_or_transcode(data, AS_IS).jpeg is data
    assert validate_or_transcode(data, AS_IS).changes == ()


def test_grey_jpegs_are_taken_as_they_are():
    data = jpeg(make_photo(0).convert("L"))
    assert validate_or_transcode(data, AS_IS).jpeg is data


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_become_jpegs_in_444(kind):
    photo = make_photo(3)
    data = encoded(photo, kind)
    admitted = validate_or_transcode(data, AS_IS)
    image = decoded(admitted.jpeg)
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", photo.size)
    assert image.layer[0][1:3] == (1, 1), "no chroma subsampling"
    assert f"encoded from {kind}" in admitted.changes
    assert np.abs(np.asarray(image, int) - np.asarray(decoded(data).convert("RGB"), int)).mean() < 4


def test_cmyk_becomes_rgb():
    admitted = validate_or_transcode(jpeg(make_photo(2).convert("CMYK")), AS_IS)
    assert decoded(admitted.jpeg).mode == "RGB"
    assert "converted from CMYK" in admitted.changes


def test_transparency_shows_white():
    photo = make_photo(1).convert("RGBA")
    photo.putalpha(0)
    assert np.asarray(decoded(validate_or_transcode(encoded(photo, "PNG"), AS_IS).jpeg)).min() > 250


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greys_keep_their_greys(kind):
    ramp = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    image = decoded(validate_or_transcode(encoded(Image.fromarray(ramp), kind), AS_IS).jpeg)
    assert image.mode == "L"
    assert np.abs(np.asarray(image, int) - (ramp >> 8)).max() <= 4


def test_floats_are_refused():
    with pytest.raises(UnreadableImageError, match="TIFF of float32, whose range is not known"):
        validate_or_transcode(encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), AS_IS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_turned_photos_become_upright(kind):
    photo = make_photo(4, width=80, height=40)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: shown 40 wide and 80 high
    admitted = validate_or_transcode(encoded(photo, kind, exif=exif, quality=95), AS_IS)
    image = decoded(admitted.jpeg)
    assert (admitted.height, admitted.width) == (80, 40) == (image.height, image.width)
    assert image.getexif().get(0x0112, 1) == 1
    expected = np.asarray(photo.rotate(-90, expand=True), int)
    assert np.abs(np.asarray(image, int) - expected).mean() < 4


@pytest.mark.parametrize(
    ("side", "pixels", "size"), [("short", 20, (30, 20)), ("long", 30, (30, 20)), ("short", 400, (60, 40))]
)
def test_resizing_never_enlarges(side, pixels, size):
    admitted = validate_or_transcode(jpeg(make_photo(0)), ResizeRule(side=side, pixels=pixels))
    assert decoded(admitted.jpeg).size == size == (admitted.width, admitted.height)
    assert (admitted.source_width, admitted.source_height) == (60, 40)


@pytest.mark.parametrize("cut", [1, 100, -10, -200, -2000])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_truncated_jpegs_are_refused(cut, options):
    with pytest.raises(UnreadableImageError):
        validate_or_transcode(jpeg(make_photo(0, 640, 480), **options)[:cut], AS_IS)


def test_truncated_and_closed_jpegs_are_refused():
    """Half of the data and then an end marker: libjpeg fills up with grey and only warns."""
    whole = jpeg(make_photo(0, 640, 480))
    with pytest.raises(UnreadableImageError, match="damaged JPEG: it ends too early"):
        validate_or_transcode(whole[: len(whole) // 2] + b"\xff\xd9", AS_IS)


def test_damage_that_libjpeg_notices_is_refused():
    """A marker in the middle of the data, which stands for a damaged disk or transfer."""
    whole = bytearray(jpeg(make_photo(0, 640, 480)))
    whole[len(whole) // 2 : len(whole) // 2 + 2] = b"\xff\xd4"
    with pytest.raises(UnreadableImageError, match="damaged JPEG"):
        validate_or_transcode(bytes(whole), AS_IS)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_files_of_other_kinds_are_refused(kind):
    data = encoded(make_photo(0, 200, 100), kind)
    with pytest.raises(UnreadableImageError):
        validate_or_transcode(data[: len(data) // 2], AS_IS)


def test_an_absurd_size_in_the_header_is_refused():
    """65,000 x 65,000 pixels in a file of a few kilobytes: no memory is taken for them."""
    data = bytearray(jpeg(make_photo(0)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (65_000).to_bytes(2, "big") * 2
    with pytest.raises(UnreadableImageError, match=r"decompression bomb|pixels are more than"):
        validate_or_transcode(bytes(data), AS_IS)


def test_a_bomb_is_refused():
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    assert len(data) < 100_000
    with pytest.raises(UnreadableImageError, match=r"decompression bomb|pixels are more than"):
        validate_or_transcode(data, AS_IS)


@pytest.mark.parametrize("head", [b"II*\x00\xff\xff\xff\xff", b""])
def test_corrupt_exif_harms_nothing(head):
    data = jpeg(make_photo(0), exif=b"Exif\x00\x00" + head + b"garbage" * 9)
    admitted = validate_or_transcode(data, AS_IS)
    assert admitted.jpeg is data and admitted.changes == ()


def test_ycck_is_converted():
    """Adobe's inverted YCCK, which Photoshop writes: Pillow's CMYK JPEGs with the transform flag set to 2."""
    data = bytearray(jpeg(Image.new("CMYK", (32, 32), (0, 255, 255, 0))))
    adobe = data.index(b"Adobe")
    data[adobe + 11] = 2
    admitted = validate_or_transcode(bytes(data), AS_IS)
    assert decoded(admitted.jpeg).mode == "RGB" and "converted from CMYK" in admitted.changes


@pytest.mark.parametrize("mode", ["P", "PA", "LA", "RGBA", "1", "I;16"])
def test_other_modes_become_rgb_or_grey(mode):
    photo = make_photo(6)
    image = Image.fromarray(np.full((40, 60), 30_000, np.uint16)) if mode == "I;16" else None
    kind = "PNG" if mode != "PA" else "TIFF"
    image = image or (photo.convert("P").convert("PA") if mode == "PA" else photo.convert(mode))
    if mode == "PA":
        kind, image = "PNG", photo.convert("P")
        image.info["transparency"] = 0
    admitted = validate_or_transcode(encoded(image, kind), AS_IS)
    assert decoded(admitted.jpeg).mode in ("RGB", "L")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_embedded_profiles_are_converted_to_srgb(kind):
    red = Image.new("RGB", (32, 32), (200, 20, 20))
    admitted = validate_or_transcode(encoded(red, kind, icc_profile=swapped_profile()), AS_IS)
    assert "converted to sRGB" in admitted.changes
    image = decoded(admitted.jpeg)
    assert np.abs(np.asarray(image, int).mean(axis=(0, 1)) - (20, 20, 200)).max() < 12
    assert "icc_profile" not in image.info


def test_srgbs_own_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = jpeg(make_photo(0), icc_profile=profile)
    assert validate_or_transcode(data, AS_IS).jpeg is data


def test_a_profile_that_cannot_be_read_is_passed_over():
    data = jpeg(make_photo(0), icc_profile=b"no profile")
    assert validate_or_transcode(data, AS_IS).jpeg is data


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty file"), (b"text" * 100, "not an image")])
def test_what_is_no_picture_is_refused(data, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        validate_or_transcode(data, AS_IS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("profile", [b"", swapped_profile()], ids=["sRGB", "another profile"])
def test_16_bits_enter_as_8_where_the_package_for_16_is_missing(channels, profile, monkeypatch):
    picture = np.asarray(make_photo(2), np.uint16)[..., :channels].squeeze() * np.uint16(257)
    buffer = io.BytesIO()
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(buffer, picture, photometric=kind, compression="lzw", iccprofile=profile or None)
    files = [buffer.getvalue()] if profile else [buffer.getvalue(), imagecodecs.png_encode(picture)]
    with_it = [validate_or_transcode(data, AS_IS).jpeg for data in files]
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    for data, expected in zip(files, with_it, strict=True):
        made = decoded(validate_or_transcode(data, AS_IS).jpeg)
        assert made.mode == ("RGB" if channels == 3 else "L")
        assert np.abs(np.asarray(made, int) - np.asarray(decoded(expected), int)).mean() < 2


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_telephones_formats_enter(kind):
    pillow_heif.register_heif_opener()
    taken = validate_or_transcode(encoded(make_photo(3), kind, quality=95), AS_IS)
    assert taken.changes == (f"encoded from {kind}",)
    assert np.abs(np.asarray(decoded(taken.jpeg), int) - np.asarray(make_photo(3))).mean() < 8


def test_a_side_that_no_jpeg_can_have_is_refused():
    data = encoded(Image.new("L", (65_501, 2)), "PNG")
    with pytest.raises(UnreadableImageError, match="a side of 65501 pixels; a JPEG has 65500 at most; make it"):
        validate_or_transcode(data, AS_IS)
    assert validate_or_transcode(data, ResizeRule("long", 1000)).width == 1000
