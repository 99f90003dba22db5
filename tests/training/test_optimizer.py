"""Optimizers by their names in timm: groups of weights, steps that are left out, resuming."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from koala import cli
from koala.config.data import DataSettings
from koala.config.load import load_toml
from koala.config.models import ExtractorSettings
from koala.config.training import OptimizerSettings, TrainSettings
from koala.core.errors import UserError
from koala.models import checkpoint
from koala.models.build import build_network
from koala.models.checkpoint import Checkpoint
from koala.models.network import FusionNetwork
from koala.training import trainer
from koala.training.optimizer import build_optimizer, parameter_groups, set_learning_rate, skips_on_device
from koala.training.run_folder import check_same
from tests.models.test_pyramid import SETTINGS as PYRAMID
from tests.runs import same_weights, weights


@pytest.fixture
def settings(shard_folder, tmp_path) -> TrainSettings:
    data = DataSettings(shard_folder, size=16, threads=2)
    quick = TrainSettings(data=data, extractor=ExtractorSettings("none"), batch_size=4, epochs=0.4, log_every=1)
    return replace(quick, run=tmp_path / "run")


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def three_steps(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    for step in range(3):
        torch.manual_seed(step)
        network(torch.rand(2, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.state_dict()


def test_the_default_is_the_report_s_adam_to_the_bit():
    first, second = small(), small()
    ours = build_optimizer(first, OptimizerSettings(), 1e-3)
    plain = torch.optim.Adam(second.parameters(), lr=1e-3, fused=True)
    assert same_weights(three_steps(first, ours), three_steps(second, plain))


def test_biases_and_normalisation_do_not_decay():
    (decaying, others) = parameter_groups(small(), weight_decay=0.1, layer_decay=1.0)
    assert [tuple(weight.shape) for weight in decaying["params"]] == [(4, 1, 3, 3), (2, 4, 1, 1)]
    assert [tuple(weight.shape) for weight in others["params"]] == [(4,), (4,), (4,), (2,)]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_layers_far_from_the_output_learn_slower():
    network = small()
    optimizer = build_optimizer(network, OptimizerSettings(layer_decay=0.5), 1e-3)
    set_learning_rate(optimizer, 0.8)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.4, 0.8])
    scales = [group["lr_scale"] for group in parameter_groups(FusionNetwork(), 0.0, 0.5)]
    assert scales == pytest.approx([0.5**n for n in reversed(range(14))]), "8 + 1 + 5 layers, the last one at 1"


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "muon", "lion"])
def test_a_run_in_two_sittings_is_one(settings, tmp_path, name):
    chosen = replace(settings, optimizer=OptimizerSettings(name, weight_decay=0.05, layer_decay=0.9))
    trainer.train(replace(chosen, run=tmp_path / "whole"))
    trainer.train(replace(chosen, epochs=0.2))
    trainer.train(chosen)
    assert same_weights(weights(tmp_path / "whole", 16), weights(settings.run, 16))


@pytest.mark.parametrize("name", ["adam", "lamb"])
def test_no_optimizer_takes_a_gradient_that_is_not_finite(settings, monkeypatch, name):
    """adam leaves the step out on the device, lamb because it is told to."""
    assert skips_on_device(build_optimizer(small(), OptimizerSettings(name), 1e-3)) == (name == "adam")
    clip = nn.utils.clip_grad_norm_

    def poisoned(parameters, *arguments, **options):
        parameters = list(parameters)
        parameters[0].grad *= math.nan
        return clip(parameters, *arguments, **options)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", poisoned)
    trainer.train(replace(settings, optimizer=OptimizerSettings(name), on_nan="skip"))
    torch.manual_seed(settings.seed)
    assert same_weights(weights(settings.run, 16), FusionNetwork(0).state_dict())


def test_a_run_stays_with_its_optimizer(settings):
    trainer.train(replace(settings, epochs=0.1))
    with pytest.raises(UserError, match=r"was begun with optimizer.name = adam, not lamb; choose another run folder"):
        trainer.train(replace(settings, optimizer=OptimizerSettings("lamb")))


def test_layers_of_a_pyramid_count_from_the_coarsest_level_on():
    network = build_network(replace(PYRAMID, network=replace(PYRAMID.network, extractor_rate=1.0)))
    groups = list(parameter_groups(network, 0.0, 0.5))
    scales = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
    assert scales.keys() == {id(weight) for weight in network.parameters()}
    parts = (*network.extractor.parameters(), *network.levels[3].parameters(), *network.levels[0].parameters())
    assert [scales[id(part)] for part in parts] == sorted(scales[id(part)] for part in parts)
    assert scales[id(network.classifier.weight)] == 1.0
    assert scales[id(network.norm.weight)] == 0.5


def test_a_run_stays_with_its_extractors_rate(tmp_path):
    """The optimizer's state would bring the old one back, in silence."""
    found = Checkpoint(tmp_path, 8, PYRAMID, 0, "", {})
    tuned = replace(PYRAMID, network=replace(PYRAMID.network, extractor_rate=0.1))
    with pytest.raises(UserError, match=r"was begun with network.extractor_rate = 0.0, not 0.1"):
        check_same(tmp_path, found, tuned, None)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (OptimizerSettings("adm"), "timm has no optimizer adm; timm.optim.list_optimizers() has all"),
        (OptimizerSettings("rmsp"), "timm has no optimizer rmsp; did you mean crmsproptf, rmsprop, rmsproptf?"),
        (OptimizerSettings("adahessian"), "the optimizer adahessian needs second derivatives"),
        (OptimizerSettings(options={"beta": 1}), "the optimizer adam cannot be made"),
    ],
)
def test_what_is_no_optimizer_is_refused(optimizer, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build_optimizer(small(), optimizer, 1e-3)


def test_in_a_word_a_table_and_as_flags(tmp_path, settings):
    word, table = tmp_path / "word.toml", tmp_path / "table.toml"
    word.write_text('optimizer = "sgd"')
    table.write_text('[optimizer]\nname = "sgd"\nweight_decay = 0.1\n[optimizer.options]\nmomentum = 0.5')
    assert load_toml(TrainSettings, word).optimizer == OptimizerSettings("sgd")
    run = tmp_path / "flags"
    words = ["--data.shards", str(settings.data.shards), "--data.size", "16", "--extractor.name", "none"]
    words += ["--batch-size", "4", "--epochs", "0.1", "--optimizer.weight-decay", "0.2", "--run", str(run)]
    assert cli.main(["train", str(table), *words]) == 0
    kept = load_toml(TrainSettings, run / "config.toml").optimizer
    assert kept == OptimizerSettings("sgd", 0.2, options={"momentum": 0.5})
    (group, _) = checkpoint.find_checkpoint(run).training()["optimizer"]["param_groups"]
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.2)
