"""Numbers that are read from a device some time after they were computed, so that nobody waits for it."""

from collections import deque
from typing import Any

import torch
from torch import Tensor


class DelayedReads:
    """Small tensors on their way to the CPU, in order.

    Args:
        device: that computes them.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._under_way: deque[tuple[Tensor, Any]] = deque()

    def __len__(self) -> int:
        return len(self._under_way)

    def push(self, values: Tensor) -> None:
        """Begin to copy `(N,)` numbers."""
        if not self._gpu:
            self._under_way.append((values.clone(), None))
            return
        copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        copy.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._under_way.append((copy, event))

    def pop(self) -> list[float]:
        """The numbers that were pushed first; the device is waited for if it has not come that far."""
        values, event = self._under_way.popleft()
        if event is not None:
            event.synchronize()
        return values.tolist()
