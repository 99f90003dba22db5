"""The factors of fp32 products, which a GPU may shorten to 10 bits (TF32), are whole wherever networks compute.

The switch is looked at in each convolution, on the CPU, which does not heed it. `tests/gpu/test_steps.py` shows what
the numbers are on a GPU, which does.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from starlette.testclient import TestClient

import koala
from koala.config.data import DataSettings, EmbedShards, ShardRecipe, SplitRule, ViewSettings, WriteShards
from koala.config.evaluation import EvaluateSettings
from koala.config.inference import ColorizeSettings, GallerySettings
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.config.training import TrainSettings
from koala.core import http_server
from koala.core.devices import fp32_products
from koala.data import shard_writer
from koala.data.embed import embed_command
from koala.evaluation.evaluate import evaluate
from koala.inference import batch
from koala.inference.gallery import server
from koala.training import trainer
from tests.photographs import jpeg, make_photo

LITE = ExtractorSettings("tf_efficientnet_lite0", weights="random")


def switches() -> tuple[bool, bool]:
    """cuDNN's and cuBLAS': whether factors are shortened."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture
def seen(monkeypatch) -> Iterator[set[tuple[bool, bool]]]:
    """How the switches were in the convolutions of all threads; the program had turned both on."""
    found, conv2d = set(), F.conv2d

    def noting(*given, **named):
        found.add(switches())
        return conv2d(*given, **named)

    monkeypatch.setattr(F, "conv2d", noting)
    with fp32_products(tf32=True):
        yield found


@pytest.fixture
def photo(tmp_path):
    """A grey photo in a file."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(make_photo(1).convert("L")))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("tf32", [False, True])
def test_training_and_validation(shard_folder, tmp_path, seen, tf32):
    """With an extractor and a perceptual network."""
    judged = ObjectiveSettings(perceptual=0.1, perceptual_network="tf_efficientnet_lite0", perceptual_weights="random")
    data = DataSettings(shard_folder, size=32, threads=1)
    settings = TrainSettings(data=data, extractor=LITE, objective=judged, batch_size=4, epochs=0.1, log_pictures=0)
    trainer.train(replace(settings, run=tmp_path / "run", tf32=tf32, device="cpu"))
    assert seen == {(tf32, tf32)}


@pytest.mark.slow
def test_embedding(shard_folder, tmp_path, seen):
    shards = tmp_path / "shards"
    shards.symlink_to(shard_folder)
    embed_command(EmbedShards(shards, LITE, ViewSettings("crop", 32, threads=1), device="cpu", batch_size=8))
    assert seen == {(False, False)}


def test_evaluation_and_its_judge(run, tmp_path, seen):
    fish = tmp_path / "photos/n01440764"
    fish.mkdir(parents=True)
    for number in range(4):
        (fish / f"{number}.jpg").write_bytes(jpeg(make_photo(number)))
    recipe = ShardRecipe(split=SplitRule(val_count=2))
    shard_writer.write_shards(WriteShards(fish.parent, tmp_path / "shards", recipe))
    judged = {"features": "none", "classifier": "tf_efficientnet_lite1", "classifier_weights": "random"}
    evaluate(EvaluateSettings(run, tmp_path / "shards", tmp_path / "out", threads=1, device="cpu", **judged))
    assert seen == {(False, False)}


def test_coloring(run, seen):
    koala.colorize(np.zeros((32, 32), np.uint8), run, device="cpu")
    assert seen == {(False, False)}
    assert switches() == (True, True), "what the program chose is back"


def test_coloring_of_many(run, photo, tmp_path, seen):
    assert batch.colorize_command(ColorizeSettings((photo,), tmp_path / "out", run, device="cpu")) == 0
    assert seen == {(False, False)}


def test_the_gallery(run, photo, seen, monkeypatch):
    class Visited:
        """In place of a server: somebody comes, and drops the photo."""

        def __init__(self, app, *_, **__) -> None:
            self._app = app

        def run(self, sockets) -> None:
            seen.add(switches())  # for colours that are suggested, too
            visitor = TestClient(self._app, "http://127.0.0.1:8001")
            assert visitor.post("/colored", files={"photo": photo.read_bytes()}).status_code == 200

    monkeypatch.setattr(http_server, "make_server", Visited)
    server.gallery_command(GallerySettings(run, port=0, device="cpu"))
    assert seen == {(False, False)}
