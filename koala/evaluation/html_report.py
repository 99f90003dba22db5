"""An evaluation on one page, which holds all it needs: scores, protocol, histograms, pictures. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koala.core import html
from koala.core.wording import counted
from koala.evaluation import baselines, recognition
from koala.evaluation.baselines import BASELINES
from koala.evaluation.metrics import CHROMA_STEP, Histograms
from koala.evaluation.scoring import ARROWS, MEANINGS, Table
from koala.imaging import color
from koala.imaging.hues import COLORED

_SHOWN_ABOVE = (
    *("scores", "intervals", "baselines", "nearer_than_grey", "verdict", "constant", "hues", "recognition"),
    *("warnings", "left_out", "protocol"),
)
_DRAWN = ("psnr", "ssim", "ciede2000", "lpips", "mse")


@dataclass(frozen=True)
class PictureExample:
    """A picture to show.

    Attributes:
        group: "best", "median" or "worst".
        name: the image's.
        measures: of this picture.
        pictures: grey, coloured and original, `(H, W, 3)` uint8 each.
    """

    group: str
    name: str
    measures: Mapping[str, float]
    pictures: Sequence[NDArray[np.uint8]]


def render(
    report: Mapping[str, Any],
    table: Table,
    *,
    predicted: Histograms,
    true: Histograms,
    examples: Sequence[PictureExample],
    columns: Sequence[str],
) -> str:
    """The page.

    Args:
        report: what scores.json holds.
        table: names to `(N,)` measures of each picture.
        predicted: hues and chromas of the coloured pictures.
        true: and of the photos.
        examples: the pictures to show, group after group.
        columns: what each of an example's pictures is.
    """
    what = report.get("checkpoint") or report.get("pictures_of")
    parts = [
        f'<p class="soft">{html.escape(what)}: {counted(report["pictures"], "picture")} under the protocol '
        f"{html.escape(report['protocol']['name'])}. In brackets: 95 % intervals over pictures (bootstrap).</p>",
        *_scores(report),
        "<h2>Colours, predicted and true</h2>",
        _hue_table(report.get("hues", {})),
        _colors(predicted, true),
        "<h2>Measures of each picture</h2>",
        html.charts(_distributions(table)),
        *_shown(examples, columns),
        "<p>Best is what is near to the photo in colour (CIEDE2000) and as colourful; convincing.txt has them all.</p>",
        *_protocol(report),
    ]
    return html.page("koala evaluate", parts)


def _scores(report: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"<b>{name}</b> {ARROWS[MEANINGS[name].better]}",
            f"{value:.4g} {interval_text(report['intervals'].get(name))}",
            html.escape(MEANINGS[name].text),
        ]
        for name, value in report["scores"].items()
    ]
    parts = ["<h2>Scores</h2>", *verdict_text(report.get("verdict")), *_beside_baselines(report)]
    parts.append(html.table([], rows, numbers=[1], folding=True))
    parts += _recognition_text(report.get("recognition"))
    parts += [f"<p><b>Warning</b>: {html.escape(warning)}</p>" for warning in report["warnings"]]
    if report["left_out"]:
        parts.append("<p>Left out:</p>")
        parts.append(html.table([], [[f"<b>{name}</b>", html.escape(why)] for name, why in report["left_out"].items()]))
    return parts


def digest(report: Mapping[str, Any]) -> list[str]:
    """What another page shows of an evaluation: the verdict, scores beside the baselines, hues, recognition.

    Args:
        report: what scores.json holds.
    """
    hues = report.get("hues")
    return [
        *verdict_text(report.get("verdict")),
        *_beside_baselines(report),
        *([_hue_table(hues)] if hues else []),
        *_recognition_text(report.get("recognition")),
    ]


def verdict_text(verdict: Mapping[str, Any] | None, of: str = "") -> list[str]:
    """Whether colours are better than next to nothing; in red where they are not.

    Args:
        verdict: of scores.json.
        of: whose colours, where several are on the page.
    """
    if not verdict:
        return []
    kind = "" if verdict["beaten"] else ' class="alarm"'
    text = f"{of}: {verdict['text']}" if of else capitalized(verdict["text"])
    return [f"<p{kind}>{html.escape(text)}.</p>"]


def _recognition_text(found: Mapping[str, Any] | None) -> list[str]:
    """What a classifier recognises; in red where that is less than of grey."""
    if not found:
        return []
    kind = ' class="alarm"' if recognition.misleads(found) else ""
    return [f"<p{kind}><b>Recognition</b>: {html.escape(recognition.sentence(found))}.</p>"]


def capitalized(text: str) -> str:
    """A sentence with a capital at its beginning."""
    return f"{text[:1].upper()}{text[1:]}"


def _beside_baselines(report: Mapping[str, Any]) -> list[str]:
    """The scores that the baselines have as well."""
    cells = {name: baselines.cells(report, name) for name in report["scores"]}
    rows = [
        [f"<b>{name}</b> {ARROWS[MEANINGS[name].better]}", f"{report['scores'][name]:.4g}", *beside]
        for name, beside in cells.items()
        if any(beside)
    ]
    if not rows:
        return []
    a, b = report["constant"]["ab"]
    return [
        html.table(["", "value", *BASELINES, "nearer than grey"], rows, numbers=range(1, len(rows[0]))),
        f'<p class="soft">Grey: no colours. Constant: one colour everywhere, a* {a:.1f} and b* {b:.1f}, the mean of '
        f"{html.escape(report['constant']['of'])}. Own mean: each picture's own mean colour, which no colouriser can "
        "know. Nearer than grey: share of the pictures that are nearer to their photos than without colours.</p>",
    ]


def interval_text(interval: Sequence[float] | None, sign: str = "") -> str:
    """An interval in brackets, with signs for "+"; nothing where there is none."""
    if interval is None:
        return ""
    return f'<span class="soft">[{interval[0]:{sign}.4g}, {interval[1]:{sign}.4g}]</span>'


def _hue_colors(count: int) -> list[str]:
    """Colours of hues from 0 to 360 degrees, as HTML has them."""
    hues = (np.arange(count) + 0.5) / count * 2 * np.pi
    lab = np.stack([np.full(count, 65.0), 45 * np.cos(hues), 45 * np.sin(hues)], axis=-1)
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.round(color.lab_to_rgb(lab) * 255).astype(int)]


def _colors(predicted: Histograms, true: Histograms) -> str:
    shares = {name: (predicted.compute()[name], true.compute()[name]) for name in ("hue", "chroma")}
    last = len(shares["chroma"][0]) * CHROMA_STEP
    legend = '<span class="first">&#9632; predicted</span> <span class="second">&#9644; true</span>'
    drawn = {
        "hue": html.bars(
            _pair(shares["hue"]), ["0°", "90°", "180°", "270°", "360°"], html.color_strip(_hue_colors(36))
        ),
        "chroma": html.bars(_pair(shares["chroma"]), ["0", f"{last / 2:.0f}", f"{last:.0f} or more"]),
    }
    captions = {"hue": "hue of pixels with a chroma of 5 or more", "chroma": "chroma of pixels (CIELAB)"}
    return html.charts(html.figure(chart, f"{captions[name]}: {legend}") for name, chart in drawn.items())


def _hue_table(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Shares of the coloured pixels by hue."""
    rows = [[which, *(f"{100 * share[which]:.1f} %" for share in shares.values())] for which in ("predicted", "true")]
    return html.table([f"of pixels with a chroma over {COLORED:.0f}", *shares], rows, numbers=range(1, len(shares) + 1))


