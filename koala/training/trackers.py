"""Experiment trackers, through Accelerate's: TensorBoard, Weights & Biases, MLflow, trackio and the others it knows.

`metrics.jsonl` is the record of a run. A tracker that fails later is told of once and left alone; a training does not
end for it. `RUN/trackers.json` remembers under which id a tracker has the run, so that a resumed one goes on there.
"""

import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from numpy.typing import NDArray

from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError, first_line, warn

_PROJECT = "koala"
_DISTRIBUTIONS = {"comet_ml": "comet-ml"}  # whose name is not that of their module


def check_installed(names: Sequence[str]) -> None:
    """Refuse trackers whose packages are absent.

    Raises:
        UserError: some are.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"--tracker {name} needs {name}; pip install {_DISTRIBUTIONS.get(name, name)}")


def tensorboard_tag(name: str) -> str:
    """The name of an entry in TensorBoard, which sorts by it: loss and pictures come first, speed comes last."""
    group, _, rest = name.partition("/")
    if rest in ("loss", "pictures"):
        return f"{rest}/{group}"
    return f"usage/{group}_{rest}" if group in ("speed", "time", "memory") else name


class Tracker:
    """One of Accelerate's trackers at a run.

    Args:
        name: as Accelerate has it.
        run: the run's folder.
        images_seen: the clock: what a tracker has from later on is made again.
        facts: settings and hashes, as text.

    Raises:
        UserError: it cannot be started.
    """

    def __init__(self, name: str, run: Path, images_seen: int, facts: Mapping[str, str]) -> None:
        self.name, self._failed = name, False
        ids = _read_ids(run)
        try:
            self._tracker: Any = _build(name, run, images_seen, ids.get(name, ""))
            self._tracker.start()
            if name == "tensorboard":  # its table of settings would be a run of its own
                self._tracker.writer.add_text("settings", _as_table(facts), images_seen)
            elif name != "mlflow" or name not in ids:  # there a setting is told once
                self._tracker.store_init_configuration(dict(facts))
        except Exception as error:  # every service fails in its own way
            raise UserError(
                f"the tracker {name} cannot be started ({first_line(error)}); log in to it, set its offline mode, or "
                "leave it out of --tracker"
            ) from None
        _write_ids(run, {**ids, name: self._id()})

    def add(self, images_seen: int, entry: Mapping[str, float]) -> None:
        """Write numbers down."""
        if self.name == "tensorboard":
            entry = {tensorboard_tag(name): value for name, value in entry.items()}
        self._attempt(lambda: self._tracker.log(dict(entry), step=images_seen))

    def show(self, images_seen: int, name: str, picture: NDArray) -> None:
        """Show a picture, `(H, W, 3)` uint8, where the tracker takes pictures."""
        self._attempt(lambda: _show(self._tracker, images_seen, name, picture))

    def close(self) -> None:
        """End it."""
        self._attempt(self._tracker.finish)

    def _attempt(self, work: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            work()
        except Exception as error:  # every service fails in its own way
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Tell of a failure, once, and leave the tracker alone from then on."""
        if not self._failed:
            self._failed = True
            warn(f"the tracker {self.name} has failed ({first_line(error)}); metrics.jsonl goes on")

    def _id(self) -> str:
        with suppress(AttributeError):  # Weights & Biases, trackio
            return str(self._tracker.run.id)
        with suppress(AttributeError):  # MLflow
            return str(self._tracker.active_run.info.run_id)
        return ""


@contextmanager
def open_trackers(
    names: Sequence[str], run: Path, images_seen: int, facts: Mapping[str, str]
) -> Iterator[list[Tracker]]:
    """Trackers of a run, closed at the end; see `Tracker`."""
    trackers: list[Tracker] = []
    with _failing_threads_of(trackers), ExitStack() as opened:
        for name in names:
            trackers.append(opened.enter_context(closing(Tracker(name, run, images_seen, facts))))
        yield trackers


@contextmanager
def _failing_threads_of(trackers: Sequence[Tracker]) -> Iterator[None]:
    """What ends a thread of a tracker's package, such as TensorBoard's on a full disk, is told as its failure."""
    report = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        package = type(raised.thread).__module__.partition(".")[0]
        failed = next((tracker for tracker in trackers if tracker.name == package), None)
        if failed and isinstance(raised.exc_value, Exception):
            failed.fail(raised.exc_value)
        else:
            report(raised)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = report


def _build(name: str, run: Path, images_seen: int, known: str) -> Any:
    """Accelerate's tracker for a run: a new one, or the one that has an id."""
    cls = LOGGER_TYPE_TO_CLASS[name]
    folder, project = run.absolute(), os.environ.get("WANDB_PROJECT", _PROJECT)
    match name:
        case "tensorboard":
            return cls(folder.name, folder.parent, purge_step=images_seen + 1)
        case "wandb":
            place = {"dir": str(folder), "name": folder.name}
            return cls(project, id=known or secrets.token_hex(4), resume="allow", **place)
        case "mlflow":
            return cls(_PROJECT, run_id=known or None, run_name=folder.name)
        case "trackio":
            return cls(_PROJECT, name=folder.name, resume="allow", embed=False)
    return cls(folder.name, folder) if cls.requires_logging_directory else cls(folder.name)


def _show(tracker: Any, images_seen: int, name: str, picture: NDArray) -> None:
    match tracker.name:
        case "tensorboard":
            tracker.log_images({tensorboard_tag(name): picture[None]}, step=images_seen, dataformats="NHWC")
        case "mlflow":
            import mlflow

            mlflow.log_image(picture, key=name.replace("/", "-"), step=images_seen)
        case "trackio":
            import trackio

            tracker.log({name: trackio.Image(picture)}, step=images_seen)
        case _ if hasattr(tracker, "log_images"):
            tracker.log_images({name: picture[None]}, step=images_seen)


def _as_table(facts: Mapping[str, str]) -> str:
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def _read_ids(run: Path) -> dict[str, str]:
    try:
        return json.loads((run / "trackers.json").read_bytes())
    except (OSError, ValueError):
        return {}


def _write_ids(run: Path, ids: Mapping[str, str]) -> None:
    if named := {name: value for name, value in ids.items() if value}:
        write_atomic(run / "trackers.json", json.dumps(named).encode())
