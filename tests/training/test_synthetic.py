"""Training on noise, without shards."""

import re
from dataclasses import replace

import pytest
import torch

from koala import cli
from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.data.sampler import EpochSampler, micro_batches
from koala.training import trainer
from koala.training.synthetic import synthetic_batches
from tests.runs import same_weights, scalars, weights


@pytest.fixture
def settings(tmp_path) -> TrainSettings:
    data = DataSettings(tmp_path / "no shards", size=16, synthetic=40)
    quick = TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=4, epochs=0.4, log_every=1)
    return replace(quick, log_pictures=2, run=tmp_path / "run")


def test_batches_are_noise_of_their_size():
    places = micro_batches(EpochSampler((40,), 0), 0, 8, rank=0, world_size=1)
    batch = next(synthetic_batches(places, 16, 5, torch.device("cpu"), seed=3))
    assert (batch.lightness.shape, batch.ab.shape, batch.embedding.shape) == ((8, 1, 16, 16), (8, 2, 16, 16), (8, 5))
    assert -1 <= batch.ab.min() < -0.9 and 0.9 < batch.ab.max() <= 1
    assert batch.samples.tolist() == EpochSampler((40,), 0).positions(0, 8).samples.tolist()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"objective": ObjectiveSettings("classification")},
        {"extractor": ExtractorSettings("tf_efficientnet_lite0", cache=True)},
    ],
    ids=["plain", "prior", "cached"],
)
def test_it_trains_without_shards_prior_and_embeddings(settings, change):
    assert trainer.train(replace(settings, **change)) == 0
    assert list(scalars(settings.run, "loss/train")) == [4, 8, 12, 16]


def test_a_run_in_two_sittings_is_one_and_gets_no_shards_later(settings, shard_folder, tmp_path):
    trainer.train(replace(settings, run=tmp_path / "whole"))
    trainer.train(replace(settings, epochs=0.2))
    trainer.train(settings)
    assert same_weights(weights(tmp_path / "whole", 16), weights(settings.run, 16))
    with pytest.raises(UserError, match=r"was begun with data.synthetic = 40, not 0"):
        trainer.train(replace(settings, data=replace(settings.data, shards=shard_folder, synthetic=0)))


def test_a_dry_run_says_hours_by_a_measured_step(settings, capsys):
    words = ["--data.synthetic", "1000000000", "--data.size", "16", "--extractor.name", "none", "--batch-size", "4"]
    assert cli.main(["train", *words, "--dry-run"]) == 2
    words[1] = "90000000"
    capsys.readouterr()
    assert cli.main(["train", *words, "--epochs", "1", "--dry-run", "--dry-run-seconds", "0.2"]) == 0
    said = re.search(r"time +([\d.,]+) hours at ([\d.,]+) images/s", capsys.readouterr().out)
    hours, speed = (float(number.replace(",", "")) for number in said.groups())
    assert hours == pytest.approx(90e6 / speed / 3600, rel=0.01)
    assert not settings.run.exists()
