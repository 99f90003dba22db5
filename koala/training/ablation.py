"""Variants of one training at equal budget: trained, evaluated and laid side by side.

    OUT/VARIANT-SEED/         a run of `koala train`; what `koala evaluate` makes of it is in evaluation/, or under the
                              evaluation's name
    OUT/ablation.md, .csv     the variants' scores: means over seeds, differences to the first row, what chance leaves;
                              the baselines', and which trainings do not beat them
    OUT/comparison/           `koala compare` of the first seed's runs: intervals over images, and a sheet

An interrupted ablation resumes where it stopped. Whether a difference is more than chance is asked of the seeds: how
far trainings lie apart that differ in nothing else, pooled over the variants, says how far two means would lie apart by
chance.
"""

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from koala.config.evaluation import EvaluateSettings
from koala.config.fields import part_numbers
from koala.config.load import to_dict, validate, with_new_names
from koala.config.training import AblateSettings, AblationSettings, TrainSettings
from koala.core import terminal
from koala.core.atomic_io import write_atomic
from koala.core.distributed import is_main_process
from koala.core.errors import UserError
from koala.core.wording import counted
from koala.data import color_prior, embed
from koala.evaluation import compare, comparison, evaluate, results, scoring
from koala.evaluation.comparison_tables import alarms
from koala.evaluation.components import view_of
from koala.evaluation.results import EvaluationResult
from koala.models import objectives
from koala.training import trainer

_SHARED = ("batch_size", "epochs", "seed", "run", "resume", "processes", "dry_run")  # no variant's own: equal budget
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class AblationRun:
    """A training of an ablation.

    Attributes:
        variant: its name.
        settings: of its training.
        evaluations: folder of each evaluation, by name.
    """

    variant: str
    settings: TrainSettings
    evaluations: Mapping[str, Path]


@dataclass(frozen=True)
class AblationRow:
    """A variant under one evaluation.

    Attributes:
        name: of both.
        means: of each score, over the seeds.
        differences: to the first row; empty for that one.
        chance: how large a difference chance would leave in one of twenty ablations of equal variants; empty with one
            seed.
    """

    name: str
    means: Mapping[str, float]
    differences: Mapping[str, float]
    chance: Mapping[str, float]


# ---------------------------------------------------------------- what is to be done


def plan_runs(settings: AblateSettings) -> list[AblationRun]:
    """All trainings, seed by seed, so that each variant is there once before any is trained again.

    Raises:
        UserError: a variant has a setting that does not exist, or one that must be the same for all.
    """
    ablation = settings.ablation
    if not ablation.variants:
        raise UserError("an ablation needs variants: tables [variants.NAME] with the settings in which they differ")
    found = []
    for seed in ablation.seeds:
        for name in ablation.variants:
            folder = settings.out / f"{name}-{seed}"
            evaluations = {word: folder / word for word in ablation.evaluations} or {"": folder / "evaluation"}
            found.append(AblationRun(name, replace(_variant(ablation, name), seed=seed, run=folder), evaluations))
    return found


def _variant(ablation: AblationSettings, name: str) -> TrainSettings:
    changes = with_new_names(TrainSettings, ablation.variants[name], f"variants.{name}")
    if shared := [key for key in _SHARED if key in changes]:
        raise UserError(f"variants.{name}.{shared[0]}: it is the same for all variants; set it in [train]")
    return validate(TrainSettings, _merged(to_dict(ablation.train), changes), f"variants.{name}")


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, the second's values winning."""
    changed = {
        key: _merged(first[key], value) if isinstance(value, Mapping) and isinstance(first.get(key), Mapping) else value
        for key, value in second.items()
    }
    return {**first, **changed}


# ---------------------------------------------------------------- doing it


def ablate(settings: AblateSettings) -> int:
    """Train and evaluate what is not there yet, and lay all side by side.

    Returns:
        0, or what an interrupted training returns.

    Raises:
        UserError: the settings cannot be honoured.
    """
    everything = plan_runs(settings)
    part, parts = part_numbers(settings.part)
    for shards in {run.settings.data.shards for run in everything if objectives.needs_prior(run.settings.objective)}:
        color_prior.read_prior(shards)  # before the variants that come earlier take their hours
    for run in everything[part - 1 :: parts]:
        if code := _make(run, settings.ablation.evaluations):
            return code
    if not is_main_process():
        return 0
    missing = [run for run in everything if not all(map(results.read_scores, run.evaluations.values()))]
    if missing:
        print(f"{missing[0].settings.run} is not there yet; the last part to end lays all side by side")
        return 0
    _lay_side_by_side(everything, settings.out)
    return 0


def _make(run: AblationRun, evaluations: Mapping[str, Mapping[str, Any]]) -> int:
    """Train a run and evaluate it; what is done already takes no time."""
    training = run.settings
    shards = training.data.shards
    if training.extractor.cache:
        embed.embed_command(embed.embed_settings_for(training))
    if code := trainer.train(training, "the same koala ablate command"):
        return code
    for name, folder in run.evaluations.items():
        common: dict[str, Any] = {"model": training.run, "shards": shards, "out": folder}
        common |= {"filter": training.data.filter, "threads": training.data.threads, "device": training.device}
        flags = {**common, **evaluations.get(name, {})}
        settings = validate(EvaluateSettings, flags, f"evaluations.{name}")
        if settings.extractor.cache and training.extractor.name != "none":
            embed.embed_command(embed.embed_settings_for(replace(training, data=view_of(settings))))
        evaluate.evaluate(settings)
    return 0


