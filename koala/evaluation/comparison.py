"""Evaluations of the same images side by side, with intervals of their differences. Pure.

The intervals tell what other images of the kind would have given, not what another seed of the training would have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koala.config.evaluation import EvaluationProtocol
from koala.config.load import validate
from koala.core.errors import UserError
from koala.evaluation import baselines, confidence_intervals, scoring
from koala.evaluation.results import EvaluationResult
from koala.evaluation.scoring import MEANINGS


@dataclass(frozen=True)
class Difference:
    """A score less the baseline's.

    Attributes:
        value: the difference.
        interval: of 95 %, over the same images drawn for both; None for what is no mean over images.
    """

    value: float
    interval: tuple[float, float] | None

    @property
    def clear(self) -> bool:
        """Whether other images of the kind would hardly turn it round."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Comparison:
    """Columns side by side.

    Attributes:
        columns: the evaluations.
        baseline: name of the one that the others are compared with.
        names: of the scores that all columns have, in the order of `koala.evaluation.scoring.MEANINGS`.
        differences: for each column but the baseline, for each score.
        beside: what next to nothing scores on the same images (`koala.evaluation.baselines`), names in brackets.
        constant_of: whose mean the constant colour is, in words; empty without baselines.
    """

    columns: Sequence[EvaluationResult]
    baseline: str
    names: Sequence[str]
    differences: Mapping[str, Mapping[str, Difference]]
    beside: Mapping[str, Mapping[str, float]]
    constant_of: str

    @property
    def heads(self) -> list[str]:
        """The names of all columns, those of the baselines last."""
        return [*(column.name for column in self.columns), *self.beside]


def compare(columns: Sequence[EvaluationResult], baseline: str = "") -> Comparison:
    """Compare evaluations of the same images.

    Args:
        columns: the evaluations, two or more.
        baseline: name of the one that the others are compared with; by default the first.

    Raises:
        UserError: they were not judged alike, or on other images.
    """
    first = next((column for column in columns if column.name == baseline), None) if baseline else columns[0]
    if first is None:
        raise UserError(f"there is no column {baseline}; known: {', '.join(column.name for column in columns)}")
    for column in columns:
        _check_alike(first, column)
    measures = [name for name in first.table if all(name in column.table for column in columns)]
    # all columns are resampled together, so that each draw is of the same images for all
    stacked = np.stack([column.table[name] for column in columns for name in measures], axis=1)
    resampled = confidence_intervals.resampled_means(stacked).reshape(
        confidence_intervals.RESAMPLES, len(columns), len(measures)
    )
    spreads = {
        column.name: scoring.aggregate_means(dict(zip(measures, resampled[:, index].T, strict=True)), _protocol(column))
        for index, column in enumerate(columns)
    }
    names = [name for name in MEANINGS if all(name in column.scores for column in columns)]
    differences = {
        column.name: {name: _difference(name, column, first, spreads) for name in names if not name.endswith("_true")}
        for column in columns
        if column is not first
    }
    return Comparison(columns, first.name, names, differences, *_beside(columns))


def _beside(columns: Sequence[EvaluationResult]) -> tuple[dict[str, Mapping[str, float]], str]:
    """What the baselines score, and whose mean the constant is: that of the first column that knows its training's."""
    known = [column.report for column in columns if column.report.get("baselines")]
    trained = [report for report in known if report["constant"]["of"] != baselines.FROM_TRUTH]
    for report in (*trained, *known):
        return {f"({name})": values for name, values in report["baselines"].items()}, report["constant"]["of"]
    return {}, ""


def _difference(
    name: str, column: EvaluationResult, first: EvaluationResult, spreads: Mapping[str, Mapping[str, NDArray]]
) -> Difference:
    value = column.scores[name] - first.scores[name]
    if name not in spreads[column.name]:
        return Difference(value, None)
    return Difference(value, confidence_intervals.interval(spreads[column.name][name] - spreads[first.name][name]))


def _protocol(column: EvaluationResult) -> EvaluationProtocol:
    known = {field.name for field in fields(EvaluationProtocol)}
    values = {key: value for key, value in column.report["protocol"].items() if key in known}
    return validate(EvaluationProtocol, values, f"{column.folder / 'scores.json'}")


def _check_alike(first: EvaluationResult, other: EvaluationResult) -> None:
    """See that two evaluations may be compared.

    Raises:
        UserError: they may not.
    """
    both = f"{first.name} and {other.name}"
    mine, theirs = first.report["protocol"], other.report["protocol"]
    if mine["judging_sha256"] != theirs["judging_sha256"]:
        unimportant = ("name", "about", "departures", "lightness", "sha256", "judging_sha256")
        differing = [key for key in mine if key not in unimportant and mine[key] != theirs.get(key)]
        told = "; ".join(f"{key} {_short(mine[key])} and {_short(theirs.get(key))}" for key in differing)
        raise UserError(f"{both} were judged by different protocols ({told}); evaluate both with the same --protocol")
    if first.report["shards_sha256"] != other.report["shards_sha256"] or first.images != other.images:
        told = " and ".join(
            f'{one.report["shards"]} (split {one.report["split"]}, filter "{one.report["filter"]}")'
            for one in (first, other)
        )
        raise UserError(f"{both} were judged on different images: {told}; evaluate both on the same shards")
    for name, judge in first.report["judges"].items():
        if name in other.report["judges"] and other.report["judges"][name]["sha256"] != judge["sha256"]:
            raise UserError(f"{both} were judged by different weights of {name}; evaluate both with the same file")


def _short(value: Any) -> str:
    """A protocol's value in few words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item) or "all"
    return str(value)