def _pair(shares: tuple[NDArray, NDArray]) -> list[html.Series]:
    return [html.Series(shares[0], "first"), html.Series(shares[1], "second")]


def _distributions(table: Table) -> list[str]:
    drawn = {name: table[name] for name in _DRAWN if name in table}
    drawn["chroma ratio"] = np.minimum(table["chroma_predicted"] / np.maximum(table["chroma_true"], 1e-6), 3)
    captions = {"chroma ratio": "chroma ratio (3 stands for all beyond)"}
    return [html.figure(html.histogram(values), captions.get(name, name)) for name, values in drawn.items()]


def _shown(examples: Sequence[PictureExample], columns: Sequence[str]) -> list[str]:
    parts = []
    for group, members in groupby(examples, lambda example: example.group):
        rows = (html.picture_row(example.pictures, columns, _caption(example)) for example in members)
        parts += [f"<h2>The {html.escape(group)}: {html.escape(', '.join(columns))}</h2>", html.picture_sheet(rows)]
    return parts


def _caption(example: PictureExample) -> str:
    measures = ", ".join(f"{name} {value:.3g}" for name, value in example.measures.items())
    return f"{html.escape(example.name.rpartition('/')[2])}: {html.escape(measures)}"


def _protocol(report: Mapping[str, Any]) -> list[str]:
    protocol = report["protocol"]
    parts = ["<h2>Protocol</h2>"]
    parts += [f"<p>{html.escape(protocol[key])}</p>" for key in ("about", "departures") if protocol[key]]
    shown = {key: value for key, value in protocol.items() if key not in ("name", "about", "departures")}
    rest = {key: value for key, value in report.items() if key not in _SHOWN_ABOVE}
    parts += [html.table([], [[key, f"<code>{html.escape(_plain(value))}</code>"] for key, value in shown.items()])]
    parts += ["<h2>What was judged</h2>"]
    parts += [html.table([], [[key, f"<code>{html.escape(_plain(value))}</code>"] for key, value in rest.items()])]
    return parts


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item not in ("", 0, None)) or "all"
    return str(value)
