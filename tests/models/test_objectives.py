"""Objectives against cases computed by hand, and their gradients."""

import pytest
import torch

from koala.config.models import ObjectiveSettings
from koala.imaging import ab_bins, color
from koala.models import objectives
from koala.models.network import FusionNetwork

ONES = torch.ones(261)


def constant(a: float, b: float, size: int = 8) -> torch.Tensor:
    """One colour everywhere, from units of L*a*b* to the network's scale."""
    return color.from_units(torch.tensor([a, b])).view(1, 2, 1, 1).expand(1, 2, size, size).clone()


def test_mse():
    assert float(objectives.mse(constant(127, 0), constant(0, 0))) == pytest.approx(0.5)


def test_huber_is_absolute_but_for_small_errors():
    """Errors of 127 units and of 0: (127 - 1/2) / 127 and 0, averaged; of half a unit: (1/2)^2 / 2 / 127."""
    assert float(objectives.huber(constant(127, 0), constant(0, 0))) == pytest.approx((127 - 0.5) / 127 / 2, rel=1e-5)
    assert float(objectives.huber(constant(0.5, 0.5), constant(0, 0))) == pytest.approx(0.125 / 127, rel=1e-4)


def test_weighted_mse_counts_by_the_true_color():
    weights = ONES.clone()
    weights[int(ab_bins.bin_index(torch.tensor([60.0, 40.0]).view(1, 2, 1, 1)))] = 3.0
    rare, common = constant(60, 40), constant(0, 0)
    plain = objectives.mse(rare, common)
    assert float(objectives.weighted_mse(common, rare, weights)) == pytest.approx(3 * float(plain))
    assert float(objectives.weighted_mse(rare, common, weights)) == pytest.approx(float(plain))


def test_classification_of_one_who_knows_nothing_is_the_logarithm_of_the_bins():
    logits = torch.zeros(1, 261, 2, 2)
    assert float(objectives.classification(logits, constant(60, 40), ONES)) == pytest.approx(torch.tensor(261.0).log())
    assert float(objectives.classification(logits, constant(60, 40), 2 * ONES)) == pytest.approx(
        2 * torch.tensor(261.0).log()
    )


def test_classification_learns_nothing_of_grey_pictures():
    logits = torch.randn(2, 261, 2, 2, generator=torch.manual_seed(0))
    both = torch.cat([constant(60, 40), constant(1, -4)])
    alone = objectives.classification(logits[:1], both[:1], ONES)
    assert float(objectives.classification(logits, both, ONES)) == pytest.approx(float(alone) / 2)
    assert float(objectives.classification(logits[1:], both[1:], ONES)) == 0.0


def test_classification_learns_the_color():
    logits = torch.zeros(1, 261, 2, 2, requires_grad=True)
    for _ in range(200):
        (slope,) = torch.autograd.grad(objectives.classification(logits, constant(60, 40), ONES), logits)
        logits = (logits - 20 * slope).detach().requires_grad_()
    found = ab_bins.annealed_mean(logits.detach(), 0.38)
    torch.testing.assert_close(found, torch.tensor([60.0, 40.0]).view(1, 2, 1, 1).expand_as(found), atol=1.0, rtol=0)


def test_colorfulness_error_between_grey_and_two_halves():
    """Half pure red, half pure green, by Hasler and Suesstrunk's formula: red has rg = 255 and yb = 127.5, green
    rg = -255 and yb = 127.5, so that sigma is (255, 0) and mu (0, 127.5); grey has none but for the root's floor."""
    halves = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    halves[:, 0, :, :4] = 255
    halves[:, 1, :, 4:] = 255
    lab = color.rgb_to_lab(halves)
    lightness, ab = lab[:, :1] / 50 - 1, color.from_units(lab[:, 1:])
    for predicted, true in ((torch.zeros_like(ab), ab), (ab, torch.zeros_like(ab))):
        found = objectives.colorfulness_error(lightness, predicted, true)
        assert float(found) == pytest.approx((255 + 0.3 * 127.5) / 100, abs=1e-3), "too much is as bad as too little"
    assert float(objectives.colorfulness_error(lightness, ab, ab)) == 0


def test_colorfulness_error_is_over_pictures_not_over_their_mean():
    """One too pale and one too colourful do not make up for each other."""
    strong, weak = (color.from_units(torch.tensor([[20.0, -20.0], [0.0, 0.0]])).view(1, 2, 1, 2) * k for k in (2, 1))
    both, swapped = torch.cat([strong, weak]), torch.cat([weak, strong])
    found = objectives.colorfulness_error(torch.zeros(2, 1, 1, 2), both, swapped)
    alone = objectives.colorfulness_error(torch.zeros(1, 1, 1, 2), strong, weak)
    assert float(found) == pytest.approx(float(alone))
    assert float(alone) > 0.1


def test_the_term_for_colorfulness_counts_by_its_weight_and_by_how_far_it_has_joined():
    network = FusionNetwork(0)
    generator = torch.manual_seed(0)
    lightness, predicted, true = (torch.rand(2, channels, 8, 8, generator=generator) / 4 for channels in (1, 2, 2))
    plain = objectives.Objective(ObjectiveSettings())(network, predicted, lightness, true)
    term = objectives.colorfulness_error(lightness, predicted, true)
    assert term > 0
    colorful = objectives.Objective(ObjectiveSettings(colorfulness=3.0))
    for joined in (0.0, 0.5, 1.0):
        found = colorful(network, predicted, lightness, true, joined)
        assert float(found) == pytest.approx(float(plain + 3 * joined * term))


AT_THE_EDGES = {
    "mse": objectives.mse,
    "huber": objectives.huber,
    "weighted_mse": lambda predicted, true: objectives.weighted_mse(predicted, true, ONES),
    "classification": lambda predicted, true: objectives.classification(predicted, true, ONES),
    "colorfulness_error": lambda predicted, true: objectives.colorfulness_error(
        torch.zeros(2, 1, 8, 8), predicted, true
    ),
}


@pytest.mark.parametrize("name", AT_THE_EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_gradients_are_finite_at_the_edges(name, dtype, value):
    """At no colour at all, at the gamut's far side, and at sure logits, in every precision."""
    shape, value = ((2, 261, 2, 2), 30 * value) if name == "classification" else ((2, 2, 8, 8), value)
    predicted = torch.full(shape, value, dtype=dtype, requires_grad=True)
    loss = AT_THE_EDGES[name](predicted, constant(60, 40).repeat(2, 1, 1, 1))
    (slope,) = torch.autograd.grad(loss, predicted)
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()


def test_gradients_are_those_of_finite_differences():
    generator = torch.manual_seed(0)
    lightness, ab = torch.rand(1, 1, 4, 4, generator=generator) / 4, torch.rand(1, 2, 4, 4, generator=generator) / 4
    ab.requires_grad_()

    def error(predicted: torch.Tensor) -> torch.Tensor:
        return objectives.colorfulness_error(lightness, predicted, torch.zeros_like(ab))

    (slope,) = torch.autograd.grad(error(ab), ab)
    step = torch.zeros_like(ab)
    step[0, 1, 2, 3] = 1e-2
    with torch.no_grad():
        rise = error(ab + step) - error(ab - step)
    assert float(rise / 2e-2) == pytest.approx(float(slope[0, 1, 2, 3]), rel=0.05)
