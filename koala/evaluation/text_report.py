"""An evaluation as text for a terminal. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from koala.core import terminal
from koala.core.wording import counted
from koala.evaluation import baselines, recognition, scoring
from koala.evaluation.baselines import BASELINES
from koala.evaluation.html_report import capitalized


def lines(result: Mapping[str, Any], colored: bool = False) -> list[str]:
    """The headline scores in a table, beside those of the baselines, and what was left out.

    Args:
        result: what scores.json holds.
        colored: whether the terminal shows colours.
    """
    named, what = result["protocol"], result.get("checkpoint") or result.get("pictures_of")
    shown = [name for name in result["scores"] if name in scoring.HEADLINE]
    judged = counted(result["pictures"], "picture")
    said = [
        f"{what}: {judged} under the protocol {named['name']} (sha256 {named['sha256'][:8]})",
        f"L* of the {named['lightness']} photo in, of the {named['assembly']} photo out; padding {named['padding']}",
        "",
        _TABLE.format("score", "", "value", "95 % interval", "photos", *BASELINES, "nearer").rstrip(),
        *(_row(name, result) for name in shown),
        "",
        "↓ lower is better, ↑ higher is better; intervals are over pictures (bootstrap)",
    ]
    if result.get("baselines"):
        constant = result["constant"]
        said += [
            f"nearer: share of the pictures that are nearer to their photos than grey; constant: ab {constant['ab']}, "
            f"the mean of {constant['of']}",
        ]
    said += [*_hue_lines(result.get("hues", {})), *_verdict_lines(result.get("verdict"), colored)]
    said += _recognition_lines(result.get("recognition"), colored)
    said += [f"warning: {warning}" for warning in result["warnings"]]
    said += [f"left out: {name}: {why}" for name, why in result["left_out"].items()]
    for name, judge in result["judges"].items():
        if not judge["published"]:
            said.append(f"{name}: its weights are not the published ones (sha256 {judge['sha256'][:8]})")
    return said


_TABLE = "{:21} {:1} {:>9}   {:20} {:>8} {:>8} {:>8} {:>8} {:>6}"


def _row(name: str, result: Mapping[str, Any]) -> str:
    """A score, its interval, and what the photos themselves and the baselines have."""
    scores, interval = result["scores"], result["intervals"].get(name)
    true = {"chroma_ratio": 1.0}.get(name, scores.get(f"{name}_true"))
    spread = f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else ""
    arrow = scoring.ARROWS[scoring.MEANINGS[name].better]
    photos = "" if true is None else f"{true:.4g}"
    return _TABLE.format(name, arrow, f"{scores[name]:.5g}", spread, photos, *baselines.cells(result, name)).rstrip()


def _hue_lines(hues: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The table of hues."""
    if not hues:
        return
    yield from ("", f"{'coloured pixels, %':21} {' '.join(f'{name:>{max(len(name), 6)}}' for name in hues)}")
    for which in ("predicted", "true"):
        shares = (f"{100 * shares[which]:{max(len(name), 6)}.1f}" for name, shares in hues.items())
        yield f"{which:21} {' '.join(shares)}"


def _verdict_lines(verdict: Mapping[str, Any] | None, colored: bool) -> list[str]:
    """Whether the colours are better than next to nothing; in red where they are not."""
    if not verdict:
        return []
    text = f"{capitalized(verdict['text'])}."
    return ["", terminal.alarm(text) if colored and not verdict["beaten"] else text]


def _recognition_lines(found: Mapping[str, Any] | None, colored: bool) -> list[str]:
    """What a classifier recognises; in red where that is less than of grey."""
    if not found:
        return []
    text = recognition.sentence(found)
    return ["", terminal.alarm(text) if colored and recognition.misleads(found) else text]
