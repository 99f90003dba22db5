"""Where networks compute: the GPU that torch finds, or the CPU; on every system, and without accelerate."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

from koala.core.errors import UserError


def on_cpu(device: str, mixed_precision: str) -> bool:
    """Whether the CPU is to compute.

    Args:
        device: "auto", "cpu" or "cuda".
        mixed_precision: "no", "fp16" or "bf16".

    Raises:
        UserError: there is no such device, or the precision is not to be had on it.
    """
    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise UserError("there is no GPU that torch can use; leave --device at auto, or check with nvidia-smi")
    cpu = device == "cpu" or not gpu
    if cpu and mixed_precision == "fp16":
        raise UserError("fp16 needs a GPU; on the CPU choose --mixed-precision bf16 or no")
    if not cpu and mixed_precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise UserError("this GPU has no bf16; choose --mixed-precision fp16 or no")
    return cpu


def supports_bf16(cpu: bool) -> bool:
    """Whether the CPU, or else the GPU, computes in bf16 itself; what does not imitates it, slowly."""
    if not cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def cores_set_back() -> Iterator[None]:
    """What threads within set by `torch.set_num_threads`, which is the process's, is afterwards as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Products:
    """torch's switches for the factors of fp32 products on a GPU, which are those of the whole process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._asked: list[bool] = []  # by all that compute now
        self._before: list[bool] = []

    def ask(self, tf32: bool) -> None:
        """Let factors be short, unless somebody else needs whole ones."""
        with self._lock:
            if not self._asked:
                self._before = [place.allow_tf32 for place in self._places()]
            self._asked.append(tf32)
            self._set()

    def release(self, tf32: bool) -> None:
        """Take that back; after the last one all is as it was before the first."""
        with self._lock:
            self._asked.remove(tf32)
            self._set()

    def _set(self) -> None:
        values = [all(self._asked)] * 2 if self._asked else self._before
        for place, value in zip(self._places(), values, strict=True):
            place.allow_tf32 = value

    @staticmethod
    def _places() -> tuple[Any, Any]:
        return torch.backends.cuda.matmul, torch.backends.cudnn


_products = _Products()


@contextmanager
def fp32_products(tf32: bool = False) -> Iterator[None]:
    """Let a GPU compute products of fp32 in fp32, or with factors of 10 bits; torch by default does both.

    While several threads are within, all compute in fp32 if one of them is to.

    Args:
        tf32: shorten the factors.
    """
    _products.ask(tf32)
    try:
        yield
    finally:
        _products.release(tf32)
