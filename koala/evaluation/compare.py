"""Evaluations of the same images side by side, with intervals of their differences.

The intervals tell what other images of the kind would have given, not what another seed of the training would have.

What is written to OUT:

    comparison.html   scores, differences and the sheet on a page
    comparison.csv    a line for each score of each column
    comparison.tex    a table for LaTeX (booktabs)
    sheet.png         the first pictures, a column for each run
    NAME/             the evaluation of each folder of pictures
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from koala.config.evaluation import CompareSettings, EvaluateSettings, EvaluationProtocol
from koala.config.load import validate
from koala.core import html
from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.evaluation import confidence_intervals, evaluate, results, scoring, summary
from koala.evaluation.html_report import interval_text
from koala.evaluation.results import EvaluationResult
from koala.evaluation.scoring import ARROWS, HEADLINE, MEANINGS
from koala.imaging import contact_sheet


@dataclass(frozen=True)
class Difference:
    """A score less the baseline's.

    Attributes:
        value: the difference.
        interval: of 95 %, over the same images drawn for both; None for what is no mean over images.
    """

    value: float
    interval: tuple[float, float] | None

    @property
    def clear(self) -> bool:
        """Whether other images of the kind would hardly turn it round."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Comparison:
    """Columns side by side.

    Attributes:
        columns: the evaluations.
        baseline: name of the one that the others are compared with.
        names: of the scores that all columns have, in the order of `koala.evaluation.scoring.MEANINGS`.
        differences: for each column but the baseline, for each score.
    """

    columns: Sequence[EvaluationResult]
    baseline: str
    names: Sequence[str]
    differences: Mapping[str, Mapping[str, Difference]]


def compare(columns: Sequence[EvaluationResult], baseline: str = "") -> Comparison:
    """Compare evaluations of the same images.

    Args:
        columns: the evaluations, two or more.
        baseline: name of the one that the others are compared with; by default the first.

    Raises:
        UserError: they were not judged alike, or on other images.
    """
    first = next((column for column in columns if column.name == baseline), None) if baseline else columns[0]
    if first is None:
        raise UserError(f"there is no column {baseline}; known: {', '.join(column.name for column in columns)}")
    for column in columns:
        _check_alike(first, column)
    measures = [name for name in first.table if all(name in column.table for column in columns)]
    # all columns are resampled together, so that each draw is of the same images for all
    stacked = np.stack([column.table[name] for column in columns for name in measures], axis=1)
    resampled = confidence_intervals.resampled_means(stacked).reshape(
        confidence_intervals.RESAMPLES, len(columns), len(measures)
    )
    spreads = {
        column.name: scoring.aggregate_means(dict(zip(measures, resampled[:, index].T, strict=True)), _protocol(column))
        for index, column in enumerate(columns)
    }
    names = [name for name in MEANINGS if all(name in column.scores for column in columns)]
    differences = {
        column.name: {name: _difference(name, column, first, spreads) for name in names if not name.endswith("_true")}
        for column in columns
        if column is not first
    }
    return Comparison(columns, first.name, names, differences)


def _difference(
    name: str, column: EvaluationResult, first: EvaluationResult, spreads: Mapping[str, Mapping[str, NDArray]]
) -> Difference:
    value = column.scores[name] - first.scores[name]
    if name not in spreads[column.name]:
        return Difference(value, None)
    return Difference(value, confidence_intervals.interval(spreads[column.name][name] - spreads[first.name][name]))


def _protocol(column: EvaluationResult) -> EvaluationProtocol:
    known = {field.name for field in fields(EvaluationProtocol)}
    values = {key: value for key, value in column.report["protocol"].items() if key in known}
    return validate(EvaluationProtocol, values, f"{column.folder / 'scores.json'}")


