"""The folder of a run: which one it is, whether the training in it may be resumed, and its log of samples."""

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from koala.config.load import flat, to_dict
from koala.config.models import Preset
from koala.config.training import TrainSettings
from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.data.loader import Batch
from koala.models.checkpoint import Checkpoint, Snapshot
from koala.training.components import Components
from koala.training.metric_log import MetricWindow
from koala.training.step_monitor import StepNumbers
from koala.training.train_state import TrainState

RUNS = Path("runs")
_OLD_RUNS = Path("log/koala")  # where koala 0.1 put runs, by date alone
_DATE = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(?:_\d+)?"
_MUST_STAY = (  # in a run that is resumed
    *("seed", "init", "objective.name", "objective.rebalancing", "objective.colorfulness"),
    *("objective.perceptual", "objective.perceptual_network"),
    *("data.synthetic", "data.geometry", "data.size", "data.lightness", "data.filter", "data.mirror", "data.aging"),
    *("network.name", "network.hints", "network.extractor_rate", "objective.mean_error"),
    *("optimizer.name", "optimizer.weight_decay", "optimizer.layer_decay", "optimizer.options"),
    *("extractor.name", "extractor.features", "extractor.batch_statistics"),
)


def choose_run_folder(name: str, run: Path | None, resume: bool) -> Path:
    """The run's folder: the one that is given, the newest of that name with --resume, or a new one.

    Raises:
        UserError: --resume finds nothing.
    """
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
        return run
    if resume:
        return _newest(name)
    stem = f"{name}-{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for folder in (RUNS / stem, *(RUNS / f"{stem}_{number}" for number in range(2, 100))):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise UserError(f"{RUNS} holds a hundred runs of this second; name one with --run")


def _newest(name: str) -> Path:
    """The newest run of a name, or of the runs of koala 0.1, which had none."""
    named = re.compile(rf"{re.escape(name)}-({_DATE})")
    dates = {match[1]: path for path in RUNS.glob("*") if (match := named.fullmatch(path.name))}
    dates |= {path.name: path for path in _OLD_RUNS.glob("*")}
    begun = [date for date, path in dates.items() if (path / "config.toml").exists()]
    if not begun:
        raise UserError(f"{RUNS} holds no run called {name} to resume; leave out --resume, or name one with --run")
    return dates[max(begun)]


def how_to_watch(run: Path, trackers: Sequence[str]) -> str:
    """What shows a run, and the runs beside it; empty where its trackers say so themselves."""
    folder = run.parent if run.parent.name == RUNS.name else run
    return f"; to watch it: tensorboard --logdir {folder}" if "tensorboard" in trackers else ""


def lasting(settings: TrainSettings) -> TrainSettings:
    """The settings that belong to the run, without those of one start of it."""
    once = replace(settings, run=None, resume=False, profile=0)
    return replace(once, dry_run=False, dry_run_images=0, dry_run_seconds=0.0, images_per_second=0.0)


def facts(settings: TrainSettings, components: Components, state: TrainState) -> dict[str, str]:
    """What trackers are told of a run: its settings, and the hashes of what it is made of."""
    shards = hashlib.sha256("".join(components.data.sha256).encode()).hexdigest()
    hashes = {"sha256.shards": shards, "sha256.extractor": components.embedder.sha256}
    hashes |= {"sha256.prior": components.loss.prior_sha256, "sha256.init": state.origin.get("sha256", "")}
    told = {**flat(to_dict(replace(lasting(settings), notify=""))), **hashes}  # a command may hold a secret
    return {name: str(value) for name, value in told.items() if value != ""}


def identity(components: Components) -> dict[str, Any]:
    """What a checkpoint keeps of the parts, so that a run is resumed with the same."""
    loss = components.loss
    return {"data": components.data.sha256, "prior": loss.prior_sha256, "judge": loss.perceptual_sha256}


def snapshot(
    settings: TrainSettings, components: Components, state: TrainState, window: MetricWindow, scaler: Any
) -> Snapshot:
    """What a checkpoint is to hold."""
    return Snapshot(
        images_seen=state.images_seen,
        settings=lasting(settings),
        weights=state.model.state_dict(),
        embedding_size=components.embedder.size,
        extractor_sha256=components.embedder.sha256,
        training=state.state_dict(scaler),
        state={**identity(components), "origin": state.origin, "window": window.state_dict()},
        presets={name: Preset(**preset) for name, preset in state.origin.get("presets", {}).items()},
    )


def write_bad_batch(run: Path, numbers: StepNumbers, samples: list[dict[str, Any]]) -> Path:
    """Write down which samples a gradient came from that is not finite."""
    path = run / f"not-finite-{numbers.images_seen:012d}.json"
    found = {name: str(value) for name, value in (("loss", numbers.loss), ("gradient_norm", numbers.norm))}
    content = {"images_seen": numbers.images_seen, **found, "samples": samples}
    write_atomic(path, json.dumps(content, indent=1).encode())
    return path


def check_same(run: Path, found: Checkpoint, settings: TrainSettings, components: Components) -> None:
    """Refuse to resume with what would make another run of it.

    Raises:
        UserError: settings, shards, prior or weights are others.
    """
    remedy = "choose another run folder for this training"
    for name in _MUST_STAY:
        was, now = (_setting(of, name) for of in (found.settings, settings))
        if was != now:
            raise UserError(f"{run} was begun with {name} = {was}, not {now}; {remedy}")
    now = identity(components)
    if found.state["data"] != now["data"]:
        raise UserError(f"{run} was begun on other shards than {settings.data.shards}; {remedy}")
    if found.state.get("prior", "") != now["prior"]:
        raise UserError(f"{run} was begun with another prior of colours; {remedy}")
    if found.state.get("judge", "") != now["judge"]:
        raise UserError(f"{run} was begun with other weights of the perceptual network; {remedy}")
    if found.extractor_sha256 != components.embedder.sha256:
        raise UserError(f"{run} was begun with other weights of the extractor; {remedy}")


def _setting(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


class SampleLog:
    """Numbers of the samples that a process trained on: a line for each micro-batch in RUN/samples/RANK.jsonl.

    Args:
        run: the run's folder.
        accelerator: which process this is.
        write: False writes nothing.
    """

    def __init__(self, run: Path, accelerator: Accelerator, write: bool) -> None:
        self._who = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
        self._file: Any = None
        if write:
            path = run / "samples" / f"{accelerator.process_index}.jsonl"
            path.parent.mkdir(exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def add(self, images_seen: int, batch: Batch) -> None:
        """Write a line, at the clock before the step."""
        if self._file is not None:
            line = {"images_seen": images_seen, **self._who, "samples": batch.samples.tolist()}
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            self._file.close()
