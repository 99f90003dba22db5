"""The built-in model colours the minute after installation, offline."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data
from skimage.color import rgb2gray, rgb2lab

import koala
from koala.cli import main
from koala.core.errors import UserError
from koala.evaluation.results import read_result
from koala.models import checkpoint, extractor, pretrained
from tests.photographs import jpeg, make_photo


@pytest.fixture(scope="module")
def model():
    return koala.load_model()


def test_it_is_small_and_says_what_it_is():
    assert sum(path.stat().st_size for path in pretrained.PRETRAINED.iterdir()) < 25e6
    found = checkpoint.find_checkpoint(pretrained.PRETRAINED)
    assert (found.settings.network.name, found.settings.extractor.name) == ("pyramid", "tf_efficientnet_lite2")
    assert found.settings.data.lightness == "grey"
    assert list(found.presets) == ["natural", "faithful"]
    card = (pretrained.PRETRAINED / "README.md").read_text()
    assert f"{found.images_seen:,}" in card, "the card speaks of these weights"


def test_it_colors_a_real_photo(model):
    """Chelsea, a cat of scikit-image's, is brown: red and yellow, not green or blue."""
    photo = data.chelsea()
    colored = koala.colorize((rgb2gray(photo) * 255).round().astype(np.uint8), model)
    ab = rgb2lab(colored)[..., 1:].mean((0, 1))
    assert ab[1] > 5, "yellow"
    assert np.hypot(*ab) > 5


def test_it_has_a_name(tmp_path, monkeypatch):
    """A path that exists is taken before it, as before a name on the hub."""
    assert pretrained.find_model("builtin").path == pretrained.PRETRAINED
    assert koala.PretrainedColorizer.from_pretrained("builtin").found.path == pretrained.PRETRAINED
    monkeypatch.chdir(tmp_path)
    (tmp_path / "builtin").mkdir()
    with pytest.raises(UserError, match="builtin holds no checkpoint"):
        koala.load_model("builtin")


def test_commands_know_its_name(shard_folder, tmp_path, monkeypatch):
    """Each does with the name what it does with the folder; scores lie where `koala compare` looks for them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.jpg").write_bytes(jpeg(make_photo(1).convert("L")))
    for out, model in (("named", ["--model", "builtin"]), ("usual", [])):
        assert main(["colorize", "one.jpg", "--out", out, *model]) == 0
    assert (tmp_path / "named/one.jpg").read_bytes() == (tmp_path / "usual/one.jpg").read_bytes()
    assert main(["export", "builtin", "--out", "copy"]) == 0
    assert checkpoint.find_checkpoint(tmp_path / "copy").images_seen == pretrained.find_model("builtin").images_seen
    for model in ("builtin", "copy"):
        assert main(["evaluate", model, "--shards", str(shard_folder), "--size", "32", "--features", "none"]) == 0
    assert (tmp_path / "builtin-evaluation/scores.json").exists()
    assert main(["compare", "builtin", "copy"]) == 0
    found = read_result(Path("builtin"))
    assert found.report["checkpoint"] == str(pretrained.PRETRAINED)
    assert found.scores["mse"] == pytest.approx(read_result(Path("copy")).scores["mse"], rel=1e-3), "in half precision"


def test_the_command_needs_no_model(tmp_path):
    (tmp_path / "one.jpg").write_bytes(jpeg(make_photo(1).convert("L")))
    assert main(["colorize", str(tmp_path / "one.jpg"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/one.jpg").exists()


@pytest.mark.slow
def test_it_colors_offline(tmp_path):
    """In a process of its own that has no network."""
    (tmp_path / "one.jpg").write_bytes(jpeg(make_photo(1).convert("L")))
    command = [sys.executable, "-m", "koala", "colorize", tmp_path / "one.jpg", "--out", tmp_path / "out"]
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", *command], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_it_needs_no_other_weights(monkeypatch):
    """They lie within it."""
    monkeypatch.setattr(extractor.importlib.util, "find_spec", lambda name: None)
    assert koala.load_model().network.hints


def test_the_faithful_preset_is_paler(model):
    photo = (rgb2gray(data.chelsea()) * 255).round().astype(np.uint8)
    vivid, pale = (rgb2lab(koala.colorize(photo, model, preset=name))[..., 1:] for name in ("natural", "faithful"))
    assert np.hypot(*np.moveaxis(pale, -1, 0)).mean() < np.hypot(*np.moveaxis(vivid, -1, 0)).mean()


def test_it_follows_hints(model):
    """A dab of green at the left, one of orange at the right: each side goes the way of its dab."""
    photo = (rgb2gray(data.chelsea()) * 255).round().astype(np.uint8)
    dabs = np.zeros((*photo.shape, 4), np.uint8)
    dabs[140:156, 60:76], dabs[140:156, 380:396] = (60, 160, 60, 255), (200, 110, 40, 255)
    red_green = rgb2lab(koala.colorize(photo, model, hints=dabs))[..., 1]
    assert red_green[140:156, 60:76].mean() < -5
    assert red_green[140:156, 380:396].mean() > 5
    left, right = np.hsplit(red_green[:, :450], 2)
    assert left.mean() + 5 < right.mean()
