"""Pieces of pages: they hold what they are given, and nothing that could be taken for something else."""

import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from koala.core import html


def test_text_is_never_html():
    assert html.escape("<a href='x'>&") == "&lt;a href=&#x27;x&#x27;&gt;&amp;"
    html.escape("no text: \udcff").encode("utf-8")  # a file's name may be none


@pytest.mark.parametrize("values", [np.arange(100.0), np.full(7, 3.0), np.array([2.5])])
def test_a_histogram_counts_every_value(values):
    drawing = ElementTree.fromstring(html.histogram(values, bins=10))
    heights = np.array([float(bar.get("height")) for bar in drawing.iter("rect")])
    shares = heights / heights.max()
    counts, _ = np.histogram(
        values, 10, (values.min(), values.max()) if np.ptp(values) else (values[0] - 0.5, values[0] + 0.5)
    )
    assert shares == pytest.approx(counts[counts > 0] / counts.max(), abs=0.01)


def test_bars_and_outlines_share_a_scale():
    one, two = np.array([1.0, 2.0, 4.0]), np.array([4.0, 2.0, 1.0])
    drawing = ElementTree.fromstring(html.bars([html.Series(one, "first"), html.Series(two, "second")], ["0", "3"]))
    tops = [float(bar.get("y")) for bar in drawing.iter("rect")]
    (line,) = drawing.iter("polyline")
    outline = sorted({float(point.split(",")[1]) for point in line.get("points").split()})
    assert min(tops) == outline[0], "the highest of both are equally high"
    assert [text.text for text in drawing.iter("text")] == ["0", "3"]


def test_pictures_are_made_small_and_stay_in_the_page():
    address = html.data_uri(np.full((100, 400, 3), (200, 30, 30), np.uint8))
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (224, 56)
        assert np.abs(np.asarray(picture).astype(int) - (200, 30, 30)).max() < 8
