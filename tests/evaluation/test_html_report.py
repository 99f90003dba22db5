"""The page of an evaluation."""

from koala.evaluation import html_report


def test_hues_have_their_colors():
    """Reds at 0 degrees, greens at 180, in CIELAB."""
    colors = html_report._hue_colors(36)
    red, green = ([int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (colors[2], colors[17]))
    assert red[0] == max(red) and green[1] > green[0]
