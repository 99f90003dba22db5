"""The network: its parameters, its padding, its fusion."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from koala.imaging import ab_bins
from koala.models.network import Colorizer, FusionNetwork, SameConv2d


def test_parameters_with_1000_logits():
    """6,573,794 in both earlier implementations."""
    assert sum(parameter.numel() for parameter in FusionNetwork(1000).parameters()) == 6_573_794


@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 64), (40, 104)])
def test_any_multiple_of_8(height, width):
    network = FusionNetwork(1000)
    predicted = network(torch.rand(2, 1, height, width), torch.rand(2, 1000))
    assert predicted.shape == (2, 2, height, width)
    assert predicted.abs().max() <= 1


@pytest.mark.parametrize("shape", [(1, 1, 12, 16), (1, 1, 16, 20)])
def test_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        FusionNetwork(0)(torch.rand(shape))


def test_without_extractor():
    assert FusionNetwork(0)(torch.rand(1, 1, 16, 16)).shape == (1, 2, 16, 16)


def test_fusion_equals_concatenation():
    fusion = FusionNetwork(1000).fusion
    x, embedding = torch.randn(3, 256, 7, 5), torch.randn(3, 1000)
    repeated = embedding[:, :, None, None].expand(-1, -1, 7, 5)
    expected = F.relu(F.conv2d(torch.cat([x, repeated], 1), fusion.mix.weight[:, :, None, None], fusion.mix.bias))
    assert (fusion(x, embedding) - expected).abs().max() < 1e-5


def test_padding_is_tensorflows():
    """TensorFlow's "same" at stride 2 on even sizes pads below and to the right only: output 0 sees inputs 0 to 2.

    The expected numbers are the sums that the definition gives for 0..15 in a 4 x 4 picture.
    """
    conv = SameConv2d(1, 1)
    torch.nn.init.ones_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    out = conv(torch.arange(16.0).reshape(1, 1, 4, 4))
    assert np.array_equal(out[0, 0].detach().numpy(), [[45, 39], [66, 50]])


def test_each_place_sees_the_embedding():
    network = FusionNetwork(4).eval()
    lightness = torch.zeros(1, 1, 32, 32)
    plain, other = (network(lightness, torch.full((1, 4), value)) for value in (0.0, 9.0))
    assert ((plain - other).abs().amax(dim=1) > 0).all()


def test_colorizer_joins_extractor_and_network():
    class Brightness(torch.nn.Module):
        def forward(self, lightness):
            return lightness.mean(dim=(2, 3))

    network = FusionNetwork(1).eval()
    lightness = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        expected = network(lightness, lightness.mean(dim=(2, 3)))
    assert torch.allclose(Colorizer(network, Brightness(), size=16)(lightness), expected, atol=1e-6)


# ---------------------------------------------------------------- bins


def test_a_network_of_bins_has_its_own_head_on_the_same_trunk():
    network, plain = FusionNetwork(8, "bins"), FusionNetwork(8)
    output = network(torch.zeros(2, 1, 32, 48), torch.zeros(2, 8))
    assert output.shape == (2, 261, 8, 12)
    assert network.to_ab(output).shape == (2, 2, 32, 48)
    shared = plain.state_dict().keys() & network.state_dict().keys()
    assert {
        name for name in plain.state_dict() if name.startswith(("encoder", "fusion", "decoder.0", "decoder.2"))
    } == shared


def test_the_temperature_is_a_dial_of_saturation():
    """Orange is twice as likely as grey, by hand: at 1 two thirds of orange, towards 0 all of it."""
    network = FusionNetwork(0, "bins")
    orange, grey = (int(ab_bins.bin_index(torch.tensor(ab).view(1, 2, 1, 1))) for ab in ([40.0, 50.0], [0.0, 0.0]))
    output = torch.full((1, 261, 2, 2), -1e4)
    output[:, orange], output[:, grey] = math.log(2), 0.0
    strong, mean = (network.to_ab(output, temperature)[0, :, 4, 4] * 127 for temperature in (0.01, 1.0))
    assert strong.tolist() == pytest.approx([40, 50], abs=1e-2)
    assert mean.tolist() == pytest.approx([40 * 2 / 3, 50 * 2 / 3], abs=1e-2)


def test_colors_are_as_sharp_under_autocast():
    network, output = FusionNetwork(0, "bins"), torch.randn(1, 261, 4, 4, generator=torch.manual_seed(0)) * 4
    with torch.autocast("cpu", torch.bfloat16):
        inside = network.to_ab(output)
    assert torch.equal(inside, network.to_ab(output))
