"""What may enter a shard, and what is made of what may not as it is."""

import io

import numpy as np
import pytest
from PIL import Image

from koala.config import Resize
from koala.intake import UnusableError, admit
from tests.photographs import jpeg, make_photo

AS_IS = Resize()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}])
def test_upright_jpegs_are_taken_as_they_are(options):
    data = jpeg(make_photo(0), **options)
    assert admit(data, AS_IS).jpeg is data
    assert admit(data, AS_IS).changes == ()


def test_grey_jpegs_are_taken_as_they_are():
    data = jpeg(make_photo(0).convert("L"))
    assert admit(data, AS_IS).jpeg is data


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_other_formats_become_jpegs_in_444(kind):
    photo = make_photo(3)
    data = encoded(photo, kind)
    admitted = admit(data, AS_IS)
    image = decoded(admitted.jpeg)
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", photo.size)
    assert image.layer[0][1:3] == (1, 1), "no chroma subsampling"
    assert f"encoded from {kind}" in admitted.changes
    assert np.abs(np.asarray(image, int) - np.asarray(decoded(data).convert("RGB"), int)).mean() < 4


def test_cmyk_becomes_rgb():
    admitted = admit(jpeg(make_photo(2).convert("CMYK")), AS_IS)
    assert decoded(admitted.jpeg).mode == "RGB"
    assert "converted from CMYK" in admitted.changes


def test_transparency_shows_white():
    photo = make_photo(1).convert("RGBA")
    photo.putalpha(0)
    assert np.asarray(decoded(admit(encoded(photo, "PNG"), AS_IS).jpeg)).min() > 250


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greys_keep_their_greys(kind):
    ramp = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    image = decoded(admit(encoded(Image.fromarray(ramp), kind), AS_IS).jpeg)
    assert image.mode == "L"
    assert np.abs(np.asarray(image, int) - (ramp >> 8)).max() <= 4


def test_floats_are_refused():
    with pytest.raises(UnusableError, match="mode F, whose range is not known"):
        admit(encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), AS_IS)


def test_turned_photos_become_upright():
    photo = make_photo(4, width=80, height=40)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter: shown 40 wide and 80 high
    admitted = admit(jpeg(photo, exif=exif, quality=95), AS_IS)
    image = decoded(admitted.jpeg)
    assert (admitted.height, admitted.width) == (80, 40) == (image.height, image.width)
    assert image.getexif().get(0x0112, 1) == 1
    expected = np.asarray(photo.rotate(-90, expand=True), int)
    assert np.abs(np.asarray(image, int) - expected).mean() < 4


@pytest.mark.parametrize(
    ("side", "pixels", "size"), [("short", 20, (30, 20)), ("long", 30, (30, 20)), ("short", 400, (60, 40))]
)
def test_resizing_never_enlarges(side, pixels, size):
    admitted = admit(jpeg(make_photo(0)), Resize(side=side, pixels=pixels))
    assert decoded(admitted.jpeg).size == size == (admitted.width, admitted.height)
    assert (admitted.source_width, admitted.source_height) == (60, 40)


@pytest.mark.parametrize("cut", [1, 100, -200, -2000])
def test_truncated_jpegs_are_refused(cut):
    with pytest.raises(UnusableError):
        admit(jpeg(make_photo(0, 640, 480))[:cut], AS_IS)


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty file"), (b"text" * 100, "not an image")])
def test_what_is_no_picture_is_refused(data, reason):
    with pytest.raises(UnusableError, match=reason):
        admit(data, AS_IS)
