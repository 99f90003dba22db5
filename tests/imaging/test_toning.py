"""Toned photographs: what they are taken for, and how near their grey comes to the one they were toned from."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.color import lab2rgb
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from koala.imaging import color, toning
from tests.photographs import SEPIA_FILTER, TONES, drawn_sea, scene, toned

PHOTOS = ("astronaut", "chelsea", "coffee")
ALL_TONES = (SEPIA_FILTER[0], *TONES)
QUALITIES = (0, 85)  # of a JPEG; 0 is none


def photo(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).reduce(2)


def grey_of(name: str) -> np.ndarray:
    return np.asarray(photo(name).convert("L"))


def scaled(picture: np.ndarray) -> np.ndarray:
    return (picture / 255).astype(np.float32)


def reduced(picture: np.ndarray, way: toning.GrayConversion) -> np.ndarray:
    """A picture of 8 bits, turned grey: `(H, W)` in 0..1."""
    return way(torch.from_numpy(scaled(picture)).permute(2, 0, 1))[0].numpy()


def scores(picture: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """SSIM and PSNR to the true grey, of Rec. 601's and of the tone's own."""
    ways = (toning.REC601, toning.gray_conversion(scaled(picture)))
    made, true = [reduced(picture, way) for way in ways], scaled(grey)
    measures = (structural_similarity, lambda *pair, data_range: peak_signal_noise_ratio(*pair, data_range=data_range))
    return np.array([[measure(true, each, data_range=1.0) for measure in measures] for each in made])


# ---------------------------------------------------------------- what they are taken for


@pytest.mark.parametrize("name", PHOTOS)
def test_photographs_in_colour(name):
    assert toning.classify_tone(np.asarray(photo(name))) == "color"
    assert toning.gray_conversion(scaled(np.asarray(photo(name)))) == toning.REC601


@pytest.mark.parametrize("name", ["astronaut", "chelsea"])  # the coffee is brown throughout
@pytest.mark.parametrize("saturation", [0.15, 0.3, 0.5])
def test_pale_colours_are_no_tone(name, saturation):
    rgb, grey = np.asarray(photo(name), np.float32), grey_of(name)[..., None]
    assert toning.classify_tone((grey + saturation * (rgb - grey)) / 255) != "toned"


@pytest.mark.parametrize("name", PHOTOS)
def test_greys_with_noise_in_their_colours(name):
    grey = np.repeat(grey_of(name)[..., None], 3, axis=-1)
    noisy = grey + np.random.default_rng(0).normal(0, 2, grey.shape)
    for picture in (grey, noisy.clip(0, 255).astype(np.uint8)):
        assert toning.classify_tone(picture) == "grey"
        assert toning.gray_conversion(scaled(picture)) == toning.REC601


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("each", ALL_TONES)
def test_toned_ones(name, each, quality):
    assert toning.classify_tone(toned(grey_of(name), each, quality)) == "toned"


@pytest.mark.parametrize("each", ALL_TONES)
def test_a_white_border_does_not_count(each):
    picture = np.pad(toned(grey_of("astronaut"), each), [(20, 20), (30, 30), (0, 0)], constant_values=255)
    assert toning.classify_tone(picture) == "toned"


def test_colours_of_one_hue_are_not_toned():
    """Browns that are strong or weak at the same lightness, as of things and not of a print."""
    lightness, strength = scene(0), scene(1) / 50
    assert not toning.is_toned(np.stack([lightness, 9 * strength, 24 * strength], axis=-1))


def test_a_blue_sky_is_not_toned():
    """One hue, but hardly any contrast."""
    assert not toning.is_toned(
        np.stack([60 + scene(0) / 10, np.full((150, 200), -2.0), np.full((150, 200), -30.0)], -1)
    )


def test_blue_seas_are_hardly_ever_toned():
    """Their colours follow lightness, but along no simple curve. By hue and curve alone 17 of these 20 were toned."""
    assert [toning.classify_tone(drawn_sea(seed)) for seed in range(20)].count("toned") == 3


@pytest.mark.parametrize("hue", [-80, -160, 60])
@pytest.mark.parametrize("name", PHOTOS)
def test_tones_between_neutral_ends(name, hue):
    """What image editors call a duotone: black and white stay so, whether it is blue, green or brown between them."""
    lightness = grey_of(name) / 255 * 100
    strength = 30 * (1 - np.square(lightness / 50 - 1))
    ab = [strength * np.cos(np.radians(hue)), strength * np.sin(np.radians(hue))]
    assert toning.classify_tone(lab2rgb(np.stack([lightness, *ab], axis=-1))) == "toned"


# ---------------------------------------------------------------- how they are turned grey


@pytest.mark.parametrize("levels", [256, 65536])
def test_greys_stay_to_the_last_bit(levels):
    grey = (torch.arange(levels) / (levels - 1)).reshape(1, 16, -1)
    assert torch.equal(toning.REC601(grey.expand(3, -1, -1)), grey)


def test_colours_become_the_grey_of_pillow():
    picture = np.asarray(photo("coffee"))
    assert np.abs(255 * reduced(picture, toning.REC601) - color.to_grey(picture)[..., 0]).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("each", ALL_TONES)
def test_nearer_to_the_truth_than_a_fixed_grey(each, quality):
    """On average; a photo that holds neither black nor white may come out with more contrast than it had."""
    pairs = [(toned(grey, each, quality), grey) for grey in map(grey_of, PHOTOS)]
    fixed, own = np.mean([scores(*pair) for pair in pairs], axis=0)
    assert (own > fixed).all()


def test_light_parts_come_back_where_channels_are_cut_off():
    """All greys through the filter: from 212 on red and green are full; a level is 0.114 x 0.937 of one in Rec. 601."""
    ramp = np.tile(np.arange(256, dtype=np.uint8), (128, 1))
    picture = toned(ramp, SEPIA_FILTER[0], noise=0.0)
    fixed, own = (255 * reduced(picture, way) for way in (toning.REC601, toning.gray_conversion(scaled(picture))))
    assert fixed[0, 255] - fixed[0, 213] < 5
    assert own[0, 255] - own[0, 213] == pytest.approx(42, abs=2)
    assert np.abs(own - ramp).max() < 6
    assert np.abs(fixed - ramp).max() > 35


def test_a_ramp_comes_back_from_between_faded_ends():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (128, 1))
    picture = toned(ramp, "strong sepia", noise=0.0)
    own = 255 * reduced(picture, toning.gray_conversion(scaled(picture)))
    assert np.abs(own - ramp).max() < 0.1 * 255
    assert np.abs(own - ramp).max() < np.abs(255 * reduced(picture, toning.REC601) - ramp).max()


def test_a_tone_between_neutral_ends_is_a_straight_reduction():
    """Its line leaves sRGB where no channel has stopped; were they taken to have, light parts would be torn apart."""
    lightness = scene(0)
    strength = 1 - np.square(lightness / 50 - 1)
    rgb = lab2rgb(np.stack([lightness, 9 * strength, 24 * strength], axis=-1)).astype(np.float32)
    assert toning.classify_tone(rgb) == "toned"
    assert len(toning.gray_conversion(rgb).sums) == 2


def test_a_border_changes_no_grey():
    picture = toned(grey_of("chelsea"), "faded sepia")
    framed = np.pad(picture, [(20, 20), (30, 30), (0, 0)], constant_values=255)
    plain, with_border = (reduced(picture, toning.gray_conversion(scaled(seen))) for seen in (picture, framed))
    assert np.abs(plain - with_border).max() < 1e-3


def test_strips_are_the_whole():
    picture = toned(grey_of("coffee"), SEPIA_FILTER[0])
    way = toning.gray_conversion(scaled(picture)[::2, ::2])
    rgb = torch.from_numpy(scaled(picture)).permute(2, 0, 1)
    assert torch.equal(way(rgb), torch.cat([way(strip) for strip in rgb.split(7, dim=1)], dim=1))
    assert torch.equal(way(rgb[None].double())[0].float(), way(rgb.double()).float())


def test_a_channel_that_never_moves_does_no_harm(monkeypatch):
    """Amber without any blue."""
    monkeypatch.setattr(toning, "classify_tone", lambda _: "toned")
    grey = grey_of("astronaut")
    picture = np.stack([grey, (grey * 0.8).astype(np.uint8), np.zeros_like(grey)], axis=-1)
    own = reduced(picture, toning.gray_conversion(scaled(picture)))
    assert np.corrcoef(own.ravel(), grey.ravel())[0, 1] > 0.99


# ---------------------------------------------------------------- real ones


@pytest.fixture(scope="module")
def real(real_photos) -> list[Image.Image]:
    """All 600, some 250 pixels a side, in RGB."""
    opened = []
    for path in sorted(real_photos.rglob("*.JPEG")):
        with Image.open(path) as image:
            image.draft("RGB", (250, 250))
            opened.append(image.convert("RGB"))
            opened[-1].thumbnail((250, 250), Image.Resampling.BOX)
    return opened


@pytest.mark.slow
def test_real_photographs_are_hardly_ever_taken_for_toned(real):
    """By eye 13 without colours, and 4 toned; one in colour, a brick wall, is taken for toned as well."""
    kinds = [toning.classify_tone(np.asarray(picture)) for picture in real]
    assert (kinds.count("grey"), kinds.count("toned")) == (13, 5)


@pytest.mark.slow
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("each", ALL_TONES)
def test_real_photographs_toned(real, each, quality):
    greys = [np.asarray(picture.convert("L")) for picture in real[::12]]
    pictures = [toned(grey, each, quality) for grey in greys]
    kinds = [toning.classify_tone(picture) for picture in pictures]
    assert kinds.count("toned") >= 0.9 * len(kinds)
    fixed, own = np.mean([scores(*pair) for pair in zip(pictures, greys, strict=True)], axis=0)
    assert (own > fixed).all()
