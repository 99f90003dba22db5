"""The perceptual term, on a small network of random weights."""

from dataclasses import replace

import pytest
import torch

from koala.config.models import ObjectiveSettings
from koala.core.errors import UserError
from koala.models import extractor, perceptual

SETTINGS = ObjectiveSettings(perceptual=1.0, perceptual_network="resnet10t", perceptual_weights="random")


@pytest.fixture(scope="module")
def distance() -> perceptual.PerceptualLoss:
    return perceptual.PerceptualLoss(SETTINGS, 64)


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


def test_folded_batch_normalisation_changes_nothing_but_rounding(monkeypatch):
    """With statistics as training leaves them; those of random weights, 0 and 1, would fold to nothing."""
    build = extractor.build_extractor

    def trained(*given, **named):
        built = build(*given, **named)
        generator = torch.Generator().manual_seed(0)
        for name, value in built.model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        return built

    monkeypatch.setattr(extractor, "build_extractor", trained)
    folded = perceptual.PerceptualLoss(SETTINGS, 64)
    monkeypatch.setattr(extractor.Extractor, "fold", lambda built: built)
    whole = perceptual.PerceptualLoss(SETTINGS, 64)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert folded.sha256 == whole.sha256, "a run stays with the weights as they came"
    for found, expected in zip(folded._features(*pictures(6)), whole._features(*pictures(6)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("network", "message"), [("none", "needs a network"), ("no_such_net", "timm has no model no_such_net")]
)
def test_networks_that_cannot_judge_are_named(network, message):
    with pytest.raises(UserError, match=message):
        perceptual.PerceptualLoss(ObjectiveSettings(perceptual=1.0, perceptual_network=network), 64)


def test_pictures_of_a_size_that_a_network_cannot_see_are_refused():
    settings = ObjectiveSettings(perceptual=1.0, perceptual_network="vit_tiny_patch16_224", perceptual_weights="random")
    with pytest.raises(UserError, match="vit_tiny_patch16_224 cannot judge pictures of 64 pixels"):
        perceptual.PerceptualLoss(settings, 64)


def test_weights_that_are_not_there_are_named_by_their_own_flag(tmp_path):
    settings = replace(SETTINGS, perceptual_weights=str(tmp_path / "vgg.pth"))
    with pytest.raises(UserError, match=r"vgg.pth does not exist; --objective.perceptual-weights names"):
        perceptual.PerceptualLoss(settings, 64)


def test_the_last_stage_of_vgg_counts_most():
    """Five stages of 64, 128, 256, 512 and 512 channels; what timm gives besides is the last one pooled."""
    settings = ObjectiveSettings(perceptual=1.0, perceptual_network="vgg11", perceptual_weights="random")
    judge = perceptual.PerceptualLoss(settings, 32)
    features = judge._features(torch.zeros(1, 1, 32, 32), torch.zeros(1, 2, 32, 32))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        *((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2))
    ]
    assert sum(weight.numel() for weight in judge.parameters()) < 20e6, "its classifier is cut off"


def test_in_bf16_it_is_the_same_but_for_rounding(distance):
    """8 bits: some 0.4 % for each product."""
    coarse = perceptual.PerceptualLoss(SETTINGS, 64, "bf16")
    coarse.load_state_dict(distance.state_dict())
    (lightness, ab), other = pictures(4), pictures(5)[1]
    expected, found = float(distance(lightness, other, ab)), float(coarse(lightness, other, ab))
    assert found != expected
    assert found == pytest.approx(expected, rel=0.05)
