"""A profile is judged by what it does to colours, not by its name."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from koala.config.data import ResizeRule
from koala.imaging.color_profile import BT709, SRGB_CURVE, Curve, profile_of, srgb_profile, transform_to_srgb
from koala.imaging.jpeg_intake import validate_or_transcode
from koala.imaging.photo_io import decode_photo
from tests.photographs import encoded, jpeg, make_photo, swapped_profile

AS_IS = ResizeRule()
PHOTO = make_photo(2)
LINEAR = profile_of(BT709, Curve(1.0))


def named(profile: bytes, name: str) -> bytes:
    """A profile that is made here, with another name of as many letters."""
    old = "koala".encode("utf-16-be")
    assert profile.count(old) and len(name.encode("utf-16-be")) == len(old)
    return profile.replace(old, name.encode("utf-16-be"))


def light(picture: np.ndarray, most: int) -> np.ndarray:
    """Levels that are light: IEC 61966-2-1 backwards."""
    value = picture / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.rint(linear * most).astype(np.uint8 if most == 255 else np.uint16)


def tiff(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["sRGB!", "any  "])
def test_a_linear_profile_is_one_whatever_its_name(name):
    """GIMP's, RawTherapee's and Elle Stone's linear profiles have "sRGB" in their names."""
    profile, expected = named(LINEAR, name), np.asarray(PHOTO)
    deep = decode_photo(tiff(light(expected, 65535), photometric="rgb", iccprofile=profile))
    assert np.abs(deep.pixels / 257 - expected).max() < 0.5
    shallow = decode_photo(encoded(Image.fromarray(light(expected, 255)), "PNG", icc_profile=profile))
    assert np.abs(shallow.pixels - expected.astype(int))[expected > 100].max() <= 2, "dark levels of 8 bits are few"
    stored = validate_or_transcode(jpeg(Image.fromarray(light(expected, 255)), quality=100, icc_profile=profile), AS_IS)
    assert stored.changes == ("converted to sRGB",)


@pytest.mark.parametrize("name", ["sRGB!", "Adobe"])
def test_what_does_as_srgb_does_is_srgb_whatever_its_name(name):
    data = jpeg(PHOTO, icc_profile=named(profile_of(BT709, SRGB_CURVE), name))
    assert validate_or_transcode(data, AS_IS).jpeg is data
    assert transform_to_srgb(srgb_profile(), "RGB") is None


def test_a_gamma_of_2_2_is_another_than_srgbs():
    """By some 8 levels in the shadows: 20 / 255 to the power of 2.2 is 0.0037, which is 12 in sRGB."""
    dark = Image.new("RGB", (8, 8), (20, 20, 20))
    pixels = decode_photo(encoded(dark, "PNG", icc_profile=profile_of(BT709, Curve(2.2)))).pixels
    assert np.abs(pixels.astype(int) - 12).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("profile", [imagecodecs.cms_profile("gray", gamma=1.0), LINEAR], ids=["grey", "RGB"])
def test_greys_are_converted_by_either_kind_of_profile(kind, profile):
    """One of RGB stands for its curve, at R = G = B; in shards, as in photos. A fifth of the light is 0.485 in sRGB."""
    grey = Image.new("L", (8, 8), 51)
    data = encoded(grey, kind, icc_profile=profile)
    assert np.abs(decode_photo(data).pixels / 255 - 0.485).max() < 0.005
    taken = validate_or_transcode(data, AS_IS)
    stored = Image.open(io.BytesIO(taken.jpeg))
    assert "converted to sRGB" in taken.changes and stored.mode == "L"
    assert np.abs(np.asarray(stored) / 255 - 0.485).max() < 0.005


def test_greys_of_16_bits_are_converted_by_a_profile_of_rgb():
    expected = np.asarray(PHOTO.convert("L"))
    photo = decode_photo(tiff(light(expected, 65535), photometric="minisblack", iccprofile=LINEAR))
    assert photo.pixels.dtype == np.uint16 and np.abs(photo.pixels / 257 - expected[..., None]).max() < 0.5


def test_greys_with_a_profile_of_rgb_that_is_srgbs_stay():
    data = jpeg(PHOTO.convert("L"), icc_profile=srgb_profile())
    assert validate_or_transcode(data, AS_IS).jpeg is data


@pytest.mark.parametrize(
    "profile", [imagecodecs.cms_profile("gray", gamma=1.0), b"no profile", swapped_profile()[:300]]
)
def test_a_profile_of_another_kind_or_none_is_passed_over(profile):
    data = jpeg(PHOTO, icc_profile=profile)
    assert validate_or_transcode(data, AS_IS).jpeg is data
    assert np.array_equal(decode_photo(encoded(PHOTO, "TIFF", icc_profile=profile)).pixels, np.asarray(PHOTO))


def test_profiles_made_here_are_those_of_littlecms():
    """Linear light with sRGB's primaries, as imagecodecs makes it of the same numbers."""
    primaries = [coordinate for xy in BT709[:3] for coordinate in xy]
    other = imagecodecs.cms_profile(
        "rgb",
        whitepoint=[*BT709.white, 1.0],
        primaries=[value for x, y in zip(primaries[::2], primaries[1::2], strict=True) for value in (x, y, 1.0)],
        gamma=1.0,
    )
    ours, theirs = (
        ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), "RGB", "RGB"
        )
        for profile in (LINEAR, other)
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8))
    assert np.abs(np.asarray(ours.apply(picture), int) - np.asarray(theirs.apply(picture), int)).max() <= 1
