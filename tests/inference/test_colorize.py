"""One photo, coloured: its size, depth and lightness stay, and the options do what they say."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

import koala
from koala.config.inference import ColorizeOptions
from koala.config.models import Preset
from koala.core.errors import UserError
from koala.imaging.color import rgb_to_lab
from koala.inference import colorize
from koala.models.network import Colorizer, FusionNetwork
from tests.photographs import make_photo

SIZES = [(60, 40), (33, 71), (1, 1), (5, 300), (700, 3)]


@pytest.fixture(scope="module")
def model(run) -> Colorizer:
    return koala.load_model(run)


class Painter(Colorizer):
    """Predicts one colour everywhere, in units of L*a*b*."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__(FusionNetwork(0), None, 32)
        self.ab = torch.tensor([a, b]).reshape(1, 2, 1, 1) / 127

    def forward(self, lightness, embedding=None, hints=None, preset=None):
        return preset.saturation * self.ab.expand(len(lightness), 2, *lightness.shape[-2:])


def make_grey(size=(60, 40), dtype=np.uint8) -> np.ndarray:
    """A grey photo that has every level from black to white."""
    width, height = size
    ramp = np.linspace(0, np.iinfo(dtype).max, width * height).round().astype(dtype)
    return ramp.reshape(height, width)


def lightness_of(pixels: np.ndarray) -> np.ndarray:
    """L* by scikit-image."""
    return rgb2lab(pixels / np.iinfo(pixels.dtype).max)[..., 0]


def chroma_of(pixels: np.ndarray) -> float:
    return np.hypot(*np.moveaxis(rgb_to_lab(pixels / np.iinfo(pixels.dtype).max)[..., 1:], -1, 0)).mean()


# ---------------------------------------------------------------- what stays


@pytest.mark.parametrize("size", SIZES)
def test_photos_keep_their_size(model, size):
    photo = make_grey(size)
    colored = koala.colorize(photo, model)
    assert colored.shape == (*photo.shape, 3) and colored.dtype == np.uint8


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(np.uint8, 0.45), (np.uint16, 0.005)],  # L* of half a level, at its steepest, in each of three channels
)
@pytest.mark.parametrize("ab", [(20, 30), (-80, 60), (100, -110)], ids=str)
def test_the_lightness_of_grey_photos_stays(dtype, tolerance, ab):
    """Also where the network's colours are far outside sRGB."""
    grey = make_grey(dtype=dtype)
    colored = koala.colorize(grey, Painter(*ab))
    expected = lightness_of(np.repeat(grey[..., None], 3, axis=-1))
    assert np.abs(lightness_of(colored) - expected).max() < tolerance
    assert chroma_of(colored) > 10


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_photo_without_colors_comes_back_as_it_was(dtype):
    grey = make_grey(dtype=dtype)
    colored = koala.colorize(grey, Painter(0, 0))
    assert np.abs(colored.astype(int) - grey[..., None]).max() <= (0 if dtype == np.uint8 else 2)


def test_colors_within_srgb_are_those_that_the_network_says():
    colored = koala.colorize(np.full((40, 40), 120, np.uint8), Painter(20, 30))
    assert rgb2lab(colored)[..., 1:].mean((0, 1)) == pytest.approx([20, 30], abs=0.4)


def test_the_lightness_of_color_photos_stays(model):
    photo = np.asarray(make_photo(3))
    assert np.abs(lightness_of(koala.colorize(photo, Painter(10, 10), recolor=True)) - lightness_of(photo)).max() < 0.45


def test_rows_are_painted_as_the_whole_is(model, monkeypatch):
    photo = np.asarray(make_photo(1, 90, 70).convert("L"))
    whole = koala.colorize(photo, model)
    monkeypatch.setattr(colorize, "_STRIP", 90 * 7)
    assert np.abs(koala.colorize(photo, model).astype(int) - whole).max() <= 1


# ---------------------------------------------------------------- what the network sees


def test_a_color_photo_is_seen_in_grey(model):
    """Two photos of the same greys get the same colours, whatever theirs were."""
    red = np.full((16, 16, 3), (130, 0, 0), np.uint8)
    green = np.full((16, 16, 3), (0, 66, 0), np.uint8)  # the same grey: 39
    views = [colorize.look(photo, 16) for photo in (red, green)]
    torch.testing.assert_close(views[0].lightness, views[1].lightness, rtol=0, atol=0.25 / 50)  # greys are not rounded


def test_the_proportions_stay_but_for_the_most_extreme():
    def size(height, width):
        return tuple(colorize.look(np.zeros((height, width, 3), np.uint8), 64).lightness.shape[-2:])

    assert size(600, 800) == (64, 88)
    assert size(1, 1) == (64, 64)
    assert size(1, 10_000) == (64, 512), "as long as eight times the short side"


# ---------------------------------------------------------------- options


def test_saturation_multiplies_colors():
    grey = np.full((40, 40), 120, np.uint8)
    chroma = [chroma_of(koala.colorize(grey, Painter(8, 12), saturation=factor)) for factor in (0, 0.5, 1, 2)]
    assert chroma == pytest.approx([0, 7.2, 14.4, 28.8], abs=0.3)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_strength_is_the_share_of_the_colored_photo(share):
    photo = np.full((40, 40, 3), (150, 120, 90), np.uint8)
    mixed = rgb2lab(koala.colorize(photo, Painter(-10, -20), recolor=True, strength=share))[0, 0]
    expected = rgb2lab(photo)[0, 0] * (1 - share) + share * np.array([rgb2lab(photo)[0, 0, 0], -10, -20])
    assert mixed == pytest.approx(expected, abs=0.5)