def _lay_side_by_side(everything: Sequence[AblationRun], out: Path) -> None:
    """Write the tables, and print the one for people."""
    found: dict[str, list[EvaluationResult]] = {}
    for run in everything:
        for evaluation, folder in run.evaluations.items():
            name = _row_name(run.variant, evaluation)
            found.setdefault(name, []).append(results.read_result(folder, f"{name} (seed {run.settings.seed})"))
    rows = score_table({name: [one.scores for one in of_seeds] for name, of_seeds in found.items()})
    for evaluation, folder in everything[0].evaluations.items():
        rows += baseline_rows(results.read_scores(folder), evaluation)
    table = to_markdown(rows, seeds=len(next(iter(found.values()))))
    columns = [one for of_seeds in found.values() for one in of_seeds]
    write_atomic(out / "ablation.csv", to_csv(rows).encode())
    write_atomic(out / "ablation.md", "\n".join([table, *(f"- {text}" for text in alarms(columns)), ""]).encode())
    first = [run for run in everything if run.settings.seed == everything[0].settings.seed]
    for evaluation in everything[0].evaluations:
        shown = [results.read_result(run.evaluations[evaluation], run.variant) for run in first]
        if len(shown) > 1:
            compare.write_comparison(comparison.compare(shown), out / "comparison" / evaluation)
    print("\n".join([table, *alarms(columns, terminal.has_colors(sys.stdout))]))
    print(f"{out}: ablation.md, ablation.csv, comparison/")


def _row_name(variant: str, evaluation: str) -> str:
    return f"{variant}, {evaluation}" if evaluation else variant


# ---------------------------------------------------------------- tables


def score_table(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> list[AblationRow]:
    """Lay scores side by side.

    Args:
        scores: for each row, those of each seed; the first row is what others are compared with.
    """
    names = [name for name in scoring.HEADLINE if all(name in one for seeds in scores.values() for one in seeds)]
    values = {row: {name: np.array([one[name] for one in seeds]) for name in names} for row, seeds in scores.items()}
    chance = {name: _chance([seeds[name] for seeds in values.values()]) for name in names}
    means = {row: {name: float(column.mean()) for name, column in columns.items()} for row, columns in values.items()}
    first = next(iter(means.values()))
    return [
        AblationRow(
            row,
            mine,
            {name: mine[name] - first[name] for name in names} if mine is not first else {},
            {name: limit for name, limit in chance.items() if limit is not None} if mine is not first else {},
        )
        for row, mine in means.items()
    ]


def baseline_rows(report: Mapping[str, Any], evaluation: str) -> list[AblationRow]:
    """What next to nothing scores on the images that all variants are judged by.

    Args:
        report: of any variant's evaluation.
        evaluation: its name, where there are several.
    """
    known = report.get("baselines", {})
    return [AblationRow(_row_name(f"({name})", evaluation), scores, {}, {}) for name, scores in known.items()]


def _chance(rows: Sequence[np.ndarray]) -> float | None:
    """How far the means of two equal variants lie apart at most, in 95 of 100 ablations; None for one seed.

    The variance between seeds is pooled over the rows; Student's t has as many degrees of freedom.
    """
    from scipy import stats

    freedom = sum(len(row) - 1 for row in rows)
    if not freedom:
        return None
    pooled = sum(float(((row - row.mean()) ** 2).sum()) for row in rows) / freedom
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * math.sqrt(2 * pooled / len(rows[0]))


def to_csv(rows: Sequence[AblationRow]) -> str:
    """A line for each score of each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "score", "mean", "difference", "chance"])
    for row in rows:
        for name, mean in row.means.items():
            writer.writerow([row.name, name, mean, row.differences.get(name, ""), row.chance.get(name, "")])
    return text.getvalue()


def to_markdown(rows: Sequence[AblationRow], seeds: int) -> str:
    """A table in Markdown; a difference that is more than chance leaves is bold."""
    names = list(rows[0].means)
    lines = [f"| variant | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {row.name} | {' | '.join(_cell(row, name) for name in names)} |" for row in rows]
    known = f"In brackets the difference to {rows[0].name}; means over {counted(seeds, 'seed')}"
    judged = ", bold where it is more than seeds leave to chance (95 %)" if any(row.chance for row in rows) else ""
    return "\n".join([*lines, "", f"{known}{judged}.", ""])


def _cell(row: AblationRow, name: str) -> str:
    if name not in row.means:
        return ""
    mean = f"{row.means[name]:.4g}"
    if name not in row.differences:
        return mean
    difference = f"{row.differences[name]:+.2g}"
    clear = name in row.chance and abs(row.differences[name]) > row.chance[name]
    return f"{mean} ({f'**{difference}**' if clear else difference})"
