"""koala started as users start it: in processes of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

_CPU = ("accelerate.commands.launch", "--config_file", str(Path(__file__).parents[1] / "launch/cpu.yaml"))


def start(*words: str, launcher: tuple[str, ...] = (), **options) -> subprocess.Popen:
    """Start a command; with a launcher, `python -m LAUNCHER -m koala ...`."""
    command = [sys.executable, "-m", *((*launcher, "-m") if launcher else ()), "koala", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, **options
    )


def start_two(*words: str, **options) -> subprocess.Popen:
    """Start a command in two processes on the CPU."""
    return start_several(2, *words, **options)


def start_several(count: int, *words: str, **options) -> subprocess.Popen:
    """Start a command in several processes on the CPU."""
    return start(*words, launcher=(*_CPU, "--num_processes", str(count)), **options)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """Wait for the end, and give what was printed."""
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == code, printed
    return printed


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Wait until a file is there."""
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)
