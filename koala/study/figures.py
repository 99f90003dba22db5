"""Where the marks of the report's figures lie; the template draws them as SVG."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image

from koala.study.folder import StudyFolder
from koala.study.formats import decimal, is_none, percent

_THUMBNAIL = 200  # pixels, long side


@dataclass(frozen=True)
class IntervalMark:
    """A point with its interval, on a canvas.

    Attributes:
        x: from the left.
        y: from the top.
        low: y of the interval's lower end (in `ranges`, x).
        high: y of its upper end (in `ranges`, x).
        name: what it is.
        text: its number.
    """

    x: float
    y: float
    low: float
    high: float
    name: str
    text: str


@dataclass(frozen=True)
class Canvas:
    """A figure: its size, where its shares from 0 to 1 lie, and its marks."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    marks: Sequence[IntervalMark]

    def x(self, share: float) -> float:
        """From the left."""
        return round(self.left + share * (self.width - self.left - self.right), 1)

    def y(self, share: float) -> float:
        """From the top."""
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 1)


def pictures_figure(pictures: pd.DataFrame) -> Canvas:
    """Pictures from the one that was taken for real most often to the least, each with its Wilson interval.

    Args:
        pictures: with scene, realness, low and high.
    """
    ordered = pictures.dropna(subset="realness").sort_values("realness", ascending=False)
    canvas = Canvas(900, 260, 48, 12, 12, 28, ())
    step = 1 / max(len(ordered), 1)
    marks = [
        IntervalMark(
            canvas.x((rank + 0.5) * step),
            canvas.y(row.realness),
            canvas.y(row.low),
            canvas.y(row.high),
            row.scene,
            f"{row.scene}: {row.real} of {row.answers}, {percent(row.realness)}",
        )
        for rank, row in enumerate(ordered.itertuples())
    ]
    return Canvas(900, 260, 48, 12, 12, 28, marks)


def versions_figure(versions: pd.DataFrame) -> Canvas:
    """Each version's realness with its interval over people and scenes, one below the other.

    Args:
        versions: with version, realness, low and high.
    """
    height = 40 + 34 * len(versions)
    canvas = Canvas(900, height, 150, 110, 8, 28, ())
    marks = [
        IntervalMark(
            canvas.x(row.realness),
            24 + 34 * place,
            canvas.x(row.realness if is_none(row.low) else row.low),
            canvas.x(row.realness if is_none(row.high) else row.high),
            row.version,
            percent(row.realness),
        )
        for place, row in enumerate(versions.itertuples())
        if not is_none(row.realness)
    ]
    return Canvas(900, height, 150, 110, 8, 28, marks)


def people_figure(table: pd.DataFrame) -> Canvas:
    """Each person's share of "Fake" among originals (to the right) and among coloured pictures (upwards).

    Args:
        table: with participant, false_alarms, originals, hits, fakes, d_prime.
    """
    canvas = Canvas(420, 420, 56, 12, 12, 48, ())
    both = table[(table["originals"] > 0) & (table["fakes"] > 0)]
    marks = []
    for row in both.itertuples():
        x, y = canvas.x(row.false_alarms / row.originals), canvas.y(row.hits / row.fakes)
        marks.append(
            IntervalMark(x, y, y, y, str(row.participant), f"participant {row.participant}: d' {decimal(row.d_prime)}")
        )
    return Canvas(420, 420, 56, 12, 12, 48, marks)


def thumbnail_url(study: StudyFolder, picture: str) -> str:
    """A picture of the study, small, as an address that holds it."""
    image = Image.open(io.BytesIO(study.read_picture(picture))).convert("RGB")
    image.info.clear()  # what it was filled up with
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
