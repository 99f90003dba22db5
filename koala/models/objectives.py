"""What training makes small: pure functions of predictions and true ab, `(B, 2, H, W)` on the network's scale.

All compute in float32 whatever the precision of the network, so that they are stable in bf16 and fp16.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from koala.config.models import ObjectiveSettings
from koala.imaging import ab_bins, color
from koala.models.network import ColorNetwork, Head

_HUBER_DELTA = color.from_units(1.0)
_COLORED = 5.0  # a* or b* that a picture must reach somewhere to be told colours from
_ROOT = 1e-4  # under roots, whose slope at zero is infinite; in squared levels of 0..255


def mse(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error over pictures, channels and places."""
    return F.mse_loss(predicted.float(), true.float())


def huber(predicted: Tensor, true: Tensor) -> Tensor:
    """Huber's loss divided by its delta: the absolute error, but for errors below one unit of L*a*b*.

    References:
        Huber, Ann. Math. Statist. 35 (1964), with the delta of Zhang et al., arXiv:1705.02999.
    """
    return F.huber_loss(predicted.float(), true.float(), delta=_HUBER_DELTA) / _HUBER_DELTA


def weighted_mse(predicted: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error in which a place counts by how rare its true colour is.

    Args:
        predicted: ab.
        true: ab.
        weights: `(Q,)` of the bins (`koala.imaging.ab_bins.rebalancing_weights`).
    """
    error = (predicted.float() - true.float()).square().mean(dim=1)
    return (weights[ab_bins.bin_index(color.to_units(true))] * error).mean()


def classification(logits: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy between distributions over bins and soft targets, a place counting by how rare its colour is.

    Pictures without colour say nothing of colours and count 0, so that the mean over pictures is the same however they
    are shared out over processes.

    Args:
        logits: `(B, Q, H / 4, W / 4)`.
        true: `(B, 2, H, W)` ab.
        weights: `(Q,)` of the bins (`koala.imaging.ab_bins.rebalancing_weights`).

    References:
        Zhang et al., arXiv:1603.08511, eq. 2.
    """
    ab = color.to_units(F.avg_pool2d(true.float(), ab_bins.STRIDE))
    which, shares = ab_bins.soft_targets(ab)
    likelihood = torch.log_softmax(logits.float(), dim=1).gather(1, which)
    surprise = -(shares * likelihood).sum(dim=1) * weights[ab_bins.bin_index(ab)]
    colored = (ab.abs().amax(dim=(1, 2, 3)) > _COLORED).float()
    return (surprise.mean(dim=(1, 2)) * colored).mean()


def mean_error(logits: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of the mean colour of distributions over bins.

    Args:
        logits: `(B, Q, H / 4, W / 4)`.
        true: `(B, 2, H, W)` ab.
    """
    return mse(color.from_units(ab_bins.annealed_mean(logits, 1.0)), F.avg_pool2d(true.float(), ab_bins.STRIDE))


def colorfulness_error(lightness: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """How far pictures are from being as colourful as their photos, in hundredths of colourfulness, on average.

    DDColor's term, 1 - colourfulness / 100, rewards more colour without end, and what a network makes of that hangs on
    its weight by a hair; this one has its best value at the photos' own colourfulness, whatever the weight. It asks
    for no colour in particular: look at the pictures, for a network may meet it with a blue edge above them all.

    Args:
        lightness: `(B, 1, H, W)` on the network's scale.
        predicted: ab.
        true: ab.

    References:
        Kang et al., DDColor, arXiv:2212.11613, eq. 8; colourfulness: Hasler and Suesstrunk 2003.
    """
    return (_colorfulness(lightness, true) - _colorfulness(lightness, predicted)).abs().mean() / 100


def _colorfulness(lightness: Tensor, ab: Tensor) -> Tensor:
    """As `koala.imaging.color.colorfulness`, with a slope everywhere: `(B,)`."""
    rgb = 255 * color.lab_to_rgb(color.to_lab(lightness.float(), ab.float()))
    red, green, blue = rgb.unbind(dim=1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    spread = (opponents.var(dim=(2, 3), correction=0).sum(dim=1) + _ROOT).sqrt()
    shift = (opponents.mean(dim=(2, 3)).square().sum(dim=1) + _ROOT).sqrt()
    return spread + 0.3 * shift


# ---------------------------------------------------------------- as the settings name it


def required_head(settings: ObjectiveSettings) -> Head:
    """What a network must predict for an objective."""
    return "bins" if settings.name == "classification" else "ab"


def needs_prior(settings: ObjectiveSettings) -> bool:
    """Whether an objective counts rare colours more."""
    return settings.name in ("weighted-mse", "classification")


class Objective:
    """The objective that the settings name, with its further terms.

    Args:
        settings: which.
        weights: `(Q,)` of the bins, for those in which rare colours count more.
        distance: between the features of pictures, from lightness, predicted ab and true ab; for the perceptual term.
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        weights: Tensor | None = None,
        distance: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self._settings, self._weights, self._distance = settings, weights, distance

    def __call__(
        self, network: ColorNetwork, output: Tensor, lightness: Tensor, true: Tensor, joined: float = 1.0
    ) -> Tensor:
        """The objective of a batch.

        Args:
            network: that predicted.
            output: what it did.
            lightness: `(B, 1, H, W)`.
            true: `(B, 2, H, W)` ab.
            joined: what part of its weight the term for colourfulness has. A network that knows no colours yet meets
                it with a stripe of red at the edge of each picture.
        """
        loss = self._main(output, true)
        settings = self._settings
        if settings.colorfulness or self._distance is not None:
            predicted = network.to_ab(output)
            if settings.colorfulness:
                loss = loss + joined * settings.colorfulness * colorfulness_error(lightness, predicted, true)
            if self._distance is not None:
                loss = loss + settings.perceptual * self._distance(lightness, predicted, true)
        return loss

    def _main(self, output: Tensor, true: Tensor) -> Tensor:
        match self._settings.name:
            case "mse":
                return mse(output, true)
            case "huber":
                return huber(output, true)
        assert self._weights is not None, "the objective needs a prior"
        if self._settings.name == "weighted-mse":
            return weighted_mse(output, true, self._weights)
        loss = classification(output, true, self._weights)
        return loss + self._settings.mean_error * mean_error(output, true) if self._settings.mean_error else loss
