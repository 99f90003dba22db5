"""Constants of formulas as tensors, copied to a GPU once and not in every step, where the copy would be waited for."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def constant(values: NDArray, dtype: "torch.dtype", device: "torch.device") -> "torch.Tensor":
    """A tensor of these values, which nobody may write to."""
    import torch

    if device.type != "cuda":
        return torch.as_tensor(values, dtype=dtype, device=device)
    values = np.ascontiguousarray(values)
    return _on_gpu(values.tobytes(), values.dtype.str, values.shape, dtype, device)


@lru_cache(maxsize=256)
def _on_gpu(data: bytes, kind: str, shape: tuple[int, ...], dtype: "torch.dtype", device: "torch.device") -> Any:
    import torch

    with torch.inference_mode(False):  # what is made in that mode, a later training could not go back through
        return torch.as_tensor(np.frombuffer(data, kind).reshape(shape).copy(), dtype=dtype, device=device)