def _check_alike(first: EvaluationResult, other: EvaluationResult) -> None:
    """See that two evaluations may be compared.

    Raises:
        UserError: they may not.
    """
    both = f"{first.name} and {other.name}"
    mine, theirs = first.report["protocol"], other.report["protocol"]
    if mine["judging_sha256"] != theirs["judging_sha256"]:
        unimportant = ("name", "about", "departures", "lightness", "sha256", "judging_sha256")
        differing = [key for key in mine if key not in unimportant and mine[key] != theirs.get(key)]
        told = "; ".join(f"{key} {_short(mine[key])} and {_short(theirs.get(key))}" for key in differing)
        raise UserError(f"{both} were judged by different protocols ({told}); evaluate both with the same --protocol")
    if first.report["shards_sha256"] != other.report["shards_sha256"] or first.images != other.images:
        told = " and ".join(
            f'{one.report["shards"]} (split {one.report["split"]}, filter "{one.report["filter"]}")'
            for one in (first, other)
        )
        raise UserError(f"{both} were judged on different images: {told}; evaluate both on the same shards")
    for name, judge in first.report["judges"].items():
        if name in other.report["judges"] and other.report["judges"][name]["sha256"] != judge["sha256"]:
            raise UserError(f"{both} were judged by different weights of {name}; evaluate both with the same file")


def _short(value: Any) -> str:
    """A protocol's value in few words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item) or "all"
    return str(value)


# ---------------------------------------------------------------- as text


def text_table(comparison: Comparison) -> list[str]:
    """The table for a terminal: a line for each of the headline scores, a cell for each column."""
    shown = [name for name in comparison.names if name in HEADLINE]
    cells = [["", *(column.name for column in comparison.columns)]]
    cells += [["input L*", *(_input(column) for column in comparison.columns)]]
    for name in shown:
        cells.append(
            [
                f"{name} {ARROWS[MEANINGS[name].better]}",
                *(_cell(comparison, column, name) for column in comparison.columns),
            ]
        )
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    said = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    note = "95 % intervals over images, not over trainings; * where they leave out 0"
    return [*said, f"Differences are from {comparison.baseline}; {note}."]


def _cell(comparison: Comparison, column: EvaluationResult, name: str) -> str:
    value = f"{column.scores[name]:.5g}"
    difference = comparison.differences.get(column.name, {}).get(name)
    if difference is None:
        return value
    spread = f" [{difference.interval[0]:+.3g}, {difference.interval[1]:+.3g}]" if difference.interval else ""
    return f"{value} {difference.value:+.3g}{spread}{' *' if difference.clear else ''}"


def _input(column: EvaluationResult) -> str:
    """What the column's colouriser saw; unknown of pictures that someone made."""
    return "unknown" if "pictures_of" in column.report else str(column.report["input_lightness"])


