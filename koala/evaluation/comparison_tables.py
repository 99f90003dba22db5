"""A comparison as text for a terminal, as CSV, for LaTeX, and as a page. Pure."""

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from koala.core import html, terminal
from koala.core.wording import counted
from koala.evaluation import recognition
from koala.evaluation.baselines import share_text
from koala.evaluation.comparison import Comparison
from koala.evaluation.html_report import interval_text, verdict_text
from koala.evaluation.results import EvaluationResult
from koala.evaluation.scoring import ARROWS, HEADLINE, MEANINGS


def to_text(comparison: Comparison, colored: bool = False) -> list[str]:
    """The tables for a terminal: scores and hues, a cell for each column.

    Args:
        comparison: what is compared.
        colored: whether the terminal shows colours.
    """
    rows = [["", *comparison.heads], ["input L*", *map(_input, comparison.columns)]]
    for name in (name for name in comparison.names if name in HEADLINE):
        cells = (_cell(comparison, column, name) for column in comparison.columns)
        rows.append([f"{name} {ARROWS[MEANINGS[name].better]}", *cells, *_cells_beside(comparison, name)])
        shares = _shares_nearer(comparison, name)
        rows += [["  nearer than grey", *shares]] if any(shares) else []
    note = "95 % intervals over images, not over trainings; * where they leave out 0"
    return [
        *aligned(rows),
        f"Differences are from {comparison.baseline}; {note}.",
        *_baselines_explained(comparison),
        "",
        *aligned(hue_rows(comparison)),
        *recognitions(comparison),
        *alarms(comparison.columns, colored),
    ]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines whose columns stand below each other; a row may be short."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def hue_rows(comparison: Comparison) -> list[list[str]]:
    """Shares of the coloured pixels by hue: a row of names, one for each column that knows them, and the photos'."""
    known = {column.name: column.report["hues"] for column in comparison.columns if column.report.get("hues")}
    rows = [[name, *(f"{100 * share['predicted']:.1f}" for share in hues.values())] for name, hues in known.items()]
    for hues in list(known.values())[:1]:
        rows.insert(0, ["coloured pixels, %", *hues])
        rows.append(["original", *(f"{100 * share['true']:.1f}" for share in hues.values())])
    return rows


def recognitions(comparison: Comparison) -> list[str]:
    """What a classifier recognised of each column, in words."""
    found = {column.name: column.report.get("recognition") for column in comparison.columns}
    return [f"{name}: {recognition.sentence(one)}" for name, one in found.items() if one]


def alarms(columns: Iterable[EvaluationResult], colored: bool = False) -> list[str]:
    """A sentence on each column than which next to nothing is as good, in red where the terminal shows colours."""
    verdicts = {column.name: column.report.get("verdict") for column in columns}
    told = [f"{name}: {verdict['text']}" for name, verdict in verdicts.items() if verdict and not verdict["beaten"]]
    return [terminal.alarm(text) for text in told] if colored else told


def _baselines_explained(comparison: Comparison) -> list[str]:
    """What the columns in brackets are."""
    if not comparison.beside:
        return []
    return [
        f"(grey): no colours. (constant): one colour everywhere, the mean of {comparison.constant_of}. "
        "(own mean): each picture's own mean colour, which no colouriser can know."
    ]


def _shares_nearer(comparison: Comparison, name: str) -> list[str]:
    """For each column, the share of images that are nearer to their photos than grey by a score."""
    shares = (column.report.get("nearer_than_grey", {}).get(name) for column in comparison.columns)
    return [share_text(share) for share in shares]


def _cells_beside(comparison: Comparison, name: str) -> list[str]:
    """A score of each baseline, "" where it has none."""
    return [f"{scores[name]:.5g}" if name in scores else "" for scores in comparison.beside.values()]


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
        for baseline, scores in comparison.beside.items():
            if name in scores:
                writer.writerow([name, baseline, scores[name], *[""] * 5])
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
    rows += [
        " & ".join([_latex(name), *(f"{scores[key]:.4g}" if key in scores else "" for key in shown)])
        for name, scores in comparison.beside.items()
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
    names, heads = [column.name for column in comparison.columns], comparison.heads
    protocol = comparison.columns[0].report["protocol"]
    scores = [
        [
            f"<b>{name}</b> {ARROWS[MEANINGS[name].better]}",
            *_html_cells(comparison, name),
            *_cells_beside(comparison, name),
        ]
        for name in comparison.names
    ]
    judged = counted(len(comparison.columns[0].images), "image")
    about = (
        f"{judged}, protocol {protocol['name']}. In brackets: 95 % intervals over "
        f"images (bootstrap), which say nothing of other trainings. Differences are from {comparison.baseline}, on the "
        "same images; bold where the interval leaves out 0."
    )
    parts = [
        f'<p class="soft">{html.escape(about)}</p>',
        *(part for column in comparison.columns for part in verdict_text(column.report.get("verdict"), column.name)),
        html.table(["", *map(html.escape, heads)], scores, numbers=range(1, len(heads) + 1)),
        *(f'<p class="soft">{html.escape(text)}</p>' for text in _baselines_explained(comparison)),
        *_html_hues(comparison),
        *(f"<p>{html.escape(text)}.</p>" for text in recognitions(comparison)),
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
        if share := share_text(column.report.get("nearer_than_grey", {}).get(name)):
            cell += f'<br><span class="soft">{share} nearer than grey</span>'
        yield cell


def _html_hues(comparison: Comparison) -> list[str]:
    rows = hue_rows(comparison)
    if not rows:
        return []
    head, *rest = [[html.escape(cell) for cell in row] for row in rows]
    return ["<h2>Hues</h2>", html.table(head, rest, numbers=range(1, len(head)))]


def _html_origin(column: EvaluationResult) -> str:
    report = column.report
    what = report.get("checkpoint") or report.get("pictures_of")
    sha256 = report.get("checkpoint_sha256") or report.get("pictures_sha256")
    where, seen, digest = map(html.escape, (what, _input(column), sha256))
    return f"<code>{where}</code><br>input L* {seen}, sha256 <code>{digest}</code>"
