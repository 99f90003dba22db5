"""Dabs of colour on a photo: read from files, placed for the network, followed by `koala colorize`."""

import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import koala
from koala.cli import main
from koala.config.models import Preset
from koala.core.errors import UserError
from koala.imaging.color import rgb_to_lab
from koala.inference.hints import place_hints, read_hints
from koala.models import checkpoint
from koala.models.build import build_network
from tests.models.test_pyramid import SETTINGS
from tests.photographs import make_photo

BLUE, GREEN = (40, 60, 200), (30, 160, 50)


def dabs(height: int = 90, width: int = 120) -> np.ndarray:
    picture = np.zeros((height, width, 4), np.uint8)
    picture[10:14, 20:26] = (*BLUE, 255)
    picture[70:72, 100:102] = (*GREEN, 128)
    return picture


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A pyramid of random weights that takes hints."""
    torch.manual_seed(0)
    network = build_network(SETTINGS)
    folder = tmp_path_factory.mktemp("pyramid")
    taken = checkpoint.Snapshot(40, SETTINGS, network.state_dict(), 0, "", {}, {})
    return checkpoint.save_checkpoint(folder, taken, keep=1)


def write_ora(path, name="Hints", place=(0, 0), picture=None, end=""):
    """As Krita writes it: layers may be smaller than the picture."""
    picture = dabs() if picture is None else picture
    stack = (
        f'<image w="120" h="90"><stack><layer name="Photo" src="data/0.png"/><layer name="{name}" src="data/1.png" '
        f'x="{place[0]}" y="{place[1]}"/></stack></image>'
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "image/openraster")
        archive.writestr("stack.xml", stack + end)
        with archive.open("data/1.png", "w") as file:
            Image.fromarray(picture).save(file, "PNG")


def lock(path):
    """An archive whose members say that they are encrypted."""
    write_ora(path)
    data = path.read_bytes()
    for start, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        first, *more = data.split(start)
        data = start.join([first, *(bytes([*one[: place - 4], 1, *one[place - 3 :]]) for one in more)])
    path.write_bytes(data)


def test_hints_are_read_from_everything_that_holds_them(tmp_path):
    Image.fromarray(dabs()).save(tmp_path / "dabs.png")
    write_ora(tmp_path / "dabs.ora", place=(15, 5), picture=dabs()[5:, 15:])
    for source in (dabs(), Image.fromarray(dabs()), tmp_path / "dabs.png", str(tmp_path / "dabs.ora")):
        assert np.array_equal(read_hints(source, (90, 120, 3)), dabs())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: make_photo(1, 120, 90).save(path.with_suffix(".png")), "has no transparency"),
        (
            lambda path: Image.fromarray(dabs(91)).save(path.with_suffix(".png")),
            "120 x 91 pixels and the photo 120 x 90",
        ),
        (lambda path: write_ora(path.with_suffix(".ora"), name="Colours"), 'no layer named "hints"'),
        (lambda path: path.with_suffix(".ora").write_bytes(b"PK\3\4"), "no OpenRaster file that can be read"),
        (lambda path: lock(path.with_suffix(".ora")), "no OpenRaster file that can be read .*encrypted"),
        (lambda path: write_ora(path.with_suffix(".ora"), place=(1 << 31, 0)), "no OpenRaster file that can be read"),
        (lambda path: write_ora(path.with_suffix(".ora"), end=" " * (1 << 22)), "4194.* bytes are more than"),
        (lambda path: None, "cannot be read: No such file"),
    ],
)
def test_what_are_no_hints_is_said_in_a_sentence(tmp_path, make, words):
    make(tmp_path / "dabs")
    path = next(tmp_path.iterdir(), tmp_path / "dabs.ora")
    with pytest.raises(UserError, match=words):
        read_hints(path, (90, 120, 3))


def test_a_missing_layer_is_one_sentence(tmp_path):
    write_ora(tmp_path / "dabs.ora", name="Colours")
    with pytest.raises(UserError) as caught:
        read_hints(tmp_path / "dabs.ora", (90, 120, 3))
    assert str(caught.value).count("dabs.ora") == 1


def test_arrays_and_objects_that_are_no_hints():
    with pytest.raises(UserError, match=r"uint8; got \(90, 120, 4\) of float64"):
        read_hints(dabs() / 255, (90, 120, 3))
    with pytest.raises(TypeError, match="got bytes"):
        read_hints(b"PNG", (90, 120, 3))


def test_places_and_colors():
    placed = place_hints(dabs(), 45, 60)
    assert placed.shape == (1, 3, 45, 60)
    blue, green = (rgb_to_lab(np.array(color) / 255)[1:] / 127 for color in (BLUE, GREEN))
    assert np.allclose(placed[0, :2, 5:7, 10:13].mean(dim=(1, 2)), blue, atol=1e-3)
    assert np.allclose(placed[0, :2, 35, 50], green, atol=1e-3)
    assert placed[0, 2].sum() == 2 * 3 + 1


def test_a_dab_smaller_than_a_pixel_of_the_network_counts():
    tiny = np.zeros((900, 1200, 4), np.uint8)
    tiny[450, 600] = (*BLUE, 255)
    assert place_hints(tiny, 45, 60)[0, 2].sum() == 1


def test_a_large_picture_of_hints_takes_a_part_of_its_memory_at_a_time():
    """One that is opaque all over, as people save them: floats of all its pixels would be 140 MB."""
    painted = np.zeros((2000, 500, 4), np.uint8)
    painted[500:] = 255, 0, 0, 255
    tracemalloc.start()
    placed = place_hints(painted, 16, 4)
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
    assert placed[0, 2, :4].sum() == 0 and (placed[0, 2, 4:] == 1).all()
    red = torch.tensor([80.09, 67.20]).view(2, 1, 1) / 127  # CIELAB of sRGB's red
    torch.testing.assert_close(placed[0, :2, 4:], red.expand(2, 12, 4), atol=1e-3, rtol=0)


def test_hints_change_the_photo(model):
    photo = np.asarray(make_photo(2, 120, 90).convert("L"))
    plain, hinted = koala.colorize(photo, model), koala.colorize(photo, model, hints=dabs())
    assert hinted.shape == plain.shape and not np.array_equal(plain, hinted)
    assert np.array_equal(hinted, koala.colorize(photo, koala.load_model(model), hints=Image.fromarray(dabs())))


def test_hints_and_the_command(model, tmp_path, capsys):
    """A photo in colour is coloured all the same, and a second run follows new hints."""
    make_photo(2, 120, 90).save(tmp_path / "photo.png")
    Image.fromarray(dabs()).save(tmp_path / "dabs.png")
    command = ["colorize", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--model", str(model)]
    made = []
    for extra in (["--recolor"], ["--hints", str(tmp_path / "dabs.png")]):
        assert main([*command, *extra]) == 0
        made.append(np.asarray(Image.open(tmp_path / "out/photo.png")))
    assert not np.array_equal(*made)
    make_photo(3, 120, 90).save(tmp_path / "other.png")
    assert main([*command[:2], str(tmp_path / "other.png"), *command[2:], "--hints", str(tmp_path / "dabs.png")]) == 2
    assert "name one photo" in capsys.readouterr().err


def test_hints_are_divided_by_the_presets_saturation_and_the_users(model, monkeypatch):
    """The network is told blue by half as much where its colours are multiplied by 0.5 * 4."""
    loaded, seen = koala.load_model(model), []
    monkeypatch.setattr(loaded, "preset", Preset(saturation=0.5))
    taken = loaded.network.forward
    monkeypatch.setattr(loaded.network, "forward", lambda *given: (seen.append(given[2]), taken(*given))[1])
    for saturation in (2.0, 4.0):
        koala.colorize(np.zeros((90, 120), np.uint8), loaded, hints=dabs(), saturation=saturation)
    placed = place_hints(dabs(), *seen[0].shape[-2:])
    torch.testing.assert_close(seen[0], placed)
    torch.testing.assert_close(seen[1][:, :2], placed[:, :2] / 2)
    assert torch.equal(seen[1][:, 2], placed[:, 2])


def test_layers_are_given_back_as_hints(model, tmp_path):
    """An empty layer to paint on at first; then the dabs come back as they were given, and make the same picture."""
    make_photo(2, 120, 90).convert("L").save(tmp_path / "photo.png")
    command = ["colorize", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--model", str(model)]
    layers, photo = tmp_path / "out/photo.ora", tmp_path / "out/photo.png"
    assert main([*command, "--layers", "ora"]) == 0
    assert not read_hints(layers, (90, 120)).any()
    Image.fromarray(dabs()).save(tmp_path / "dabs.png")
    made = []
    for given in (tmp_path / "dabs.png", layers):
        assert main([*command, "--layers", "ora", "--hints", str(given)]) == 0
        assert np.array_equal(read_hints(layers, (90, 120)), dabs())
        made.append(photo.read_bytes())
    assert made[0] == made[1]


def test_a_model_without_hints_says_so(run, tmp_path):
    with pytest.raises(UserError, match="not trained to take hints"):
        koala.colorize(np.zeros((90, 120), np.uint8), run, hints=dabs())


def test_an_unknown_preset_is_named_before_any_photo_is_read(model, tmp_path, capsys):
    with pytest.raises(UserError, match="there is no preset vivid; this model has none"):
        koala.colorize(np.zeros((90, 120), np.uint8), model, preset="vivid")
    make_photo(2, 120, 90).save(tmp_path / "photo.png")
    command = ["colorize", str(tmp_path), "--out", str(tmp_path / "out"), "--model", str(model), "--preset", "vivid"]
    assert main(command) == 2
    assert capsys.readouterr().err.count("there is no preset vivid") == 1
