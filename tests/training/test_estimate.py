"""What a training takes, against counts by hand and against a real forward pass."""

from dataclasses import replace

import pytest
import torch

from koala.config.models import ExtractorSettings
from koala.models import extractor
from koala.models.build import build_network
from koala.models.network import FusionNetwork
from koala.training import estimate
from tests.models.test_pyramid import SETTINGS as PYRAMID

# (inputs, outputs, kernel, output side as a share of the input's) of each convolution, from the table of the network
# in the Deep Koalarization paper, with the report's fusion of 256 + 1000 features
CONVOLUTIONS = [
    *((1, 64, 3, 1 / 2), (64, 128, 3, 1 / 2), (128, 128, 3, 1 / 4), (128, 256, 3, 1 / 4), (256, 256, 3, 1 / 8)),
    *((256, 512, 3, 1 / 8), (512, 512, 3, 1 / 8), (512, 256, 3, 1 / 8), (256, 256, 1, 1 / 8)),
    *((256, 128, 3, 1 / 8), (128, 64, 3, 1 / 4), (64, 64, 3, 1 / 4), (64, 32, 3, 1 / 2), (32, 2, 3, 1 / 2)),
]


def test_flops_are_those_counted_by_hand():
    """Forward, and twice as much backward; the first layer has no gradient for its input."""
    size = 64
    forward = [2 * i * o * k * k * (size * share) ** 2 for i, o, k, share in CONVOLUTIONS]
    whole = 2 * 1000 * 256  # the embedding's part of the fusion, as a matrix
    expected = 3 * sum(forward) - forward[0] + 2 * whole  # nor has the embedding
    assert estimate.flops_per_image(FusionNetwork(1000), None, size) == pytest.approx(expected, rel=1e-6)


def test_the_extractor_adds_its_forward_pass():
    """EfficientNet-Lite0 at 224: 407 million multiply-adds, by its model card."""
    frozen = extractor.build_extractor(ExtractorSettings("tf_efficientnet_lite0", weights="random"))
    network = FusionNetwork(frozen.embedding_size)
    without, with_it = (estimate.flops_per_image(network, part, 64) for part in (None, frozen))
    assert (with_it - without) / 2 == pytest.approx(407e6, rel=0.06)


def test_activations_are_those_that_a_real_pass_keeps():
    network, kept = FusionNetwork(0), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.grad_fn is not None:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(1, 1, 64, 64))
    real = sum(tensor.numel() * 4 for tensor in kept.values())
    assert estimate.activation_bytes(network, 64) == pytest.approx(real, rel=0.05)


def test_shapes():
    assert estimate.layer_shapes(FusionNetwork(10), 64) == {
        "encoder": "(256, 8, 8)",
        "fusion": "(256, 8, 8)",
        "decoder": "(2, 64, 64)",
    }


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_pyramids_extractor_counts_as_trained_only_where_it_is(rate):
    settings = replace(PYRAMID, network=replace(PYRAMID.network, extractor_rate=rate))
    network = build_network(settings)
    inside, whole = (sum(weight.numel() for weight in part.parameters()) for part in (network.extractor, network))
    facts = estimate.training_facts(settings, network, None, 8, 40)
    trained, frozen = (whole, 0) if rate else (whole - inside, inside)
    assert facts["parameters"] == f"{trained:,} trained, {frozen:,} frozen"
    assert facts["extractor"] == "(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)"  # channels by timm's feature_info
    assert facts["levels.0"] == "(128, 16, 16)"
