"""`koala report RUN`: one page of a training, from what its folder holds."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from koala.config.load import flat, load_toml, to_dict
from koala.config.training import ReportRun, TrainSettings
from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.evaluation.results import default_folder, read_scores
from koala.models import checkpoint
from koala.training.journal import read_journal
from koala.training.run_page import RunRecord, render
from koala.training.trackers import tensorboard_tag

_SHOWN = 6  # validations whose pictures are shown, spread over the training


def report_command(settings: ReportRun) -> int:
    """Write the page, and say where."""
    out = settings.out or settings.run / "report.html"
    write_atomic(out, render(read_run(settings.run)).encode())
    print(out)
    return 0


def read_run(run: Path) -> RunRecord:
    """Read what a run folder says of its training.

    Raises:
        UserError: it is no run folder.
    """
    if not (run / "config.toml").exists():
        raise UserError(f"{run} holds no config.toml; name a run folder of koala train")
    settings = flat(to_dict(load_toml(TrainSettings, run / "config.toml")))
    usual = flat(to_dict(TrainSettings()))
    known = checkpoint.read_validation(run / "checkpoints")
    return RunRecord(
        name=run.resolve().name,
        settings=settings,
        changed=frozenset(name for name, value in settings.items() if usual.get(name) != value),
        entries=list(_entries(run / "metrics.jsonl")),
        events=read_journal(run),
        best=(known.best_images_seen, known.best_loss) if known is not None else None,
        hashes=_hashes(run),
        pictures=list(_pictures(run)),
        evaluation=read_scores(default_folder(run, trained=True)),
    )


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of metrics.jsonl; the last one may be half written."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _hashes(run: Path) -> dict[str, str]:
    """Of the best checkpoint's files, and of what the training was made of."""
    try:
        found = checkpoint.find_checkpoint(run)
    except UserError:
        return {}
    state = found.state
    hashes = {
        f"weights after {found.images_seen:,} images": found.weights_sha256,
        "extractor": found.extractor_sha256,
        "prior of colours": state.get("prior", ""),
        "perceptual network": state.get("judge", ""),
        "weights it began with": state.get("origin", {}).get("sha256", ""),
        **{f"training shard {number}": value for number, value in enumerate(state.get("data", []))},
    }
    return {name: value for name, value in hashes.items() if value}


def _pictures(run: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Pictures of some validations, as TensorBoard's file has them; none where that was not among the trackers."""
    if not list(run.glob("events.out.tfevents.*")):
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events, tag = EventAccumulator(str(run), size_guidance={"images": 0}), tensorboard_tag("val/pictures")
    events.Reload()
    images = events.Images(tag) if tag in events.Tags()["images"] else []
    for index in sorted({round(place) for place in np.linspace(0, len(images) - 1, _SHOWN)} if images else ()):
        encoded = io.BytesIO(images[index].encoded_image_string)
        yield images[index].step, np.asarray(Image.open(encoded).convert("RGB"))
