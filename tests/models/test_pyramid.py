"""The pyramid: its shapes, its extractor, its hints, and that it comes back from a checkpoint."""

from dataclasses import replace

import pytest
import timm
import torch

from koala.config.data import DataSettings
from koala.config.models import ExtractorSettings, NetworkSettings, ObjectiveSettings, Preset
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.imaging import ab_bins
from koala.models import checkpoint
from koala.models.build import build_network
from koala.models.extractor import STRIDES, build_feature_maps
from koala.models.network import Colorizer
from koala.models.pretrained import PretrainedColorizer

LITE = ExtractorSettings("tf_efficientnet_lite0", weights="random")
SETTINGS = TrainSettings(
    data=DataSettings(size=64),
    extractor=LITE,
    network=NetworkSettings("pyramid", hints=True),
    objective=ObjectiveSettings("classification"),
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(SETTINGS).eval()


def lightness(height: int = 64, width: int = 96) -> torch.Tensor:
    return 2 * torch.rand(2, 1, height, width, generator=torch.manual_seed(1)) - 1


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_feature_maps_are_those_of_timm(name):
    """Folded, with fixed padding, of a grey picture in the model's own normalisation."""
    settings = ExtractorSettings(name, weights="random")
    maps = build_feature_maps(settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    mean, std = (torch.tensor(plain.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = plain(((lightness() + 1) / 2 - mean) / std)
        found = maps(lightness())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in maps.modules())
    for mine, theirs, stride in zip(found, expected, STRIDES, strict=True):
        assert mine.shape[-2:] == (64 // stride, 96 // stride)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_maps_of_odd_sizes_are_fitted():
    """Inception-ResNet-v2 pads its own way: at 64 pixels its maps have 13, 5, 2 and 0 pixels a side."""
    maps = build_feature_maps(ExtractorSettings("inception_resnet_v2", weights="random"))
    with torch.no_grad():
        assert [tuple(each.shape[-2:]) for each in maps(lightness(128, 128))] == [(32, 32), (16, 16), (8, 8), (4, 4)]


@pytest.mark.parametrize(("objective", "shape"), [("classification", (2, 261, 16, 24)), ("mse", (2, 2, 64, 96))])
def test_shapes(objective, shape):
    network = build_network(replace(SETTINGS, objective=ObjectiveSettings(objective)))
    output = network(lightness())
    assert output.shape == shape
    assert network.to_ab(output).shape == (2, 2, 64, 96)


def test_what_cannot_be_taken_is_refused(network):
    with pytest.raises(ValueError, match="multiples of 32"):
        network(lightness(40, 64))
    plain = build_network(replace(SETTINGS, network=NetworkSettings("pyramid")))
    with pytest.raises(ValueError, match="not trained to take hints"):
        plain(lightness(), hints=torch.zeros(2, 3, 64, 96))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"extractor": ExtractorSettings("none")}, "needs an extractor"),
        ({"extractor": ExtractorSettings("vit_tiny_patch16_224", weights="random")}, "strides 16, 16, 16"),
        (
            {"extractor": ExtractorSettings("swin_tiny_patch4_window7_224", weights="random")},
            "pictures of 64 x 96",
        ),
        ({"extractor": ExtractorSettings("inception_resnet_v2", weights="random")}, "or a larger --data.size"),
        ({"extractor": replace(LITE, cache=True)}, "no cached embeddings"),
        ({"data": DataSettings(size=72)}, "multiple of 32"),
        ({"network": NetworkSettings("fusion", hints=True)}, "only a pyramid takes hints"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        build_network(replace(SETTINGS, **settings))


def test_a_hint_is_seen_where_it_is_and_elsewhere(network):
    hints = torch.zeros(2, 3, 64, 96)
    hints[:, 0, 30:34, 40:44], hints[:, 2, 30:34, 40:44] = 0.5, 1
    with torch.no_grad():
        change = (network(lightness(), hints=hints) - network(lightness())).abs().amax(dim=1)
    assert change[:, 8, 10].min() > 0
    assert change[:, 0, 0].min() > 0  # through the attention at strides 16 and 32


def test_no_hints_are_hints_that_say_nothing(network):
    with torch.no_grad():
        assert torch.equal(network(lightness()), network(lightness(), hints=torch.zeros(2, 3, 64, 96)))


def test_the_extractor_is_trained_only_where_that_is_asked():
    frozen = build_network(SETTINGS)
    tuned = build_network(replace(SETTINGS, network=NetworkSettings("pyramid", extractor_rate=0.1)))
    for network, expected in ((frozen, False), (tuned, True)):
        network(lightness()).square().mean().backward()
        grads = [weight.grad is not None and bool(weight.grad.any()) for weight in network.extractor.parameters()]
        assert any(grads) == expected


def test_it_comes_back_from_a_checkpoint(network, tmp_path):
    """Without the extractor's own file of weights: the network holds them; with its prior and its presets."""
    prior = torch.rand(261)
    network.prior.copy_(prior / prior.sum())
    presets = {"natural": Preset(0.5, 0.4, 1.2), "faithful": Preset(1.0)}
    settings = replace(SETTINGS, extractor=ExtractorSettings("tf_efficientnet_lite0"))
    taken = checkpoint.Snapshot(40, settings, network.state_dict(), 0, "", {}, {}, presets)
    model = PretrainedColorizer.of(checkpoint.read_checkpoint(checkpoint.save_checkpoint(tmp_path, taken, keep=1)))
    assert model.presets == presets and model.preset == presets["natural"]
    expected = 1.2 * network.to_ab(network(lightness()), 0.5, 0.4)
    torch.testing.assert_close(model(lightness()), expected)
    torch.testing.assert_close(model(lightness(), preset=presets["faithful"]), network.to_ab(network(lightness()), 1.0))


def test_rebalancing_weighs_rare_colours():
    """The same as multiplying shares by the weights of training: for two bins by hand."""
    logits = torch.zeros(1, 261, 1, 1)
    weights = torch.ones(261)
    weights[7] = 3.0
    shares = torch.full((261,), 1 / 263)
    shares[7] = 3 / 263
    expected = shares @ ab_bins.centers()
    torch.testing.assert_close(ab_bins.annealed_mean(logits, 1.0, weights)[0, :, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_hints_are_given_back_whatever_the_saturation():
    """A colorizer divides what it is given by the factor that it multiplies by."""
    seen = []

    class Echo(torch.nn.Module):
        stride, hints, head, prior = 32, True, "ab", None

        def forward(self, lightness, embedding, hints):
            seen.append(hints)
            return hints[:, :2]

        def to_ab(self, output, temperature, rebalancing):
            return output

    hints = 0.8 * torch.rand(1, 3, 32, 32)
    ab = Colorizer(Echo(), None, 32)(torch.zeros(1, 1, 32, 32), hints=hints, preset=Preset(saturation=2.0))
    torch.testing.assert_close(ab, hints[:, :2])
    assert torch.equal(seen[0][:, 2], hints[:, 2])
