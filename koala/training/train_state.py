"""What changes while training: weights, optimizer, moving average, clock; and how a checkpoint keeps it."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.models.checkpoint import Checkpoint
from koala.models.network import ColorNetwork
from koala.training.optimizer import build_optimizer, fits


@dataclass
class TrainState:
    """All that changes while training, and all that a checkpoint keeps.

    Attributes:
        network: the trained weights.
        optimizer: its state.
        ema: the weights' moving average, or none.
        images_seen: the clock, over all processes.
        origin: what the weights began as (`koala.training.initial_weights.Origin`); empty for random ones.
    """

    network: ColorNetwork
    optimizer: torch.optim.Optimizer
    ema: ColorNetwork | None = None
    images_seen: int = 0
    origin: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def new(cls, network: ColorNetwork, settings: TrainSettings) -> "TrainState":
        """The state before the first step of a network that is on its device."""
        optimizer = build_optimizer(
            network, settings.optimizer, settings.learning_rate, settings.network.extractor_rate
        )
        ema = deepcopy(network).requires_grad_(False) if settings.ema else None
        return cls(network, optimizer, ema)

    @property
    def model(self) -> ColorNetwork:
        """What is validated, saved and used: the moving average, where there is one."""
        return self.network if self.ema is None else self.ema

    def state_dict(self, scaler: Any) -> dict[str, Any]:
        """What a checkpoint keeps beside the model and the clock: plain values and tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "network": self.network.state_dict() if self.ema is not None else None,
        }

    def restore(self, found: Checkpoint, scaler: Any) -> None:
        """Go back to a checkpoint; a moving average that it does not hold begins with its weights.

        Raises:
            UserError: it holds the state of another training.
        """
        saved, model = found.training(), found.network().state_dict()
        try:
            self.network.load_state_dict(saved.get("network") or model)
            self.optimizer.load_state_dict(saved["optimizer"])
            if scaler is not None and saved.get("scaler"):
                scaler.load_state_dict(saved["scaler"])
            trained = (weight for weight in self.network.parameters() if weight.requires_grad)
            whole = all(fits(self.optimizer, weight) for weight in trained)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
            whole = False
        if not whole:
            raise UserError(
                f"{found.path / 'training.pt'} holds the state of another training; name another --run, or delete "
                f"{found.path} to resume from the checkpoint before it"
            )
        self.images_seen, self.origin = found.images_seen, found.state.get("origin", {})
        if self.ema is not None:
            self.ema.load_state_dict(model)

    @torch.no_grad()
    def update_ema(self, share: float, skip: Tensor) -> None:
        """Let the moving average follow the weights, all on the device.

        Args:
            share: of the new weights in it; the first step's weights are all of it.
            skip: 1 where the step was left out, and the average with it; else 0.
        """
        if self.ema is None:
            return
        averages: list[Tensor] = list(self.ema.parameters())
        weights: list[Tensor] = list(self.network.parameters())
        differences = list(torch._foreach_sub(weights, averages))
        torch._foreach_mul_(differences, (1 - skip) * (share if self.images_seen else 1.0))
        torch._foreach_add_(averages, differences)


def ema_share(batch: int, half_life: int) -> float:
    """The share of new weights in an average in which those of `half_life` images ago count half as much as today's."""
    return 1 - 0.5 ** (batch / half_life) if half_life else 0.0
