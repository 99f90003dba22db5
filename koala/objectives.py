"""What training makes small: pure functions of predicted and true ab, `(B, 2, H, W)` on the network's scale."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]


def mse(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error over pictures, channels and places, in float32."""
    return F.mse_loss(predicted.float(), true)


OBJECTIVES: dict[str, Objective] = {"mse": mse}
