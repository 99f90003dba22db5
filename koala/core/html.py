"""Pieces of pages that hold all they need: HTML with its style, charts as SVG, pictures as data. Pure."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STYLE = Path(__file__).with_suffix(".css")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 360, 190, 8, 24, 8  # of a chart, in its own units


@dataclass(frozen=True)
class Series:
    """Heights of bars with the colour class they are drawn in: "first" as bars, "second" as an outline."""

    heights: NDArray[np.float64]
    style: str


def escape(value: object) -> str:
    """Text that cannot be taken for HTML."""
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page."""
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE.read_text('utf-8')}</style>",
    ]
    body = [f"<h1>{escape(title)}</h1>", *parts]
    lines = ['<!doctype html>\n<html lang="en">\n<head>', *head, "</head>\n<body>", *body, "</body>\n</html>\n"]
    return "\n".join(lines)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), folding: bool = False
) -> str:
    """A table of cells that are HTML already.

    Args:
        head: of the columns; none for a table without.
        rows: the cells.
        numbers: which columns hold numbers.
        folding: on a phone, show the last cell of a row below the others; else a wide table is scrolled.
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        marked = (
            f'<{tag} class="number">{cell}</{tag}>' if column in numbers else f"<{tag}>{cell}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    header = f"<thead>{line('th', head)}</thead>" if head else ""
    body = "\n".join(line("td", row) for row in rows)
    kind = "folding" if folding else "wide"
    return f'<div class="{kind}"><table>{header}<tbody>{body}</tbody></table></div>'


def figure(content: str, caption: str) -> str:
    """A chart with a line below it, which is HTML already."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def charts(figures: Iterable[str]) -> str:
    """Charts side by side where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'


def histogram(values: NDArray, bins: int = 40) -> str:
    """How often values occur, with their median marked."""
    low, high = (float(edge) for edge in (values.min(), values.max()))
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(values, bins, (low, high))
    middle = float(np.median(values))
    x = _LEFT + (middle - low) / (high - low) * (_WIDTH - 2 * _LEFT)
    ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
    mark = f'<line {ends} stroke="var(--second)" stroke-width="2"/><title>median {middle:.4g}</title>'
    ticks = [f"{edge:.3g}" for edge in (low, (low + high) / 2, high)]
    return bars([Series(counts.astype(float), "first")], ticks, mark)


def bars(series: Sequence[Series], ticks: Sequence[str], extra: str = "") -> str:
    """A chart of bars from left to right.

    Args:
        series: one or several, over each other.
        ticks: labels, spread evenly from the left edge to the right one.
        extra: SVG that is drawn on top.
    """
    highest = max(*(float(one.heights.max()) for one in series), 1e-12)
    drawn = [_outline(one, highest) if one.style == "second" else _filled(one, highest) for one in series]
    floor = _HEIGHT - _BOTTOM
    anchors = ["start", *["middle"] * (len(ticks) - 2), "end"]
    labels = [
        f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{escape(tick)}</text>'
        for x, tick, anchor in zip(np.linspace(_LEFT, _WIDTH - _LEFT, len(ticks)), ticks, anchors, strict=True)
    ]
    axis = f'<line x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{floor}" y2="{floor}" stroke="var(--line)"/>'
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(drawn)}{axis}{"".join(labels)}{extra}</svg>'


@dataclass(frozen=True)
class Curve:
    """Points from left to right with the colour class they are drawn in: "first" as a line, "second" with dots."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    style: str


