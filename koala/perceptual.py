"""A distance between pictures by the features of a frozen network, for training."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from koala import color, config, extractor
from koala.errors import UserError

_WEIGHTS = (0.0625, 0.125, 0.25, 0.5, 1.0)  # of the network's last stages; the last counts most
_LEAST = 32  # pixels, which the last stage's stride takes


class Perceptual(nn.Module):
    """The mean absolute difference of features, stage by stage.

    Args:
        settings: which network.

    Raises:
        UserError: timm has no such model with stages, or its weights are not to be had.

    References:
        Johnson, Alahi, Fei-Fei: Perceptual Losses, arXiv:1603.08155; the weights of the stages are those of Kang et
        al., DDColor, arXiv:2212.11613, over VGG16-BN.
    """

    def __init__(self, settings: config.Objective) -> None:
        super().__init__()
        name = settings.perceptual_network
        if name == "none":
            raise UserError("a perceptual term needs a network; name one with --objective.perceptual-network")
        built = extractor.build(config.Extractor(name, weights=settings.perceptual_weights))
        assert built is not None
        if not hasattr(built.model, "forward_intermediates"):
            raise UserError(f"timm does not give the stages of {name}; choose another --objective.perceptual-network")
        self.extractor = built

    def forward(self, lightness: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """How far predicted colours are from the true ones.

        Args:
            lightness: `(B, 1, H, W)` on the network's scale; H and W 32 or more.
            predicted: `(B, 2, H, W)` ab.
            true: `(B, 2, H, W)` ab.
        """
        with torch.no_grad():
            wanted = self._features(lightness, true)
        found = self._features(lightness, predicted)
        distances = [F.l1_loss(mine.float(), theirs.float()) for mine, theirs in zip(found, wanted, strict=True)]
        return torch.stack([w * d for w, d in zip(reversed(_WEIGHTS), reversed(distances), strict=False)]).sum()

    def _features(self, lightness: Tensor, ab: Tensor) -> list[Tensor]:
        rgb = color.lab_to_rgb(color.to_lab(lightness.float(), ab.float()))
        if min(rgb.shape[-2:]) < _LEAST:
            raise UserError(f"a perceptual term needs pictures of {_LEAST} pixels or more; raise --data.size")
        normal = ((rgb - self.extractor.mean) / self.extractor.std).contiguous(memory_format=torch.channels_last)
        model: Any = self.extractor.model
        return model.forward_intermediates(normal, intermediates_only=True)
