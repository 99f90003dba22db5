"""What an analysis means, in plain words."""

from collections.abc import Callable
from typing import Any

from koala.core.wording import counted
from koala.study.analysis import Analysis
from koala.study.formats import decimal, interval, is_none, p_value, percent, points

_ALPHA = 0.05


def describe_findings(analysis: Analysis) -> list[str]:
    """The paragraphs at the head of a report: who answered, what was found, and how sure that is."""
    parts = (_who, _realness, _comparisons, _people, _published)
    return [paragraph for part in parts if (paragraph := part(analysis))]


def _who(analysis: Analysis) -> str:
    given = analysis.collected.answers.dropna(subset="real")
    people, pictures, scenes = (given[name].nunique() for name in ("participant", "picture", "scene"))
    text = f"{counted(people, 'person', 'people')} gave {counted(len(given), 'answer')} "
    text += f"about {counted(pictures, 'picture')} of {counted(scenes, 'scene')}."
    untimed = int(given["seconds"].isna().sum())
    if 0 < untimed < len(given):  # a form measures no times at all
        text += f" How long it took is not known of {counted(untimed, 'answer')}: the picture was never shown."
    if analysis.left_out:
        text += f" Left out: {'; '.join(analysis.left_out)}."
    return text


def _realness(analysis: Analysis) -> str:
    texts = []
    for row in analysis.versions.to_dict("records"):
        what = "Original photographs" if row["version"] == "original" else f"Pictures by {row['version']}"
        texts.append(f"{what} were taken for real in {percent(row['realness'])} of all answers{_within(row, percent)}.")
    return " ".join(texts) + " The intervals (95 %) hold for other people and other scenes of the same kinds."


def _comparisons(analysis: Analysis) -> str:
    texts = [_comparison(row, analysis.settings.margin) for row in analysis.comparisons.to_dict("records")]
    rounding = "Each number is rounded by itself: a difference may be 0.1 off that of two rounded shares."
    return " ".join([*texts, rounding])


def _comparison(row: dict[str, Any], margin: float) -> str:
    other = "originals" if row["other"] == "original" else f"those by {row['other']}"
    if is_none(row["p"]):
        return f"There are too few answers to compare pictures by {row['version']} with {other}."
    differ, equal = row["p_holm"] < _ALPHA, row["p_equal"] < _ALPHA
    size = f"{abs(100 * row['difference']):.1f} points {'less' if row['difference'] < 0 else 'more'} often"
    cause = "that is more than chance explains" if differ else "chance explains such a difference"
    within, p_equal = f"{100 * margin:g} points", _equals(row["p_equal"])
    text = (
        f"Pictures by {row['version']} are taken for real {size} than {other}{_within(row, points)}; {cause} "
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
        f"{decimal(people['d_prime'].median())} or more (0: not at all, 1: somewhat, 3: almost always)."
    )
    if one_sided := int(people["one_sided"].sum()):
        mean = decimal(people.loc[people["one_sided"], "d_prime"].mean())
        who = counted(one_sided, "person", "people")
        text += f" {who} gave nearly always the same answer, which is no skill: mean d' {mean}."
    return text


def _published(analysis: Analysis) -> str:
    of_answers = dict(zip(analysis.versions["version"], analysis.versions["realness"], strict=True))
    texts = [
        _published_version(row, of_answers[row["version"]], analysis.settings.margin)
        for row in analysis.published.to_dict("records")
    ]
    if texts:
        texts.append("The paper's pictures were chosen by hand, so that this compares choices as well as models.")
    return " ".join(texts)


def _published_version(row: dict[str, Any], of_answers: float, margin: float) -> str:
    score = percent(row["mean"])
    if score != percent(of_answers):
        score += f" (the mean over pictures, with open answers as not real; {percent(of_answers)} of those given)"
    return (
        f"Compared with the nine pictures of the original paper (45.9 %), those by {row['version']} score {score}, "
        f"sd {percent(row['sd'])}. As the replication tested it, with {counted(row['participants'], 'participant')} "
        f"as n, p is {row['p_with_participants_as_n']:.5f}; with the {row['pictures']} pictures as n, which the sd is "
        f"over, it is {row['p_with_pictures_as_n']:.3f}. Only the second is a valid test; for equality within "
        f"{100 * margin:g} points, p is {row['p_equal']:.3f}."
    )


def _within(row: dict[str, Any], form: Callable[[float], str]) -> str:
    return "" if is_none(row["low"]) else f" ({interval(row['low'], row['high'], form)})"


def _equals(value: float) -> str:
    return p_value(value) if value < 0.001 else f"= {p_value(value)}"
