"""The perceptual term, on a small network of random weights."""

import pytest
import torch

from koala import config, perceptual
from koala.errors import UserError

SETTINGS = config.Objective(perceptual=1.0, perceptual_network="resnet10t", perceptual_weights="random")


@pytest.fixture(scope="module")
def distance() -> perceptual.Perceptual:
    return perceptual.Perceptual(SETTINGS)


def pictures(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lightness and ab of two pictures."""
    generator = torch.manual_seed(seed)
    return torch.rand(2, 1, 64, 64, generator=generator) - 0.5, torch.rand(2, 2, 64, 64, generator=generator) / 2 - 0.25


def test_what_is_equal_has_no_distance_and_what_is_greyer_has_more(distance):
    lightness, ab = pictures(0)
    assert float(distance(lightness, ab, ab)) == 0
    assert 0 < float(distance(lightness, 0.9 * ab, ab)) < float(distance(lightness, 0 * ab, ab))


def test_the_gradient_reaches_the_colors_and_not_the_network(distance):
    lightness, ab = pictures(1)
    predicted = (ab / 2).requires_grad_()
    distance(lightness, predicted, ab).backward()
    assert float(predicted.grad.abs().sum()) > 0
    assert not any(weight.requires_grad for weight in distance.parameters())
    towards = (predicted - 1e-3 * predicted.grad / predicted.grad.norm()).detach()
    assert float(distance(lightness, towards, ab)) < float(distance(lightness, predicted.detach(), ab))


def test_it_stays_as_it_was_trained(distance):
    distance.train()
    before = {name: value.clone() for name, value in distance.named_buffers()}
    distance(*pictures(2), pictures(3)[1])
    assert all(torch.equal(value, before[name]) for name, value in distance.named_buffers())


@pytest.mark.parametrize(
    ("network", "message"), [("none", "needs a network"), ("no_such_net", "timm has no model no_such_net")]
)
def test_networks_that_cannot_judge_are_named(network, message):
    with pytest.raises(UserError, match=message):
        perceptual.Perceptual(config.Objective(perceptual=1.0, perceptual_network=network))


def test_pictures_that_are_too_small_are_refused(distance):
    with pytest.raises(UserError, match="32 pixels or more"):
        distance(torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16))
