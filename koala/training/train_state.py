"""What changes while training: weights, optimizer, moving average, clock; and how a checkpoint keeps it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from koala.config.training import TrainSettings
from koala.models.checkpoint import Checkpoint
from koala.models.network import Network


@dataclass
class TrainState:
    """All that changes while training, and all that a checkpoint keeps.

    Attributes:
        network: the trained weights.
        optimizer: its state.
        ema: the weights' moving average, or none.
        images_seen: the clock, over all processes.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None = None
    images_seen: int = 0

    @classmethod
    def new(cls, network: Network, settings: TrainSettings) -> "TrainState":
        """The state before the first step of a network that is on its device."""
        # the report's optimizer, all its arithmetic in one pass over the weights
        optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
        return cls(network, optimizer, _new_ema(network, settings) if settings.ema else None)

    @property
    def model(self) -> Network:
        """What is validated, saved and used: the moving average, where there is one."""
        return self.network if self.ema is None else self.ema.module  # type: ignore[return-value]

    def state_dict(self, scaler: Any) -> dict[str, Any]:
        """What a checkpoint keeps beside the model and the clock: plain values and tensors."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "network": self.network.state_dict() if self.ema is not None else None,
        }

    def restore(self, found: Checkpoint, scaler: Any) -> None:
        """Go back to a checkpoint; a moving average that it does not hold begins with its weights."""
        saved, model = found.training(), found.network().state_dict()
        self.network.load_state_dict(saved.get("network") or model)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.images_seen = found.images_seen
        if self.ema is not None:
            self.ema.module.load_state_dict(model)
            self.ema.n_averaged += 1  # of none, it would begin anew
        if scaler is not None and saved.get("scaler"):
            scaler.load_state_dict(saved["scaler"])

    def update_ema(self) -> None:
        """Let the moving average follow the weights."""
        if self.ema is not None:
            self.ema.update_parameters(self.network)


def _new_ema(network: Network, settings: TrainSettings) -> AveragedModel:
    """An average of the weights in which those of `ema` images ago count half as much as today's."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5 ** (settings.batch / settings.ema)))
