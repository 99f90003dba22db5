"""What an evaluation leaves in its folder for others to read: scores.json and per_image.csv."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from koala.core.errors import UserError
from koala.evaluation.scoring import Table

_NEEDED = {"scores", "intervals", "protocol", "judges", "shards_sha256", "input_lightness"}


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


def read_result(folder: Path, name: str = "") -> EvaluationResult:
    """Read an evaluation.

    Args:
        folder: that koala evaluate wrote, or a run folder that holds it as "evaluation".
        name: what it is called beside others.

    Raises:
        UserError: there is none, or it is damaged.
    """
    for place in (folder, folder / "evaluation"):
        report = read_scores(place)
        if not report:
            continue
        try:
            if _NEEDED - report.keys():
                raise ValueError
            report.setdefault("filter", report.get("where", ""))  # as it was called before
            return EvaluationResult(name, place, report, *_table(place / "per_image.csv"))
        except (OSError, ValueError, IndexError):
            raise UserError(f"{place} holds a damaged evaluation; delete its scores.json and evaluate again") from None
    raise UserError(f"{folder} holds no whole evaluation; run koala evaluate {folder} --shards DIR first")


def read_scores(folder: Path) -> dict[str, Any]:
    """What scores.json holds; nothing where it is not there or damaged."""
    try:
        return json.loads((folder / "scores.json").read_bytes())
    except (OSError, ValueError):
        return {}


def _table(path: Path) -> tuple[list[str], Table]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        head, *rows = csv.reader(file)
    images, *columns = zip(*rows, strict=True)
    return list(images), {name: np.array(column, np.float64) for name, column in zip(head[1:], columns, strict=True)}


def per_image_csv(images: Sequence[str], table: Table) -> str:
    """A line for each image."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *table])
    for row, image in enumerate(images):
        writer.writerow([image, *(f"{values[row]:.10g}" for values in table.values())])
    return text.getvalue()
