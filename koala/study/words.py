"""What an analysis means, in plain words."""

import math
from typing import Any

import pandas as pd

from koala.study.analysis import Analysis

_ALPHA = 0.05


def findings(analysis: Analysis) -> list[str]:
    """The paragraphs at the head of a report: who answered, what was found, and how sure that is."""
    parts = (_who, _realness, _comparisons, _people, _published)
    return [paragraph for part in parts if (paragraph := part(analysis))]


def share(value: float) -> str:
    """As a percentage."""
    return "–" if _absent(value) else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of percentages."""
    return "–" if _absent(value) else f"{100 * value:+.1f}".replace("-", "−")


def number(value: float) -> str:
    """With two decimals."""
    return "–" if _absent(value) else f"{value:.2f}".replace("-", "−")


def p_value(value: float) -> str:
    """As precise as it deserves."""
    if _absent(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _who(analysis: Analysis) -> str:
    given = analysis.collected.answers.dropna(subset="real")
    people, pictures, scenes = (given[name].nunique() for name in ("participant", "picture", "scene"))
    text = f"{people} people gave {len(given)} answers about {pictures} pictures of {scenes} scenes."
    if analysis.left_out:
        text += f" Left out: {'; '.join(analysis.left_out)}."
    return text


def _realness(analysis: Analysis) -> str:
    texts = []
    for row in analysis.versions.to_dict("records"):
        what = "Original photographs" if row["version"] == "original" else f"Pictures by {row['version']}"
        texts.append(f"{what} were taken for real in {share(row['realness'])} of all answers{_interval(row, share)}.")
    return " ".join(texts) + " The intervals (95 %) hold for other people and other scenes of the same kinds."


def _comparisons(analysis: Analysis) -> str:
    return " ".join(_comparison(row, analysis.settings.margin) for row in analysis.comparisons.to_dict("records"))


def _comparison(row: dict[str, Any], margin: float) -> str:
    other = "originals" if row["other"] == "original" else f"those by {row['other']}"
    if _absent(row["p"]):
        return f"There are too few answers to compare pictures by {row['version']} with {other}."
    differ, equal = row["p_holm"] < _ALPHA, row["p_equal"] < _ALPHA
    size = f"{abs(100 * row['difference']):.1f} points {'less' if row['difference'] < 0 else 'more'} often"
    cause = "that is more than chance explains" if differ else "chance explains such a difference"
    within, p_equal = f"{100 * margin:g} points", _equals(row["p_equal"])
    text = (
        f"Pictures by {row['version']} are taken for real {size} than {other}{_interval(row, points)}; {cause} "
        f"(p {_equals(row['p_holm'])})."
    )
    if equal:
        text += f" {'Yet they' if differ else 'They'} are equal within {within} (p {p_equal})."
    elif not differ:
        text += f" That does not make them equal: more than {within} are not ruled out (p {p_equal})."
    return text


def _people(analysis: Analysis) -> str:
    people = analysis.people[(analysis.people["originals"] > 0) & (analysis.people["fakes"] > 0)]
    if people.empty:
        return ""
    text = (
        "Half of the people tell coloured pictures from originals with d' of "
        f"{number(people['d_prime'].median())} or more (0: not at all, 1: somewhat, 3: almost always)."
    )
    if count := int(people["one_sided"].sum()):
        mean = number(people.loc[people["one_sided"], "d_prime"].mean())
        who = "1 person gave" if count == 1 else f"{count} people gave"
        text += f" {who} nearly always the same answer, which is no skill: mean d' {mean}."
    return text


def _published(analysis: Analysis) -> str:
    margin = f"{100 * analysis.settings.margin:g} points"
    texts = [
        f"Compared with the nine pictures of the original paper (45.9 %), those by {row['version']} score "
        f"{share(row['mean'])} (sd {share(row['sd'])}). As the replication tested it, with {row['participants']} "
        f"participants as n, p is {row['p_with_participants_as_n']:.5f}; with the {row['pictures']} pictures as n, "
        f"which the sd is over, it is {row['p_with_pictures_as_n']:.3f}. Only the second is a valid test; for equality "
        f"within {margin}, p is {row['p_equal']:.3f}."
        for row in analysis.published.to_dict("records")
    ]
    if texts:
        texts.append("The paper's pictures were chosen by hand, so that this compares choices as well as models.")
    return " ".join(texts)


def _interval(row: dict[str, Any], form: Any) -> str:
    return "" if _absent(row["low"]) else f" ({form(row['low'])} to {form(row['high'])})"


def _equals(value: float) -> str:
    return p_value(value) if value < 0.001 else f"= {p_value(value)}"


def _absent(value: Any) -> bool:
    return value is None or pd.isna(value) or math.isinf(value)
