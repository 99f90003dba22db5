"""The ab plane in bins, against hand-made cases and all colours of sRGB."""

import numpy as np
import pytest
import torch

from koala.imaging import ab_bins, color, device_constants


def test_there_are_as_many_bins_as_colors_fall_into():
    """261: counted over all 16,777,216 colours by the test below."""
    assert ab_bins.centers().shape == (261, 2)


@pytest.mark.slow
def test_every_color_of_srgb_falls_into_a_bin_and_every_bin_is_hit():
    levels = np.arange(256, dtype=np.uint8)
    green, blue = (part.ravel() for part in np.meshgrid(levels, levels))
    hit = set()
    for red in levels:
        ab = color.rgb_to_lab(np.stack([np.full_like(green, red), green, blue], axis=1)[None])[0, :, 1:]
        hit |= set(map(tuple, np.unique(ab_bins.rounded(ab), axis=0)))
    assert hit == {tuple(middle) for middle in (ab_bins.centers() / ab_bins.STEP).long().tolist()}


def test_a_training_goes_back_through_constants_that_were_first_used_to_colour():
    ab_bins.centers.cache_clear()
    device_constants._on_gpu.cache_clear()
    with torch.inference_mode():
        constants = [
            ab_bins.centers(),
            device_constants._on_gpu(bytes(4), "<f4", (1,), torch.float32, torch.device("cpu")),
        ]
    for constant in constants:
        factor = torch.ones((), requires_grad=True)
        (factor * constant).sum().backward()
        assert factor.grad == constant.sum()


def test_index_finds_the_nearest_bin():
    middles = ab_bins.centers()
    assert ab_bins.bin_index(middles.T[None, :, None]).flatten().tolist() == list(range(261))
    jittered = middles + torch.rand(261, 2, generator=torch.manual_seed(0)) * 9.8 - 4.9
    assert torch.equal(ab_bins.bin_index(jittered.T[None, :, None]).flatten(), torch.arange(261))
    outside = torch.tensor([[[[127.0]], [[127.0]]]])
    nearest = torch.cdist(torch.tensor([[120.0, 120.0]]), middles).argmin()
    assert int(ab_bins.bin_index(outside)) == int(nearest)


def test_shares():
    ab = np.zeros((2, 2, 2))
    ab[0, 0, 0] = 31.0
    found = ab_bins.bin_shares(ab)
    hit = {tuple(ab_bins.centers()[place].tolist()): found[place] for place in np.flatnonzero(found)}
    assert hit == {(0.0, 0.0): 0.75, (30.0, 0.0): 0.25}


def test_weights_are_one_on_average_and_favour_what_is_rare():
    """A prior of one bin, rebalanced by 0.8: 1 / (0.8 + 0.2 / 261) to 1 / (0.2 / 261), scaled; by hand."""
    prior = torch.zeros(261)
    prior[7] = 1.0
    found = ab_bins.rebalancing_weights(prior, 0.8)
    assert float((prior * found).sum()) == pytest.approx(1.0)
    assert float(found[0] / found[7]) == pytest.approx((0.8 + 0.2 / 261) / (0.2 / 261), rel=1e-5)
    assert ab_bins.rebalancing_weights(prior, 0).tolist() == pytest.approx([1.0] * 261)


def test_a_smoothed_prior_spreads_to_neighbours_only():
    frequencies = torch.zeros(261)
    middle = int(ab_bins.bin_index(torch.zeros(1, 2, 1, 1)))
    frequencies[middle] = 10.0
    prior = ab_bins.smooth(frequencies)
    assert float(prior.sum()) == pytest.approx(1.0)
    assert prior.argmax() == middle
    beside = int(ab_bins.bin_index(torch.tensor([10.0, 0.0]).view(1, 2, 1, 1)))
    assert float(prior[beside] / prior[middle]) == pytest.approx(np.exp(-(10**2) / (2 * 5**2)), rel=0.01)


def test_soft_targets_by_hand():
    """Half-way between two bins both count the same, and the next two by exp(-(15^2 - 5^2) / 50) less."""
    which, shares = ab_bins.soft_targets(torch.tensor([5.0, 0.0]).view(1, 2, 1, 1))
    found = {
        tuple(ab_bins.centers()[w].tolist()): float(s) for w, s in zip(which.flatten(), shares.flatten(), strict=True)
    }
    assert float(shares.sum()) == pytest.approx(1.0)
    assert found[0.0, 0.0] == pytest.approx(found[10.0, 0.0], rel=1e-5)
    beyond = [share for (a, b), share in found.items() if (a, b) not in {(0.0, 0.0), (10.0, 0.0)}]
    assert max(beyond) == pytest.approx(found[0.0, 0.0] * np.exp(-(5**2 + 10**2 - 5**2) / 50), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.38, 0.01])
def test_annealed_mean_of_a_sure_distribution_is_its_bin(temperature):
    logits = torch.full((1, 261, 1, 1), -30.0)
    logits[0, 40] = 30.0
    torch.testing.assert_close(ab_bins.annealed_mean(logits, temperature).flatten(), ab_bins.centers()[40])


def test_annealing_moves_from_the_mean_to_the_likeliest():
    logits = torch.full((1, 261, 1, 1), -1e4)
    red, blue = (int(ab_bins.bin_index(torch.tensor(ab).view(1, 2, 1, 1))) for ab in ([60.0, 40.0], [0.0, -40.0]))
    logits[0, red], logits[0, blue] = 1.0, 0.0
    share = np.e / (np.e + 1)
    assert ab_bins.annealed_mean(logits, 1.0).flatten().tolist() == pytest.approx(
        [60 * share, 40 * share - 40 * (1 - share)]
    )
    assert ab_bins.annealed_mean(logits, 0.01).flatten().tolist() == pytest.approx([60.0, 40.0], abs=1e-3)