def test_the_working_size_matters(model):
    photo = np.asarray(make_photo(2, 72, 56))
    assert not np.array_equal(
        koala.colorize(photo, model, size=32, recolor=True), koala.colorize(photo, model, recolor=True)
    )


def test_a_preset_may_say_the_working_size(run):
    model, photo = koala.load_model(run), np.asarray(make_photo(2))
    expected = [koala.colorize(photo, model, size=size, recolor=True) for size in (32, 48)]
    model.preset = Preset(size=32)
    assert np.array_equal(koala.colorize(photo, model, recolor=True), expected[0])
    assert np.array_equal(koala.colorize(photo, model, size=48, recolor=True), expected[1])
    assert not np.array_equal(*expected)


def test_coring_of_a_preset_follows_the_saturation():
    """Of chroma 12 with coring 12 half is left, times 5/4; twice of that at twice the saturation."""
    model, grey = Painter(0, 12), np.full((40, 40), 30_000, np.uint16)
    model.preset = Preset(coring=12.0)
    chroma = [chroma_of(koala.colorize(grey, model, saturation=factor)) for factor in (0, 1, 2)]
    assert chroma == pytest.approx([0, 7.5, 15], abs=0.3)


def test_temperature_is_an_option_of_networks_that_predict_bins():
    model = Colorizer(FusionNetwork(0, "bins"), None, 16).eval()
    photo = np.asarray(make_photo(5).convert("L"))
    usual, cold = koala.colorize(photo, model), koala.colorize(photo, model, temperature=0.05)
    assert not np.array_equal(usual, cold)
    model.preset = Preset(temperature=0.05)
    assert np.array_equal(koala.colorize(photo, model), cold)


def test_flipping_takes_the_mean_of_both_ways():
    class Slanted(Painter):
        """Green on the left, red on the right."""

        def forward(self, lightness, embedding=None, hints=None, preset=None):
            return super().forward(lightness, preset=preset) * torch.linspace(-1, 1, lightness.shape[-1])

    grey = np.full((40, 40), 120, np.uint8)
    assert chroma_of(koala.colorize(grey, Slanted(30, 30))) > 10
    assert chroma_of(koala.colorize(grey, Slanted(30, 30), flip=True)) < 0.1


@pytest.mark.parametrize("option", [{"saturation": -1}, {"strength": 1.5}, {"temperature": 0}, {"size": -8}])
def test_options_that_are_out_of_range(model, option):
    with pytest.raises(UserError, match=next(iter(option))):
        koala.colorize(make_grey(), model, **option)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(model):
    with pytest.raises(UserError, match=r"there is no GPU that torch can use; leave --device at auto"):
        koala.colorize(make_grey(), model, device="cuda")


def test_a_device_that_nobody_knows_is_said(model):
    with pytest.raises(UserError, match=r"there is no device 'gpu'; name cpu, cuda"):
        koala.colorize(make_grey(), model, device="gpu")


# ---------------------------------------------------------------- photos in colour, and models


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_photos_in_color_come_back_as_they_are_or_recolored(model, dtype):
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    photo = (np.asarray(make_photo(1), float) * scale).astype(dtype)
    same = koala.colorize(photo, model)
    assert np.array_equal(same, photo) and same.dtype == dtype and same is not photo
    other = koala.colorize(photo, model, recolor=True)
    assert other.dtype == dtype and not np.array_equal(other, photo)


def test_a_list_gives_a_list(model):
    photos = [make_grey((60, 40)), make_grey((33, 71))]
    colored = koala.colorize(photos, model)
    assert isinstance(colored, list) and [one.shape for one in colored] == [(40, 60, 3), (71, 33, 3)]
    assert np.array_equal(colored[1], koala.colorize(photos[1], model))


def test_a_model_is_given_by_itself_by_a_name_or_not_at_all(model, run):
    expected = koala.colorize(make_grey(), model)
    assert np.array_equal(koala.colorize(make_grey(), run, device="cpu"), expected)
    assert np.array_equal(koala.colorize(make_grey(), str(run), device=torch.device("cpu")), expected)
    built_in = koala.colorize(make_grey(), koala.load_model(), device="cpu")
    assert np.array_equal(koala.colorize(make_grey(), device="cpu"), built_in)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="a model comes from load_model, or is a path, a name or None; got int"):
        koala.colorize(make_grey(), 3)
    with pytest.raises(koala.UserError, match="there is no folder /nowhere"):
        koala.colorize(make_grey(), "/nowhere")


def test_options_have_one_meaning_everywhere():
    """The keywords of colorize are those of the settings."""
    import dataclasses
    import inspect

    keywords = inspect.signature(koala.colorize).parameters
    assert {field.name for field in dataclasses.fields(ColorizeOptions)} == keywords.keys() - {
        "photo",
        "model",
        "device",
        "recolor",
        "hints",
    }


def test_a_gpu_computes_in_fp32(monkeypatch):
    """Not with TF32's short factors, as torch would by default; what the program itself chose is back afterwards."""
    chosen, seen = torch.backends.cudnn.allow_tf32, []
    predict = colorize.predict
    monkeypatch.setattr(
        colorize, "predict", lambda *given: seen.append(torch.backends.cudnn.allow_tf32) or predict(*given)
    )
    koala.colorize(np.zeros((32, 32), np.uint8))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == chosen
