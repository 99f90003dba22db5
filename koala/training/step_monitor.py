"""Steps whose gradient is not finite: kept out of the weights on the device, and told of once they are read."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from koala.core.device_reads import DelayedReads
from koala.training.optimizer import skips_on_device


@dataclass(frozen=True)
class StepNumbers:
    """What a step found.

    Attributes:
        images_seen: the clock before it.
        loss: of this process's part of the batch.
        norm: of the gradient, the same in all processes.
    """

    images_seen: int
    loss: float
    norm: float

    @property
    def finite(self) -> bool:
        """Whether the weights were changed by it."""
        return math.isfinite(self.norm)


class StepMonitor:
    """Follows the steps of a training, without waiting for them.

    Args:
        accelerator: processes and device.
        halt: after a gradient that is not finite leave out all steps, not that one alone.
    """

    def __init__(self, accelerator: Accelerator, halt: bool) -> None:
        self._scaler = accelerator.scaler
        self._halt = halt and self._scaler is None
        self._bad = torch.zeros((), device=accelerator.device)
        self._reads = DelayedReads(accelerator.device)
        self._clocks: deque[int] = deque()

    def flag(self, optimizer: torch.optim.Optimizer, norm: Tensor) -> Tensor:
        """Let the optimizer leave its next step out, on the device, where the gradient is not finite.

        In fp16 the loss scaler does so, by the same gradient. An optimizer that cannot must not be asked to step.

        Returns:
            1 where the step is left out, else 0.
        """
        bad = (~torch.isfinite(norm)).float()
        self._bad = torch.maximum(self._bad, bad) if self._halt else bad
        if self._scaler is None and skips_on_device(optimizer):
            optimizer.found_inf = self._bad  # type: ignore[attr-defined]  # as a loss scaler would
        return self._bad

    def push(self, images_seen: int, loss: Tensor, norm: Tensor) -> None:
        """Begin to read a step's numbers; the clock is that before it."""
        self._clocks.append(images_seen)
        self._reads.push(torch.stack([loss, norm]))

    def pop(self, waiting: int) -> Iterator[StepNumbers]:
        """The numbers of the steps that are not read yet, but for the newest ones."""
        while len(self._reads) > waiting:
            yield StepNumbers(self._clocks.popleft(), *self._reads.pop())

    def is_mended(self) -> bool:
        """Whether an overflow is the loss scaler's to mend: until it has nothing left to scale down."""
        return self._scaler is not None and self._scaler.get_scale() >= 1
