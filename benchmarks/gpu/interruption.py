"""Part 6: killed and resumed to the bit; a warning of Slurm's ends a training in order."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

from benchmarks.gpu import numbers
from benchmarks.gpu.bench import Bench, Fact, finish, koala
from koala.config.training import TrainSettings

_EVERY = 4  # steps between checkpoints
_PATIENCE_S = 120.0


def killed_and_warned(bench: Bench) -> Iterator[Fact]:
    """Kill -9 and SIGUSR1, each after a checkpoint."""
    words = ["--deterministic", "--checkpoint-every", str(_EVERY), "--keep-checkpoints", "2"]
    steps = max(16, 2 * bench.scale.compared)
    lengths = {"whole": steps, "killed": steps, "warned": 100 * steps}  # the last does not have to end by itself
    whole, killed, warned = (numbers.settings(bench, f"interrupted-{name}", steps=n) for name, n in lengths.items())
    undisturbed, victim, signalled = (koala(*numbers.command(run), *words) for run in (whole, killed, warned))
    _wait_for_checkpoint(killed, victim)
    victim.send_signal(signal.SIGKILL)
    _wait_for_checkpoint(warned, signalled)
    signalled.send_signal(signal.SIGUSR1)
    signalled.communicate()
    yield Fact("exit code after SIGUSR1", signalled.returncode, aim="138", good=signalled.returncode == 138)
    victim.communicate()
    finish(undisturbed)
    finish(koala(*numbers.command(killed), *words))
    yield numbers.same("killed with SIGKILL and resumed", whole, killed)


def _wait_for_checkpoint(run: TrainSettings, process: "Popen[str]") -> None:
    """Wait until the first one is there."""
    folder, until = Path(str(run.run)) / "checkpoints", time.monotonic() + _PATIENCE_S
    while not any(folder.glob("0*/training.pt")):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"no checkpoint came: {process.communicate()[0][-2000:] if process.poll() else ''}")
        time.sleep(0.02)
