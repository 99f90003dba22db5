"""Fine-tuning: runs that begin with the weights of a trained network."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from koala import cli
from koala.config.data import DataSettings, MeasurePrior
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.data import color_prior
from koala.models import checkpoint, pretrained
from koala.training import trainer
from tests.runs import same_weights, weights

LITE = ExtractorSettings("tf_efficientnet_lite0")
BINS = ObjectiveSettings("classification")
STILL = 1e-12  # a learning rate that leaves weights, to seven digits, where they were


@pytest.fixture
def settings(run, shard_folder, tmp_path) -> TrainSettings:
    """A step from the weights of the run without extractor that many tests share."""
    data = DataSettings(shard_folder, size=16, threads=2)
    tuned = TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=4, epochs=0.1, init=str(run))
    return replace(tuned, learning_rate=STILL, run=tmp_path / "run")


@pytest.fixture
def with_prior(settings, tmp_path) -> TrainSettings:
    shards = shutil.copytree(settings.data.shards, tmp_path / "shards")
    color_prior.prior_command(MeasurePrior(shards))
    return replace(settings, data=replace(settings.data, shards=shards))


def near(first: dict, second: dict) -> bool:
    return all(torch.allclose(value, second[name], atol=1e-9) for name, value in first.items())


def first_weights(settings: TrainSettings) -> dict:
    assert trainer.train(settings) == 0
    return weights(settings.run, 4)


def test_a_run_is_a_start_and_so_are_its_checkpoint_and_what_is_exported(settings, run, tmp_path):
    found = checkpoint.find_checkpoint(run)
    checkpoint.publish_weights(found, tmp_path / "exported")
    expected = found.network().state_dict()
    assert near(first_weights(settings), expected)
    assert near(first_weights(replace(settings, init=str(found.path), run=tmp_path / "second")), expected)
    halves = first_weights(replace(settings, init=str(tmp_path / "exported"), run=tmp_path / "third"))
    assert near(halves, {name: value.half().float() for name, value in expected.items()})


def test_the_built_in_model_is_a_start(with_prior, capsys):
    tuned = replace(with_prior, init="builtin", extractor=LITE, objective=BINS)
    assert near(first_weights(tuned), pretrained.load_model().network.state_dict())
    assert "beginning with builtin (120000 images seen, sha256 783b97336d45)\n" in capsys.readouterr().err
    origin = checkpoint.latest_checkpoint(tuned.run / "checkpoints").state["origin"]
    described = json.loads((pretrained.PRETRAINED / "checkpoint.json").read_text())
    assert origin["sha256"] == described["sha256"]["model.safetensors"]


def test_resuming_does_not_need_the_model_again(settings, run, tmp_path):
    """And what the weights began as is still known."""
    model = shutil.copytree(run, tmp_path / "model")
    tuned = replace(settings, init=str(model), learning_rate=1e-3, epochs=0.4)
    trainer.train(replace(tuned, run=tmp_path / "whole"))
    trainer.train(replace(tuned, epochs=0.2))
    shutil.rmtree(model)
    trainer.train(tuned)
    assert same_weights(weights(tmp_path / "whole", 16), weights(tuned.run, 16))
    states = [checkpoint.latest_checkpoint(folder / "checkpoints").state for folder in (tmp_path / "whole", tuned.run)]
    assert states[0]["origin"] == states[1]["origin"] and states[0]["origin"]["name"] == str(model)


def test_a_published_model_names_no_place_of_the_one_it_began_with(settings, run, tmp_path):
    trainer.train(settings)
    checkpoint.publish_weights(checkpoint.find_checkpoint(settings.run), tmp_path / "public")
    assert json.loads((tmp_path / "public/checkpoint.json").read_text())["settings"]["init"] == run.name


def test_a_run_stays_with_what_it_began_with(settings):
    trainer.train(settings)
    with pytest.raises(UserError, match=r"was begun with init = .*, not builtin; choose another run folder"):
        trainer.train(replace(settings, init="builtin"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"init": "builtin"},
            "builtin does not fit this network: decoder.4.0.weight (not given), decoder.4.0.bias (not given), "
            "decoder.5.weight (not given), decoder.5.bias (not given), 5 more; train with --extractor.name "
            "tf_efficientnet_lite0 with the weights it had and --objective classification, or take what fits with "
            "--init-partial",
        ),
        ({"extractor": LITE}, "fusion.mix.weight (columns of another extractor); train with --extractor.name none"),
        ({"init": "no/such/model"}, "there is no no/such/model, nor is this a name on the Hugging Face hub"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(settings, change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        trainer.train(replace(settings, **change))


def test_a_part_is_taken_where_that_is_allowed(settings, capsys):
    """The built-in model's trunk, without extractor and with another head."""
    taken = first_weights(replace(settings, init="builtin", init_partial=True))
    builtin = pretrained.load_model().network.state_dict()
    shared = [name for name in taken if name in builtin and name != "fusion.mix.weight"]
    assert len(shared) == 23
    assert near({name: taken[name] for name in shared}, builtin)
    torch.testing.assert_close(taken["fusion.mix.weight"], builtin["fusion.mix.weight"][:, :256])
    assert "without decoder.4.0.weight (not given)" in capsys.readouterr().err


def test_as_a_command(settings, run, tmp_path):
    words = ["--data.shards", str(settings.data.shards), "--data.size", "16", "--data.threads", "2"]
    words += ["--extractor.name", "none", "--batch-size", "4", "--epochs", "0.1", "--learning-rate", str(STILL)]
    assert cli.main(["train", *words, "--init", str(run), "--run", str(tmp_path / "command")]) == 0
    assert near(weights(tmp_path / "command", 4), checkpoint.find_checkpoint(run).network().state_dict())
