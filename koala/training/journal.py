"""What happened to a run, in `RUN/journal.jsonl`, and the command that is told of it (`--notify`).

Events are: start, alarm, stopped (by a signal), failure, end. Each line has the time, the clock and a sentence; that of
a start also says on what the run trains.
"""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import torch
from accelerate import Accelerator

from koala.core.errors import UserError, first_line, warn
from koala.core.version import __version__

Event = Literal["start", "alarm", "stopped", "failure", "end"]

FILE = "journal.jsonl"
_PATIENCE_S = 60  # for the command


class Journal:
    """Writes down what happens to a run, and tells a command of it.

    Args:
        command: for a shell, or "". It finds `KOALA_EVENT`, `KOALA_RUN` and `KOALA_MESSAGE` in its environment.
        write: False, as in all processes but the first, does nothing.

    """

    def __init__(self, command: str, write: bool) -> None:
        self._command, self._write = command, write
        self._telling: list[Thread] = []
        self._run: Path | None = None
        self._clock: Callable[[], int] = int

    def follow(self, run: Path, clock: Callable[[], int]) -> None:
        """Write into a run's folder from now on.

        Args:
            run: the folder.
            clock: gives the images seen.
        """
        self._run, self._clock = run, clock

    def note(self, event: Event, message: str, facts: Mapping[str, Any] | None = None) -> None:
        """Write an event down; of all but a start the command is told, while the training goes on."""
        if not self._write:
            return
        if self._run is not None:
            line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "images_seen": self._clock()}
            _append(self._run / FILE, {**line, "event": event, "message": message, **(facts or {})})
        if self._command and event != "start":
            thread = Thread(target=_tell, args=(self._command, event, str(self._run or ""), message))
            thread.start()
            self._telling.append(thread)

    def close(self) -> None:
        """Wait for commands that are still told."""
        for thread in self._telling:
            thread.join()


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """Write a line at a file's end; a full disk is no reason to stop, or to hide what is to be written down."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        warn(f"{path} cannot be written ({error.strerror})")


@contextmanager
def open_journal(command: str, accelerator: Accelerator) -> Iterator[Journal]:
    """A journal that notes with what error the work in it ends, if it does with one."""
    journal = Journal(command, accelerator.is_main_process)
    try:
        yield journal
    except UserError as error:
        journal.note("failure", str(error))
        raise
    except KeyboardInterrupt:
        journal.note("stopped", "interrupted")
        raise
    except Exception as error:
        journal.note("failure", f"{type(error).__name__}: {first_line(error)}")
        raise
    finally:
        journal.close()


def environment(accelerator: Accelerator) -> dict[str, str]:
    """On what a run trains, in a word each."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "koala": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "system": platform.platform(),
        "host": platform.node(),
        "device": f"{device.type} ({name})",
        "processes": str(accelerator.num_processes),
    }


def _processor() -> str:
    """The processor's name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def read_journal(run: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first; a line that was cut off is passed over."""
    try:
        lines = (run / FILE).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    return list(_readable(lines))


def _readable(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _tell(command: str, event: str, run: str, message: str) -> None:
    told = {"KOALA_EVENT": event, "KOALA_RUN": run, "KOALA_MESSAGE": message}
    try:
        done = subprocess.run(
            command,
            shell=True,
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=False,
        )
        fault = f"ended with exit code {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        fault = f"took longer than {_PATIENCE_S} seconds"
    if fault:
        warn(f"--notify {command} {fault}")
