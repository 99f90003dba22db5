"""Fine-tuning: runs that begin with the weights of a trained network."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from koala import cli
from koala.config.data import DataSettings, MeasurePrior
from koala.config.load import load_toml
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.data import color_prior
from koala.models import checkpoint, extractor, pretrained
from koala.models.build import build_network
from koala.models.checkpoint import Snapshot
from koala.models.network import FusionNetwork
from koala.training import initial_weights, trainer
from tests.models.test_pyramid import SETTINGS as PYRAMID
from tests.runs import same_weights, weights

LITE = ExtractorSettings("tf_efficientnet_lite0")
FINE_TUNING = Path(__file__).parents[2] / "launch/finetune.toml"
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


@pytest.fixture
def other_model(tmp_path) -> str:
    """A network with another extractor, EfficientNet-Lite0, and another output."""
    torch.manual_seed(1)
    settings = TrainSettings(extractor=LITE, objective=BINS)
    weights = FusionNetwork(1000, "bins").state_dict()
    return str(checkpoint.save_checkpoint(tmp_path, Snapshot(8, settings, weights, 1000, "f" * 64, {}, {}), keep=1))


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


def test_the_built_in_model_is_a_start(with_prior, monkeypatch, capsys):
    """With its own network, extractor and objective, which are fetched from nowhere; the prior is of the new photos."""
    monkeypatch.delattr(extractor, "read_weights")
    found = checkpoint.find_checkpoint(pretrained.PRETRAINED)
    same = {name: getattr(found.settings, name) for name in ("network", "extractor", "objective")}
    tuned = replace(with_prior, init="builtin", data=replace(with_prior.data, size=32), **same)
    expected = {name: value for name, value in found.network().state_dict().items() if name != "prior"}
    taken = first_weights(tuned)
    assert near({name: taken[name] for name in expected}, expected)
    assert f"beginning with builtin ({found.images_seen} images seen, sha256 " in capsys.readouterr().err
    origin = checkpoint.latest_checkpoint(tuned.run / "checkpoints").state["origin"]
    described = json.loads((pretrained.PRETRAINED / "checkpoint.json").read_text())
    assert origin["sha256"] == described["sha256"]["model.safetensors"]
    assert checkpoint.latest_checkpoint(tuned.run / "checkpoints").presets == found.presets


def test_the_run_file_is_for_the_built_in_model():
    """Else koala train launch/finetune.toml is refused."""
    builtin, tuned = checkpoint.find_checkpoint(pretrained.PRETRAINED).settings, load_toml(TrainSettings, FINE_TUNING)
    assert tuned.init == "builtin"
    for name in ("network", "extractor", "objective"):
        assert getattr(tuned, name).name == getattr(builtin, name).name
    assert (tuned.extractor.features, tuned.network.hints) == (builtin.extractor.features, builtin.network.hints)


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
        ({"extractor": LITE}, "fusion.mix.weight (columns of another extractor); train with --extractor.name none"),
        ({"init": "no/such/model"}, "there is no folder no/such/model, and this is no name on the Hugging Face hub"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(settings, change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        trainer.train(replace(settings, **change))


def test_another_extractor_and_another_output_are_named_with_what_would_fit(settings, other_model):
    message = (
        "does not fit this network: decoder.4.0.weight (not given), decoder.4.0.bias (not given), "
        "decoder.5.weight (not given), decoder.5.bias (not given), 5 more; train with --extractor.name "
        "tf_efficientnet_lite0 with the weights it had and --objective classification, or take what fits with "
        "--init-partial"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        trainer.train(replace(settings, init=other_model))


def test_hints_are_among_what_would_fit(tmp_path):
    found = checkpoint.Checkpoint(tmp_path, 8, PYRAMID, 0, "", {})
    plain = replace(PYRAMID, network=replace(PYRAMID.network, hints=False))
    assert initial_weights._as_trained(plain, found) == ["--network.hints true"]


def test_where_features_enter_beside_other_things_nothing_is_taken():
    """With another extractor, whose features may be as many as there are features and hints here."""
    other, network = (
        build_network(replace(PYRAMID, network=replace(PYRAMID.network, hints=hints)), pretrained=False)
        for hints in (False, True)
    )
    left_out = {f"levels.{place}.seen.weight" for place in range(4)}
    assert other.state_dict().keys() - initial_weights._given(other, network, same_extractor=False) == left_out
    assert initial_weights._given(other, network, same_extractor=True).keys() == other.state_dict().keys()


def test_a_part_is_taken_where_that_is_allowed(settings, other_model, capsys):
    """The trunk, without extractor and with another output."""
    taken = first_weights(replace(settings, init=other_model, init_partial=True))
    given = checkpoint.find_checkpoint(Path(other_model)).network().state_dict()
    shared = [name for name in taken if name in given and name != "fusion.mix.weight"]
    assert len(shared) == 23
    assert near({name: taken[name] for name in shared}, given)
    torch.testing.assert_close(taken["fusion.mix.weight"], given["fusion.mix.weight"][:, :256])
    assert "without decoder.4.0.weight (not given)" in capsys.readouterr().err


def test_as_a_command(settings, run, tmp_path):
    words = ["--data.shards", str(settings.data.shards), "--data.size", "16", "--data.threads", "2"]
    words += ["--extractor.name", "none", "--batch-size", "4", "--epochs", "0.1", "--learning-rate", str(STILL)]
    assert cli.main(["train", *words, "--init", str(run), "--run", str(tmp_path / "command")]) == 0
    assert near(weights(tmp_path / "command", 4), checkpoint.find_checkpoint(run).network().state_dict())
