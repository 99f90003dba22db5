"""What koala.colorize takes for a photo."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from koala.core.errors import UserError
from koala.inference.photo_input import read_pixels
from tests.photographs import encoded, make_photo


@pytest.fixture
def image() -> Image.Image:
    return make_photo(1)


@pytest.fixture
def path(image, tmp_path) -> Path:
    """The same photo as a file, without loss."""
    (tmp_path / "one.png").write_bytes(encoded(image, "PNG"))
    return tmp_path / "one.png"


def test_files_in_all_forms_are_the_same_photo(image, path):
    expected = np.asarray(image)
    with path.open("rb") as file:
        given = [
            path,
            str(path),
            path.read_bytes(),
            bytearray(path.read_bytes()),
            io.BytesIO(path.read_bytes()),
            file,
            image,
        ]
        for photo in given:
            assert np.array_equal(read_pixels(photo), expected)


def test_arrays_and_tensors_are_the_same_photo_whatever_their_layout(image):
    expected = np.asarray(image)
    tensor = torch.from_numpy(expected.copy())
    for photo in (expected, tensor, tensor.permute(2, 0, 1)):
        assert np.array_equal(read_pixels(photo), expected)
    for floats in (expected / 255, tensor / 255, (tensor / 255).permute(2, 0, 1)):
        pixels = read_pixels(floats)
        assert pixels.dtype == np.float32 and np.abs(pixels * 255 - expected).max() < 1e-3


@pytest.mark.parametrize("turn", [lambda pixels: pixels[::-1], np.fliplr, lambda pixels: pixels[..., ::-1]])
def test_arrays_that_run_backwards_are_brought_in_order(image, turn):
    """As those of OpenCV, whose BGR is made RGB so; torch takes none."""
    pixels = read_pixels(turn(np.asarray(image)))
    assert np.array_equal(torch.from_numpy(pixels), turn(np.asarray(image)))


def test_numbers_of_any_byte_order_and_bfloat16_are_taken(image):
    expected = np.asarray(image)
    assert np.array_equal(read_pixels(expected.astype(">u2")), expected.astype(np.uint16))
    halves = torch.from_numpy(expected.copy()).bfloat16() / 255
    assert np.abs(read_pixels(halves) * 255 - expected).max() <= 1  # 8 bits of a number are kept


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_grey_arrays_have_one_channel(shape):
    grey = np.arange(35, dtype=np.uint16).reshape(shape)
    assert np.array_equal(read_pixels(grey), np.repeat(grey.reshape(5, 7, 1), 3, axis=-1))
    assert read_pixels(torch.zeros(1, 5, 7)).shape == (5, 7, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_are_taken(image, mode):
    converted = (
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16)) if mode == "I;16" else image.convert(mode)
    )
    before = converted.info.copy()
    pixels = read_pixels(converted)
    assert pixels.shape == (40, 60, 3) and pixels.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert converted.info == before


def test_images_are_turned_upright(image):
    exif = image.getexif()
    exif[274] = 6  # EXIF's orientation: a quarter turn
    image.info["exif"] = exif.tobytes()
    assert read_pixels(image).shape == (60, 40, 3)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), "got an array of shape (4, 4, 4) and type uint8"),
        (np.zeros((0, 4, 3), np.uint8), "got an array of shape (0, 4, 3)"),
        (np.zeros((4, 4, 3), np.int64), "type int64"),
        (torch.zeros(2, 3, 4, 4), "got a tensor of shape (2, 3, 4, 4)"),
        (np.full((4, 4, 3), 128.0), "an array of floats has values in 0..1; got 128 to 128"),
        (np.full((4, 4, 3), np.nan), "an array of floats has values in 0..1"),
        (b"no picture", "the photo cannot be read ("),
        ("/nowhere.jpg", "/nowhere.jpg: No such file"),
    ],
)
def test_what_is_no_photo_is_told_of(photo, message):
    with pytest.raises(UserError) as error:
        read_pixels(photo)
    assert message in str(error.value)


@pytest.mark.parametrize("photo", [None, 3, {"photo": "one.jpg"}, io.StringIO("text")])
def test_other_things_are_refused_with_what_is_taken(photo):
    with pytest.raises(TypeError, match="a photo is a path, a file's bytes, a file object, a PIL image, an array"):
        read_pixels(photo)
