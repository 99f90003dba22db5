"""A distance between pictures by the features of a frozen network, for training."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from koala.config.fields import MixedPrecision
from koala.config.models import ExtractorSettings, ObjectiveSettings
from koala.core.errors import UserError, first_line
from koala.imaging import color
from koala.models import extractor

FLAG = "--objective.perceptual-weights"
_WEIGHTS = (0.0625, 0.125, 0.25, 0.5, 1.0)  # of the network's stages; where there are fewer, of the last ones


def extractor_settings(settings: ObjectiveSettings) -> ExtractorSettings:
    """The network that the settings name, as an extractor's settings."""
    return ExtractorSettings(settings.perceptual_network, weights=settings.perceptual_weights)


class PerceptualLoss(nn.Module):
    """The mean absolute difference of features, stage by stage.

    Args:
        settings: which network.
        size: height and width of the pictures.
        mixed_precision: in which the network computes; distances are summed in fp32.

    Attributes:
        sha256: of the network's weights.

    Raises:
        UserError: timm has no such model with stages, it cannot see pictures of that size, or its weights are not to be
            had.

    References:
        Johnson, Alahi, Fei-Fei: Perceptual Losses, arXiv:1603.08155; the weights of the stages are those of Kang et
        al., DDColor, arXiv:2212.11613, over VGG16-BN.
    """

    def __init__(self, settings: ObjectiveSettings, size: int, mixed_precision: MixedPrecision = "no") -> None:
        super().__init__()
        self._dtype = extractor.DTYPES[mixed_precision]
        name = settings.perceptual_network
        if name == "none":
            raise UserError("a perceptual term needs a network; name one with --objective.perceptual-network")
        built = extractor.build_extractor(extractor_settings(settings), flag=FLAG)
        assert built is not None, "there is one but for the name none"
        self.sha256 = extractor.weights_sha256(built)
        self.extractor = built
        model: Any = built.model
        try:
            model.prune_intermediate_layers(prune_head=True)  # a hundred million weights of VGG's
            self._features(torch.zeros(1, 1, size, size), torch.zeros(1, 2, size, size))
        except (AttributeError, AssertionError, RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"{name} cannot judge pictures of {size} pixels ({first_line(error)}); choose another "
                "--objective.perceptual-network or a larger --data.size"
            ) from None
        built.fold()

    def forward(self, lightness: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """How far predicted colours are from the true ones.

        Args:
            lightness: `(B, 1, H, W)` on the network's scale.
            predicted: `(B, 2, H, W)` ab.
            true: `(B, 2, H, W)` ab.
        """
        with torch.no_grad():
            wanted = self._features(lightness, true)
        found = self._features(lightness, predicted)
        distances = [F.l1_loss(mine.float(), theirs.float()) for mine, theirs in zip(found, wanted, strict=True)]
        weights = _WEIGHTS[len(_WEIGHTS) - len(distances) :]
        return torch.stack([weight * distance for weight, distance in zip(weights, distances, strict=True)]).sum()

    def _features(self, lightness: Tensor, ab: Tensor) -> list[Tensor]:
        """What the stages see, five at the most: what timm's VGG gives after its fifth is that once more, pooled."""
        rgb = color.lab_to_rgb(color.to_lab(lightness.float(), ab.float()))
        normal = ((rgb - self.extractor.mean) / self.extractor.std).contiguous(memory_format=torch.channels_last)
        model: Any = self.extractor.model
        with torch.autocast(normal.device.type, self._dtype, enabled=self._dtype is not None):
            return model.forward_intermediates(normal, intermediates_only=True)[: len(_WEIGHTS)]
