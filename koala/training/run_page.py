"""A training on one page, which holds all it needs. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koala.core import html
from koala.core.wording import counted
from koala.evaluation import html_report

_POINTS = 400  # of a curve, at most
_CURVES = {  # names in metrics.jsonl, and what is said below the chart
    "train/gradient_norm": "norm of the gradient",
    "train/learning_rate": "learning rate",
    "train/chroma_ratio": "chroma of the predictions over that of the photos",
    "train/out_of_gamut": "share of predicted colours that sRGB cannot show",
    "speed/images_per_second": "images per second",
    "time/data": "share of the time that is spent waiting for data",
}
_SPEEDS = {
    "speed/images_per_second": ("images per second", "{:.1f}"),
    "speed/images_per_second_per_device": ("for each device", "{:.1f}"),
    "speed/tflops_per_device": ("TFLOP/s of a device", "{:.3g}"),
    "speed/mfu": ("share of the device's peak (MFU)", "{:.1%}"),
    "time/data": ("waiting for data", "{:.1%}"),
    "time/device": ("computing", "{:.1%}"),
    "time/saving": ("saving", "{:.1%}"),
    "memory/gpu_gib": ("most memory on a GPU, GiB", "{:.1f}"),
}
_STATES = {"end": "complete", "stopped": "stopped", "failure": "failed"}


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says of its training.

    Attributes:
        name: the folder's.
        settings: by their dotted names.
        changed: names of those that are not the default.
        entries: of metrics.jsonl.
        events: of journal.jsonl.
        best: clock and loss of the best validation, if there was one.
        hashes: of weights, shards and others, by what they are of.
        pictures: of validations: the clock and `(H, W, 3)` uint8, oldest first.
        evaluation: what its evaluation's scores.json holds; empty where there is none.
    """

    name: str
    settings: Mapping[str, Any]
    changed: frozenset[str]
    entries: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    best: tuple[int, float] | None
    hashes: Mapping[str, str]
    pictures: Sequence[tuple[int, NDArray[np.uint8]]]
    evaluation: Mapping[str, Any] = field(default_factory=dict)


def render(record: RunRecord) -> str:
    """The page."""
    return html.page(
        f"koala train: {record.name}",
        [
            *_summary(record),
            *_alarms(record.events),
            "<h2>Curves</h2>",
            html.charts(_charts(record.entries)),
            *_pictures(record.pictures),
            *_evaluation(record.evaluation),
            "<h2>Speed</h2>",
            html.table(["median of all entries", ""], _speeds(record.entries), numbers=[1]),
            *_sittings(record.events),
            *_settings(record),
            "<h2>Hashes (sha256)</h2>",
            html.table([], [[html.escape(name), _code(value)] for name, value in record.hashes.items()]),
        ],
    )


def _summary(record: RunRecord) -> Iterator[str]:
    seen = max((entry["images_seen"] for entry in record.entries), default=0)
    state = _STATES.get(record.events[-1]["event"], "not at its end") if record.events else "last heard of"
    words = [f"{state} after {seen:,} images"]
    if record.best is not None:
        words.append(f"lowest validation loss {record.best[1]:.5f} after {record.best[0]:,} images")
    if origin := record.settings.get("init"):
        words.append(f"began with the weights of {origin}")
    yield f'<p class="soft">{html.escape("; ".join(words))}.</p>'


def _alarms(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    told = [event for event in events if event["event"] in ("alarm", "failure")]
    yield "<h2>Alarms and failures</h2>"
    rows = [[_when(event), html.escape(event["event"]), html.escape(event["message"])] for event in told]
    yield html.table(["when", "", ""], rows) if rows else "<p>None.</p>"


def _when(event: Mapping[str, Any]) -> str:
    return html.escape(f"{event['images_seen']:,} images, {event['at']}")


def _charts(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    losses = [_curve(entries, "train/loss", "first"), _curve(entries, "val/loss", "second")]
    legend = '<span class="first">&#9632; training</span> <span class="second">&#9679; validation</span>'
    if drawn := [curve for curve in losses if curve is not None]:
        yield html.figure(html.curves(drawn), f"loss: {legend}")
    for name, caption in _CURVES.items():
        if (curve := _curve(entries, name, "first")) is not None:
            yield html.figure(html.curves([curve]), caption)


def _curve(entries: Sequence[Mapping[str, Any]], name: str, style: str) -> html.Curve | None:
    """A number over the clock; where there are many, means of neighbours."""
    points = np.array([(entry["images_seen"], entry[name]) for entry in entries if name in entry], float)
    if not len(points):
        return None
    parts = np.array_split(points, min(len(points), _POINTS))
    means = np.array([part.mean(axis=0) for part in parts])
    return html.Curve(means[:, 0], means[:, 1], style)


def _pictures(pictures: Sequence[tuple[int, NDArray[np.uint8]]]) -> Iterator[str]:
    if not pictures:
        return
    yield "<h2>Pictures over time</h2>"
    yield "<p>The first validation pictures: grey, with predicted colours, as they were.</p>"
    yield html.charts(_sheet(seen, picture) for seen, picture in pictures)


def _sheet(images_seen: int, picture: NDArray[np.uint8]) -> str:
    caption = html.escape(f"after {images_seen:,} images")
    image = f'<img src="{html.data_uri(picture, side=1200)}" alt="{caption}" style="width: 100%">'
    return html.figure(image, caption)


def _evaluation(report: Mapping[str, Any]) -> Iterator[str]:
    """How good the colours are, beside what next to nothing scores."""
    yield "<h2>Evaluation</h2>"
    if not report:
        yield "<p>None yet. <code>koala evaluate RUN --shards DIR</code> tells whether the colours beat grey.</p>"
        return
    seen, protocol = f"{report['images_seen']:,}", html.escape(report["protocol"]["name"])
    judged = counted(report["pictures"], "picture")
    yield f'<p class="soft">After {seen} images: {judged} under the protocol {protocol}.</p>'
    yield from html_report.digest(report)


def _speeds(entries: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for name, (words, form) in _SPEEDS.items():
        values = [entry[name] for entry in entries if math.isfinite(entry.get(name, math.nan))]
        if values:
            yield [html.escape(words), form.format(median(values))]


def _sittings(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    starts = [event for event in events if event["event"] == "start"]
    if not starts:
        return
    names = [name for name in starts[0] if name not in ("event", "message", "images_seen")]
    yield "<h2>Environment, at each start</h2>"
    rows = ([f"{event['images_seen']:,}", *(html.escape(event.get(name, "")) for name in names)] for event in starts)
    yield html.table(["images seen", *map(html.escape, names)], rows)


def _settings(record: RunRecord) -> Iterator[str]:
    def rows(names: Sequence[str]) -> list[list[str]]:
        return [[html.escape(name), _code(record.settings[name])] for name in names]

    yield "<h2>Settings</h2>"
    yield html.table([], rows([name for name in record.settings if name in record.changed]))
    others = [name for name in record.settings if name not in record.changed]
    yield html.folded(f"{len(others)} more, which have their defaults", html.table([], rows(others)))


def _code(value: Any) -> str:
    return f"<code>{html.escape(value)}</code>"