def curves(drawn: Sequence[Curve]) -> str:
    """A chart of lines over a common axis that begins at 0; the least and the largest value stand beside it."""
    right = max(float(curve.x.max()) for curve in drawn) or 1.0
    low, high = (float(edge(np.concatenate([curve.y for curve in drawn]))) for edge in (np.min, np.max))
    width, height = _WIDTH - 2 * _LEFT, _HEIGHT - _BOTTOM - 2 * _TOP
    parts = []
    for curve in drawn:
        x = _LEFT + curve.x / right * width
        y = 2 * _TOP + (1 - (curve.y - low) / ((high - low) or 1.0)) * height
        places = [f"{one:.1f},{two:.1f}" for one, two in zip(x, y, strict=True)]
        ink = f'stroke="var(--{curve.style})" stroke-width="1.5"'
        parts.append(f'<polyline points="{" ".join(places)}" fill="none" {ink}/>')
        if curve.style == "second":
            dots = (place.split(",") for place in places)
            parts += [f'<circle cx="{one}" cy="{two}" r="2.5" fill="var(--second)"/>' for one, two in dots]
    floor = _HEIGHT - _BOTTOM
    parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{floor}" y2="{floor}" stroke="var(--line)"/>')
    texts = [(_LEFT, 12, "start", f"{high:.4g}"), (_LEFT, floor - 3, "start", f"{low:.4g}")]
    texts += [(_LEFT, _HEIGHT - 8, "start", "0"), (_WIDTH - _LEFT, _HEIGHT - 8, "end", f"{right:,.0f} images")]
    parts += [f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>' for x, y, anchor, text in texts]
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'


def color_strip(colors: Sequence[str]) -> str:
    """Colours from left to right, below a chart's axis."""
    width, top = (_WIDTH - 2 * _LEFT) / len(colors), _HEIGHT - _BOTTOM + 1
    return "".join(
        f'<rect x="{_LEFT + index * width:.1f}" y="{top}" width="{width + 0.5:.1f}" height="4" fill="{color}"/>'
        for index, color in enumerate(colors)
    )


def _tops(one: Series, highest: float) -> tuple[float, NDArray]:
    return (_WIDTH - 2 * _LEFT) / len(one.heights), one.heights / highest * (_HEIGHT - _BOTTOM - _TOP)


def _filled(one: Series, highest: float) -> str:
    width, tops = _tops(one, highest)
    floor = _HEIGHT - _BOTTOM
    return "".join(
        f'<rect x="{_LEFT + index * width:.1f}" y="{floor - top:.1f}" width="{max(width - 0.6, 0.6):.1f}" '
        f'height="{top:.1f}" fill="var(--{one.style})"/>'
        for index, top in enumerate(tops)
        if top
    )


def _outline(one: Series, highest: float) -> str:
    width, tops = _tops(one, highest)
    floor = _HEIGHT - _BOTTOM
    points = [f"{_LEFT},{floor}"]
    for index, top in enumerate(tops):
        points += [f"{_LEFT + (index + side) * width:.1f},{floor - top:.1f}" for side in (0, 1)]
    points.append(f"{_WIDTH - _LEFT},{floor}")
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="var(--{one.style})" stroke-width="2"/>'


def picture_sheet(rows: Iterable[str]) -> str:
    """Rows of pictures, several beside each other where there is room."""
    return f'<div class="sheet">{"".join(rows)}</div>'


def picture_row(pictures: Sequence[NDArray[np.uint8]], names: Sequence[str], caption: str) -> str:
    """Pictures side by side, `(H, W, 3)` uint8 each, with what each is; the caption is HTML already."""
    images = (
        f'<img src="{data_uri(picture)}" alt="{escape(name)}">' for picture, name in zip(pictures, names, strict=True)
    )
    return f'<figure class="row" {_columns(names)}>{"".join(images)}<figcaption>{caption}</figcaption></figure>'


def column_heads(names: Sequence[str]) -> str:
    """Names above rows of pictures."""
    cells = "".join(f"<span>{escape(name)}</span>" for name in names)
    return f'<div class="row heads" {_columns(names)}>{cells}</div>'


def _columns(names: Sequence[str]) -> str:
    return f'style="grid-template-columns: repeat({len(names)}, minmax(0, 1fr))"'


def folded(summary: str, content: str) -> str:
    """What is seen once its summary is clicked; both are HTML already."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def data_uri(picture: NDArray[np.uint8], side: int = 224) -> str:
    """`(H, W, 3)` as a JPEG in an address, its long side `side` pixels at the most."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
