"""`koala compare`: evaluations of the same images side by side (`koala.evaluation.comparison`).

What is written to OUT:

    comparison.html   scores, differences and the sheet on a page
    comparison.csv    a line for each score of each column
    comparison.tex    a table for LaTeX (booktabs)
    sheet.png         the first pictures, a column for each run
    NAME/             the evaluation of each folder of pictures
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from koala.config.evaluation import CompareSettings, EvaluateSettings
from koala.config.fields import as_location
from koala.core import terminal
from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.evaluation import comparison_tables, evaluate, results, summary
from koala.evaluation.baselines import MeanColor
from koala.evaluation.comparison import Comparison, compare
from koala.evaluation.results import EvaluationResult
from koala.imaging import contact_sheet

_WRITTEN = ("comparison.html", "comparison.csv", "comparison.tex", "sheet.png")


def sheet_of(columns: Sequence[EvaluationResult]) -> NDArray[np.uint8] | None:
    """The sheets of the evaluations side by side, `(columns, rows, H, H, 3)`; None where one has no sheet."""
    sheets = []
    for column in columns:
        path = column.folder / "sheet.png"
        if not path.exists():
            return None
        with Image.open(path) as image:
            sheets.append(contact_sheet.split_contact_sheet(image, summary.SHEET_COLUMNS))
    rows = min(sheet.shape[1] for sheet in sheets)
    grey, _, original = sheets[0]
    return np.stack([grey[:rows], *(made[:rows] for _, made, _ in sheets), original[:rows]])


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write the comparison in all its forms; a sheet of an earlier one goes where there is none now."""
    out.mkdir(parents=True, exist_ok=True)
    sheet = sheet_of(comparison.columns)
    if sheet is None:
        (out / "sheet.png").unlink(missing_ok=True)
    else:
        names = ["grey", *(column.name for column in comparison.columns), "original"]
        contact_sheet.save_image(contact_sheet.contact_sheet(sheet, names), out / "sheet.png")
    for name, content in {
        "comparison.csv": comparison_tables.to_csv(comparison),
        "comparison.tex": comparison_tables.to_latex(comparison),
        "comparison.html": comparison_tables.to_html(comparison, sheet),
    }.items():
        write_atomic(out / name, content.encode("utf-8", "surrogateescape"))


def compare_command(settings: CompareSettings) -> int:
    """`koala compare`: judge what is not judged yet, compare, and write the table.

    Raises:
        UserError: a folder holds no evaluation, or they cannot be compared.
    """
    runs = _named(settings.runs)
    columns = [results.read_result(folder, name) for name, folder in runs.items()]
    for name, folder in _named(settings.pictures).items():
        if name in runs:
            raise UserError(f"two columns are called {name}; give one another name with NAME=FOLDER")
        evaluate.evaluate(_judging(settings, columns, name, folder), _constant(columns))
        columns.append(results.read_result(settings.out / name, name))
    if len(columns) < 2:
        raise UserError("there is nothing to compare; name two evaluations, or one and --pictures NAME=FOLDER")
    comparison = compare(columns, settings.baseline)
    write_comparison(comparison, settings.out)
    print("\n".join(comparison_tables.to_text(comparison, terminal.has_colors(sys.stdout))))
    print(f"{settings.out}: {', '.join(name for name in _WRITTEN if (settings.out / name).exists())}")
    return 0


def _named(words: Sequence[str]) -> dict[str, Path]:
    """Names and folders of NAME=FOLDER; a folder alone is called as it is, or as the run that it is of."""
    found: dict[str, Path] = {}
    for word in words:
        name, _, folder = word.partition("=") if "=" in word and not Path(word).exists() else ("", "", word)
        path = Path(folder)
        name = name or (path.resolve().parent if path.name == "evaluation" else path.resolve()).name
        if name in found:
            raise UserError(f"two columns are called {name}; give one another name with NAME=FOLDER")
        found[name] = path
    return found


def _constant(columns: Sequence[EvaluationResult]) -> MeanColor | None:
    """The constant colour that the first run was judged beside, wherever its training's shards are by now."""
    known: Mapping[str, Any] | None = columns[0].report.get("constant_known") if columns else None
    return MeanColor(tuple(known["ab"]), known["shards"]) if known else None


def _judging(
    settings: CompareSettings, columns: Sequence[EvaluationResult], name: str, folder: Path
) -> EvaluateSettings:
    """How a folder of pictures is judged: as the first run was, where nothing else is said."""
    first = columns[0] if columns else None
    if first is None and not (settings.shards and settings.protocol):
        raise UserError("there is no run to take the rules from; name --shards and --protocol")
    report = first.report if first is not None else {}
    protocol = settings.protocol or (str(first.folder / "protocol.toml") if first is not None else "")
    classifier = (report.get("recognition") or {}).get("classifier", "")
    judged_by_networks = first is None or report["judges"].keys() - {classifier}
    return EvaluateSettings(
        folder,
        settings.shards or as_location(report["shards"]),
        out=settings.out / name,
        protocol=protocol,
        split=report.get("split", "val"),
        limit=settings.limit,
        filter=report.get("filter", ""),
        classifier=classifier,
        features="protocol" if judged_by_networks else "none",
        inception=settings.inception,
        lpips=settings.lpips,
        batch_size=settings.batch_size,
        threads=settings.threads,
        device=settings.device,
    )
