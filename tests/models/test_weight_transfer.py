"""Weights of one network as the start of another, for any network with named parameters."""

import pytest
import torch
from torch import nn

from koala.config.models import ExtractorSettings
from koala.models.extractor import build_feature_maps
from koala.models.network import FusionNetwork
from koala.models.pyramid import PyramidNetwork
from koala.models.weight_transfer import plan_transfer, take_weights


class Other(nn.Module):
    """A network of another kind: with batch normalisation, and two columns of an embedding."""

    feature_columns = {"mix.weight": (3, 0)}  # noqa: RUF012

    def __init__(self, embedding: int = 2, outputs: int = 4) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.mix = nn.Linear(3 + embedding, outputs)


@pytest.mark.parametrize("make", [FusionNetwork, Other])
def test_a_network_of_the_same_kind_takes_everything(make):
    given = make().state_dict()
    network = make()
    transfer = plan_transfer(network, given, same_extractor=True)
    take_weights(network, transfer)
    assert transfer.whole and not list(transfer.faults())
    assert all(torch.equal(value, given[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("embedding", [0, 2, 5])
def test_columns_of_another_extractor_become_zero(embedding):
    given, network = Other().state_dict(), Other(embedding)
    transfer = plan_transfer(network, given, same_extractor=False)
    take_weights(network, transfer)
    assert list(transfer.faults()) == ["mix.weight (columns of another extractor)"]
    assert torch.equal(network.mix.weight[:, :3], given["mix.weight"][:, :3])
    assert not network.mix.weight[:, 3:].any() and network.mix.weight.shape == (4, 3 + embedding)


def test_what_does_not_fit_is_named_and_stays_as_it_was():
    network, given = Other(outputs=5), Other().state_dict() | {"tail.weight": torch.ones(1)}
    del given["norm.bias"]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    transfer = plan_transfer(network, given, same_extractor=True)
    take_weights(network, transfer)
    assert list(transfer.faults()) == [
        "norm.bias (not given)",
        "mix.weight ((4, 5) is given, (5, 5) needed)",
        "mix.bias ((4,) is given, (5,) needed)",
        "tail.weight (no place for it)",
    ]
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in transfer.new)


def test_the_trunk_fits_whatever_the_head():
    """All of the encoder and the fusion, and the decoder's first half: 24 of the 28 tensors of a network with bins."""
    bins, ab = FusionNetwork(head="bins"), FusionNetwork(head="ab")
    transfer = plan_transfer(bins, ab.state_dict(), same_extractor=True)
    assert {name.partition(".")[0] for name in transfer.weights} == {"encoder", "fusion", "decoder"}
    assert all(name.startswith("decoder.") for name in (*transfer.new, *transfer.unused))
    assert (len(transfer.weights), len(bins.state_dict())) == (24, 28)


class Mapped(nn.Module):
    """A network with an extractor within, whose features enter beside one column of something else."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.extractor = nn.Conv2d(1, 2, kernel_size=1)
        self.seen = nn.Conv2d(features + 1, 2, kernel_size=1)
        self.feature_columns = {"seen.weight": (0, 1)}


@pytest.mark.parametrize("features", [2, 4])
def test_an_extractor_within_keeps_its_own_weights(features):
    given, network = Mapped(2).state_dict(), Mapped(features)
    before = network.extractor.weight.clone()
    transfer = plan_transfer(network, given, same_extractor=False)
    take_weights(network, transfer)
    assert torch.equal(network.extractor.weight, before)
    assert torch.equal(network.seen.weight[:, -1:], given["seen.weight"][:, -1:])
    assert not network.seen.weight[:, :-1].any()
    assert list(transfer.faults()) == [
        "extractor (another extractor's)",
        "seen.weight (columns of another extractor)",
    ]


def test_a_pyramid_begins_without_what_it_knew_of_another_extractor():
    """With no features, a network of the same lightness and hints says the same whatever its extractor sees."""

    def make(name: str) -> PyramidNetwork:
        return PyramidNetwork(build_feature_maps(ExtractorSettings(name, weights="random"), seed=0), hints=True)

    network = make("mobilenetv3_small_050")
    transfer = plan_transfer(network, make("tf_efficientnet_lite0").state_dict(), same_extractor=False)
    take_weights(network, transfer)
    assert set(transfer.new) == {name for name in network.state_dict() if name.startswith("extractor.")}
    assert all(name.startswith("extractor.") for name in transfer.unused)
    generator = torch.Generator().manual_seed(0)
    lightness, hints = torch.rand(1, 1, 64, 64, generator=generator), torch.rand(1, 3, 64, 64, generator=generator)
    with torch.inference_mode():
        before = network(lightness, None, hints)
        for weight in network.extractor.parameters():
            weight.mul_(2.0)
        assert torch.equal(network(lightness, None, hints), before)
