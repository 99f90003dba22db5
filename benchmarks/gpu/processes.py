"""Part 8: one process of several, with NCCL."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from benchmarks.gpu import numbers
from benchmarks.gpu.bench import CHECKOUT, Bench, Fact, entries, finish, koala, train
from koala.core.distributed import mean_over_processes, on_main_process, open_accelerator, wait_for_all

LAUNCHER = ("torch.distributed.run", "--nproc-per-node=1", "--master-port=29571")


def one_of_several(bench: Bench) -> Iterator[Fact]:
    """Set up a group of one, use all that several processes use, and train in it."""
    probe = [sys.executable, "-m", *LAUNCHER, "-m", "benchmarks.gpu.processes", bench.device]
    done = subprocess.run(probe, check=False, capture_output=True, text=True, cwd=CHECKOUT)
    said = done.stdout.strip() if done.returncode == 0 else done.stderr[-1000:]
    yield Fact("group of one process", said, aim="set up", good=done.returncode == 0)
    alone, launched = (numbers.settings(bench, f"process-{name}", steps=4) for name in ("alone", "launched"))
    train(alone)
    finish(koala(*numbers.command(launched), launcher=LAUNCHER))
    first, second = ([entry["train/loss"] for entry in entries(run.run)] for run in (alone, launched))
    worst = max(abs(a - b) for a, b in zip(first, second, strict=True))
    yield Fact("its losses beside those of a process alone", f"{worst:.2g}", aim="within 1e-05", good=worst <= 1e-5)


def probe(device: str) -> str:
    """Use each way in which koala's processes speak to each other; what carried it, in words."""
    with open_accelerator(device, "no", timeout=timedelta(seconds=60)) as accelerator:
        value = torch.ones(1 << 20, device=accelerator.device)
        dist.all_reduce(value)
        patient = dist.new_group(backend="gloo")
        told = ["told"]
        dist.broadcast_object_list(told, group=patient)
        dist.barrier()
        dist.barrier(group=patient)
        wait_for_all(accelerator)
        assert on_main_process(accelerator, lambda: "done") == "done"
        assert mean_over_processes(accelerator, {"loss": 0.5}) == {"loss": 0.5}
        assert float(value.sum()) == value.numel() * dist.get_world_size()
        return f"{dist.get_backend()} and gloo: all-reduce, objects, barriers"


if __name__ == "__main__":
    print(probe(sys.argv[1]))
