"""Folded networks compute what they did."""

import pytest
import timm
import torch
from torch import nn

from koala.models.batch_norm_folding import fold_batch_norms


def network(name: str) -> nn.Module:
    """Random weights, and statistics that are not those of a fresh network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, pretrained=False, num_classes=20).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.5, 0.5)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_every_batch_norm_goes_and_nothing_else_changes(name):
    model = network(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batch_norms(model)
    picture = torch.rand(1, 3, 128, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(folded(picture), model(picture), rtol=1e-4, atol=1e-4)
    assert norms(model) > 15 and norms(folded) == 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()), "the model stays"


def test_an_output_that_is_used_twice_is_not_folded():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.norm.running_mean.fill_(1.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return (x + self.norm(x)).mean((2, 3))

    model = Twice().eval()
    assert fold_batch_norms(model) is model


def test_a_network_without_is_left_alone():
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    assert fold_batch_norms(model) is model
