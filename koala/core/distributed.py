"""Processes: what a launcher gives to training and evaluation."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from koala.core.devices import fp32_products, on_cpu
from koala.core.errors import UserError, first_line
from koala.core.object_store import stop_waiting

Result = TypeVar("Result")

_PR_SET_PDEATHSIG = 1  # of sys/prctl.h

_PATIENCE = timedelta(hours=12)  # of processes that wait for the first one to download or to write


@contextmanager
def open_accelerator(
    device: str,
    mixed_precision: str,
    processes: int = 0,
    timeout: timedelta | None = None,
    *,
    tf32: bool = False,
) -> Iterator[Accelerator]:
    """Set up devices and processes as the launcher asks, and leave them at the end.

    Args:
        device: "auto", "cpu" or "cuda".
        mixed_precision: "no", "fp16" or "bf16".
        processes: how many there must be; 0 takes the launcher's word.
        timeout: how long a process waits for the others; by default as torch has it.
        tf32: let a GPU shorten the factors of fp32 products to 10 bits.

    Yields:
        The accelerator.

    Raises:
        UserError: there is no such device, the precision is not to be had on it, the processes did not find each
            other, or the GPU's memory does not suffice for what is done in it.
    """
    _end_with_launcher()
    accelerator = Accelerator(
        cpu=on_cpu(device, mixed_precision),
        mixed_precision=mixed_precision,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timeout),
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # gradients are summed where they are
        ],
    )
    done = False
    try:
        _check_process_group(accelerator, processes)
        with fp32_products(tf32):
            yield accelerator
        done = True
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{first_line(error)}; lower --batch-size, or see with nvidia-smi what else takes the GPU's memory"
        ) from None
    finally:
        # a process that fails must not leave the group: it might wait for the others for ever
        if done or accelerator.num_processes == 1:
            accelerator.end_training()
            _patient_group.cache_clear()
            AcceleratorState._reset_state(reset_partial_state=True)  # so that a program may set up another


def _end_with_launcher() -> None:
    """Let Linux send SIGTERM to a process whose launcher has died: nobody would end it, or know that it trains on."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform.startswith("linux"):  # torch's own launcher sets it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@cache
def _patient_group() -> Any:
    """Processes that may wait for one of them for hours, on the CPU, where no watchdog ends them; made by all."""
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def wait_for_all(accelerator: Accelerator) -> None:
    """Wait until all processes have come here, for hours if need be."""
    if accelerator.num_processes > 1:
        dist.barrier(group=_patient_group())


def _check_process_group(accelerator: Accelerator, processes: int) -> None:
    """Refuse to train in a process group that is not the one that was asked for."""
    asked = processes or int(os.environ.get("WORLD_SIZE", "1"))
    # a launcher that names a meeting place but no WORLD_SIZE has started processes that do not know each other
    alone = "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    if accelerator.num_processes != asked or alone:
        raise UserError(
            f"{asked if not alone else 'several'} processes were asked for, but this one is in a process group of "
            f"{accelerator.num_processes}; launch with one of the files in launch/, which start torch's own launcher"
        )


def is_main_process() -> bool:
    """Whether this is the only process or the first of several, also where no accelerator is set up."""
    return os.environ.get("RANK", "0") == "0"


def on_main_process(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """Let the first process do something, and give its result to all; an error is raised in all of them."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (UserError, OSError) as error:
            outcome[1] = error
    if accelerator.num_processes > 1:
        dist.broadcast_object_list(outcome, group=_patient_group())
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def main_process_first(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """Let the first process do something and then the others; an error in the first is raised in all of them."""
    done: list[Result] = []
    on_main_process(accelerator, lambda: done.append(work()))
    return done[0] if done else work()


def mean_over_processes(accelerator: Accelerator, values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each value over all processes, which call this together."""
    mine = torch.tensor(list(values.values()), dtype=torch.float64)
    means = accelerator.reduce(mine.to(accelerator.device), "mean")
    return dict(zip(values, means.tolist(), strict=True))


def dali_device(accelerator: Accelerator) -> str:
    """DALI's name of the device."""
    return "gpu" if accelerator.device.type == "cuda" else "cpu"


class GracefulStop:
    """Ctrl-C, SIGTERM and SIGUSR1 (a scheduler's warning that time is up), seen by every process in the same step.

    The first signal asks the training to save and stop. Launchers pass signals on that their processes got already,
    so only a Ctrl-C that comes some seconds later ends it at once.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    _PATIENCE_S = 3.0

    def __init__(self, accelerator: Accelerator) -> None:
        self._number = 0
        self._seen: tuple[Any, torch.Tensor] | None = None  # the comparison under way, and what it is about
        self._noted = 0.0
        self._before: dict[int, Any] = {}
        # the signals are compared on the CPU, so that no GPU is waited for
        self._group: Any = dist.new_group(backend="gloo") if accelerator.num_processes > 1 else None

    def __enter__(self) -> "GracefulStop":
        stop_waiting(False)
        self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._seen is not None and kind is None:
            self._seen[0].wait()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self._number:
            self._number, self._noted = number, now
            stop_waiting()
        elif number == signal.SIGINT and now - self._noted > self._PATIENCE_S:
            raise KeyboardInterrupt

    def requested(self) -> int:
        """The number of the signal that any process had got a step ago, or 0; called by all processes, once a step.

        With several processes the comparison that is begun in one step is looked at in the next one, so that no step
        waits for it.
        """
        if self._group is None:
            return self._number
        before = self._seen
        number = torch.tensor([self._number])
        self._seen = dist.all_reduce(number, dist.ReduceOp.MAX, self._group, async_op=True), number
        if before is None:
            return 0
        work, found = before
        work.wait()
        return int(found)