def to_csv(comparison: Comparison) -> str:
    """A line for each score of each column."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["score", "column", "value", "low", "high", "difference", "difference_low", "difference_high"])
    for name in comparison.names:
        for column in comparison.columns:
            low, high = column.intervals.get(name, ("", ""))
            difference = comparison.differences.get(column.name, {}).get(name)
            against = ["", "", ""] if difference is None else [difference.value, *(difference.interval or ("", ""))]
            writer.writerow([name, column.name, column.scores[name], low, high, *against])
    return text.getvalue()


def to_latex(comparison: Comparison) -> str:
    """A table of the headline scores, a row for each column."""
    shown = [name for name in comparison.names if name in HEADLINE]
    arrows = {"lower": r" $\downarrow$", "higher": r" $\uparrow$", "": ""}
    head = " & ".join(["", *(_latex(name) + arrows[MEANINGS[name].better] for name in shown)])
    rows = [
        " & ".join([_latex(column.name), *(_latex_cell(comparison, column, name) for name in shown)])
        for column in comparison.columns
    ]
    protocol = comparison.columns[0].report["protocol"]
    return "\n".join(
        [
            f"% protocol {protocol['name']}, judging sha256 {protocol['judging_sha256']}",
            f"% * differs from {comparison.baseline}: the 95 % bootstrap interval over the same images leaves out 0",
            rf"\begin{{tabular}}{{l{'r' * len(shown)}}}",
            r"\toprule",
            rf"{head} \\",
            r"\midrule",
            *(rf"{row} \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_cell(comparison: Comparison, column: EvaluationResult, name: str) -> str:
    difference = comparison.differences.get(column.name, {}).get(name)
    return f"{column.scores[name]:.4g}" + ("$^*$" if difference is not None and difference.clear else "")


def _latex(text: str) -> str:
    """Text without what LaTeX would take for commands."""
    escaped = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(escaped.get(sign, "\\" + sign if sign in "&%$#_{}" else sign) for sign in text)


def to_html(comparison: Comparison, sheet: NDArray[np.uint8] | None) -> str:
    """The page.

    Args:
        comparison: what is compared.
        sheet: `(columns, rows, H, H, 3)` pictures: grey, each column's, original.
    """
    names = [column.name for column in comparison.columns]
    protocol = comparison.columns[0].report["protocol"]
    scores = [
        [f"<b>{name}</b> {ARROWS[MEANINGS[name].better]}", *_html_cells(comparison, name)] for name in comparison.names
    ]
    about = (
        f"{len(comparison.columns[0].images)} images, protocol {protocol['name']}. In brackets: 95 % intervals over "
        f"images (bootstrap), which say nothing of other trainings. Differences are from {comparison.baseline}, on the "
        "same images; bold where the interval leaves out 0."
    )
    parts = [
        f'<p class="soft">{html.escape(about)}</p>',
        html.table(["", *map(html.escape, names)], scores, numbers=range(1, len(names) + 1)),
        "<h2>What was compared</h2>",
        html.table([], [[html.escape(column.name), _html_origin(column)] for column in comparison.columns]),
    ]
    if sheet is not None:
        shown = ["grey", *names, "original"]
        parts += ["<h2>The first pictures</h2>", html.column_heads(shown)]
        parts += [html.picture_row(list(row), shown, "") for row in sheet.swapaxes(0, 1)]
    return html.page("koala compare", parts)


def _html_cells(comparison: Comparison, name: str) -> Iterable[str]:
    for column in comparison.columns:
        cell = f"{column.scores[name]:.5g} {interval_text(column.intervals.get(name))}"
        difference = comparison.differences.get(column.name, {}).get(name)
        if difference is not None:
            weight = "b" if difference.clear else "span"
            cell += f"<br><{weight}>{difference.value:+.3g}</{weight}> {interval_text(difference.interval, '+')}"
        yield cell


def _html_origin(column: EvaluationResult) -> str:
    report = column.report
    what = report.get("checkpoint") or report.get("pictures_of")
    sha256 = report.get("checkpoint_sha256") or report.get("pictures_sha256")
    return f"<code>{html.escape(what)}</code><br>input L* {_input(column)}, sha256 <code>{html.escape(sha256)}</code>"


# ---------------------------------------------------------------- as files


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
    """Write the comparison in all its forms."""
    out.mkdir(parents=True, exist_ok=True)
    sheet = sheet_of(comparison.columns)
    if sheet is not None:
        names = ["grey", *(column.name for column in comparison.columns), "original"]
        contact_sheet.save_image(contact_sheet.contact_sheet(sheet, names), out / "sheet.png")
    for name, content in {
        "comparison.csv": to_csv(comparison),
        "comparison.tex": to_latex(comparison),
        "comparison.html": to_html(comparison, sheet),
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
        evaluate.evaluate(_judging(settings, columns, name, folder))
        columns.append(results.read_result(settings.out / name, name))
    if len(columns) < 2:
        raise UserError("there is nothing to compare; name two evaluations, or one and --pictures NAME=FOLDER")
    comparison = compare(columns, settings.baseline)
    write_comparison(comparison, settings.out)
    print("\n".join(text_table(comparison)))
    print(f"{settings.out}: comparison.html, comparison.csv, comparison.tex, sheet.png")
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


def _judging(
    settings: CompareSettings, columns: Sequence[EvaluationResult], name: str, folder: Path
) -> EvaluateSettings:
    """How a folder of pictures is judged: as the first run was, where nothing else is said."""
    first = columns[0] if columns else None
    if first is None and not (settings.shards and settings.protocol):
        raise UserError("there is no run to take the rules from; name --shards and --protocol")
    report = first.report if first is not None else {}
    protocol = settings.protocol or (str(first.folder / "protocol.toml") if first is not None else "")
    judged_by_networks = first is None or report["judges"]
    return EvaluateSettings(
        folder,
        settings.shards or Path(report["shards"]),
        out=settings.out / name,
        protocol=protocol,
        split=report.get("split", "val"),
        filter=report.get("filter", ""),
        features="protocol" if judged_by_networks else "none",
        inception=settings.inception,
        lpips=settings.lpips,
        batch_size=settings.batch_size,
        threads=settings.threads,
        device=settings.device,
    )
