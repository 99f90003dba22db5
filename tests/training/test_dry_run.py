"""What a training will take, with shards and before there are any."""

import re
from dataclasses import replace

import pytest

from koala import cli
from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.training.dry_run import count_images, describe_training


@pytest.fixture
def settings(tmp_path) -> TrainSettings:
    data = DataSettings(tmp_path / "shards", size=16)
    return TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=4, epochs=2, run=tmp_path / "run")


def test_with_shards_their_images_are_counted(settings, shard_folder, capsys):
    words = ["--data.shards", str(shard_folder), "--data.size", "16", "--extractor.name", "none", "--batch-size", "4"]
    assert cli.main(["train", *words, "--epochs", "2", "--dry-run", "--run", str(settings.run)]) == 0
    printed = capsys.readouterr().out
    assert "batch_size = 4" in printed and "dry_run = false" in printed
    assert re.search(r"images +40 in an epoch, 8 to validate on, 80 in all\n", printed)
    assert re.search(r"steps +20 of 4 images, 4 at a time in each of 1 processes", printed)
    assert not settings.run.exists()


def test_without_shards_it_counts_what_is_said(settings):
    told = replace(settings, dry_run_images=1000, images_per_second=50)
    printed = describe_training(told, processes=2)
    assert re.search(r"images +1,000 in an epoch, 2,000 in all \(--dry-run-images\)", printed)
    assert re.search(r"steps +500 of 4 images, 2 at a time in each of 2 processes", printed)
    assert re.search(r"time +0.0 hours at 50 images/s", printed)
    assert "3.0 hours" in describe_training(replace(told, dry_run_images=270_000), processes=2)


def test_without_shards_it_counts_as_their_recipe_says(settings, tmp_path, monkeypatch):
    """The report's experiment: 40,000 and 5,000; and a recipe of one's own in shards/."""
    report = replace(settings, data=replace(settings.data, shards=tmp_path / "replication-45k"))
    found = count_images(report)
    assert (found.train, found.val) == (40_000, 5_000) and "replication-45k.toml" in found.origin
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/mine.toml").write_text("limit = 200\n[split]\nval_share = 0.1")
    found = count_images(replace(settings, data=replace(settings.data, shards=tmp_path / "data/mine")))
    assert (found.train, found.val) == (180, 20)


def test_without_any_number_it_says_that_it_assumes(settings):
    assert re.search(r"images +1,281,167 in an epoch, .*assumed, as in ImageNet", describe_training(settings, 1))


def test_the_extractor_is_counted_without_its_weights(settings):
    """Nothing is fetched; embeddings that are cached take no arithmetic."""
    named = replace(settings, extractor=ExtractorSettings("tf_efficientnet_lite0", weights="/nowhere"))
    assert "embedding (1000)" in describe_training(named, 1)
    cached = describe_training(replace(named, extractor=replace(named.extractor, cache=True)), 1)
    assert "embedding (1000)" in cached and " 0 frozen" in cached


def test_a_batch_that_cannot_be_shared_is_refused(settings):
    with pytest.raises(UserError, match="choose --batch-size a multiple of 3"):
        describe_training(settings, processes=3)


def test_a_gpus_precision_needs_no_gpu(settings, capsys):
    words = ["--mixed-precision", "fp16", "--extractor.name", "none", "--data.size", "16", "--data.shards", "/nowhere"]
    assert cli.main(["train", *words, "--dry-run"]) == 0
