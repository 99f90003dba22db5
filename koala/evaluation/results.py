"""What an evaluation leaves in its folder for others to read: scores.json and per_image.csv."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from koala.core.errors import UserError, first_line
from koala.core.readers import parse_json
from koala.evaluation.scoring import Table


@dataclass(frozen=True)
class _Protocol:
    name: str
    judging_sha256: str


@dataclass(frozen=True)
class _Judge:
    sha256: str


@dataclass(frozen=True)
class _Scores:
    """What others read of scores.json; there is more in it."""

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    protocol: _Protocol
    judges: dict[str, _Judge]
    shards: str
    shards_sha256: str
    split: str
    input_lightness: str


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation.

    Attributes:
        name: what it is called beside others.
        folder: where koala evaluate left it.
        report: what its scores.json holds.
        images: the images' names.
        table: measures of each image, `(N,)` each.
    """

    name: str
    folder: Path
    report: dict[str, Any]
    images: list[str]
    table: Table

    @property
    def scores(self) -> dict[str, float]:
        """Of all images."""
        return self.report["scores"]

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of the scores that are means over images."""
        return self.report["intervals"]


def default_folder(model: Path, *, trained: bool) -> Path:
    """Where an evaluation lies: in a run or checkpoint, and beside what is to stay as it is.

    Args:
        model: what was evaluated: a run, a checkpoint, a folder of pictures, or a model's name.
        trained: whether it is no folder of pictures.
    """
    if trained and model.exists():
        return model / "evaluation"
    place = model.resolve() if model.exists() else model
    return place.parent / f"{place.name}-evaluation"


def read_result(folder: Path, name: str = "") -> EvaluationResult:
    """Read an evaluation.

    Args:
        folder: that koala evaluate wrote, or what it evaluated.
        name: what it is called beside others.

    Raises:
        UserError: there is none, or it is damaged.
    """
    for place in (folder, *(default_folder(folder, trained=trained) for trained in (True, False))):
        report = read_scores(place)
        if not report:
            continue
        remedy = f"delete {place / 'scores.json'} and evaluate again"
        parse_json(_Scores, json.dumps(report), place / "scores.json", remedy)
        report.setdefault("filter", report.get("where", ""))  # as it was called before
        return EvaluationResult(name, place, report, *_table(place / "per_image.csv", remedy))
    raise UserError(f"{folder} holds no whole evaluation; run koala evaluate {folder} --shards DIR first")


def read_scores(folder: Path) -> dict[str, Any]:
    """What scores.json holds; nothing where it is not there or no JSON object."""
    try:
        found = json.loads((folder / "scores.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _table(path: Path, remedy: str) -> tuple[list[str], Table]:
    """Names of the images, and the measures of each.

    Raises:
        UserError: it is not there, or no such table.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            head, *rows = csv.reader(file)
        images, *columns = zip(*rows, strict=True)
        measures = zip(head[1:], columns, strict=True)
        return list(images), {name: np.array(column, np.float64) for name, column in measures}
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}); {remedy}") from None


def per_image_csv(images: Sequence[str], table: Table) -> str:
    """A line for each image."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *table])
    for row, image in enumerate(images):
        writer.writerow([image, *(f"{values[row]:.10g}" for values in table.values())])
    return text.getvalue()
