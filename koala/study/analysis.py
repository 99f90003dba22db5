"""Everything that is found in a study, as tables."""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from koala.config.study import ReportStudy
from koala.study import simulation, statistics
from koala.study.answers import StudyAnswers

_ONE_SIDED, _ENOUGH = 0.9, 8  # who gives one answer more often than this, in so many answers, hardly looks


@dataclass(frozen=True)
class Analysis:
    """Everything that is found in a study; each table is computed when it is first asked for.

    Attributes:
        collected: what counts.
        everything: also those who were left out.
        left_out: who was left out, in words.
        settings: of the report.
    """

    collected: StudyAnswers
    everything: StudyAnswers
    left_out: list[str]
    settings: ReportStudy

    @property
    def models(self) -> tuple[str, ...]:
        """All versions but the original."""
        return self.collected.versions[1:]

    @cached_property
    def pictures(self) -> pd.DataFrame:
        """Realness of each picture, with Wilson's interval."""
        rows = []
        grouped = self.collected.answers.groupby(["version", "scene", "picture", "label"], sort=False)
        for (version, scene, picture, label), group in grouped:
            given = group["real"].dropna()
            real, count = int(given.sum()), len(given)
            share = real / count if count else np.nan
            low, high = statistics.wilson_interval(share, count)
            of_asked = real / len(group)  # as the replication counted, for whom no answer was not "Real"
            seconds = group["seconds"].median()
            rows.append((version, scene, picture, label, count, real, share, low, high, of_asked, seconds))
        names = ["version", "scene", "picture", "label", "answers", "real"]
        names += ["realness", "low", "high", "realness_of_asked", "seconds"]
        table = pd.DataFrame(rows, columns=names)
        order = pd.Categorical(table["version"], self.collected.versions, ordered=True)
        table = table.assign(version=order).sort_values(["version", "realness"], ascending=[True, False])
        return table.assign(version=table["version"].astype(str)).reset_index(drop=True)

    @cached_property
    def versions(self) -> pd.DataFrame:
        """Realness of each version: over these answers (Wilson), and over people and scenes at large."""
        table, rows = self.collected.table(), []
        for number, version in enumerate(self.collected.versions):
            mine = self.pictures[self.pictures["version"] == version]
            real, count = int(mine["real"].sum()), int(mine["answers"].sum())
            low, high = statistics.crossed_interval(table, number)
            row: dict[str, Any] = {
                "version": version,
                "pictures": len(mine),
                "answers": count,
                "real": real,
                "realness": real / count if count else np.nan,
                "low": low,
                "high": high,
                "sd_of_pictures": mine["realness"].std(),
            }
            row["wilson_low"], row["wilson_high"] = statistics.wilson_interval(row["realness"], count)
            if number:
                d_prime, criterion = statistics.crossed_signal_detection(table, 0, number)
                row["d_prime"], row["criterion"] = d_prime.value, criterion.value
                row["d_prime_low"], row["d_prime_high"] = d_prime.interval()
                row["criterion_low"], row["criterion_high"] = criterion.interval()
            rows.append(row)
        return pd.DataFrame(rows)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Each model with the originals, and models with each other: the main analysis."""
        return self._compare(self.collected)

    @cached_property
    def comparisons_of_all(self) -> pd.DataFrame:
        """The same with nobody left out."""
        return self._compare(self.everything)

    @cached_property
    def published(self) -> pd.DataFrame:
        """Each model's pictures beside the original paper's: as the replication tested it, and with the right n."""
        rows = []
        for model in self.models:
            scores = self.pictures.loc[self.pictures["version"] == model, "realness_of_asked"].dropna().tolist()
            if len(scores) < 2:
                continue
            participants = self.collected.answers["participant"].nunique()
            student, welch = statistics.pictures_test(scores)
            rows.append(
                {
                    "version": model,
                    "pictures": len(scores),
                    "participants": participants,
                    "mean": np.mean(scores),
                    "sd": np.std(scores, ddof=1),
                    "p_with_participants_as_n": statistics.published_test(scores, participants),
                    "p_with_pictures_as_n": student,
                    "p_welch": welch,
                    "p_equal": statistics.pictures_equality(scores, self.settings.margin),
                }
            )
        return pd.DataFrame(rows)

    @cached_property
    def people(self) -> pd.DataFrame:
        """How well each person tells coloured pictures from originals, and which answer they lean to."""
        given = self.collected.answers.dropna(subset="real")
        fake, original = given["real"] == 0, given["version"] == "original"
        counts = (
            given.assign(originals=original, fakes=~original, hits=fake & ~original, false_alarms=fake & original)
            .groupby("participant")
            .agg(
                originals=("originals", "sum"),
                fakes=("fakes", "sum"),
                hits=("hits", "sum"),
                false_alarms=("false_alarms", "sum"),
                real=("real", "mean"),
                seconds=("seconds", "median"),
            )
            .reset_index()
        )
        d_prime, criterion = statistics.signal_detection(
            counts["hits"], counts["fakes"], counts["false_alarms"], counts["originals"]
        )
        counts["d_prime"], counts["criterion"] = d_prime, criterion
        often = np.maximum(counts["real"], 1 - counts["real"]) > _ONE_SIDED
        counts["one_sided"] = often & (counts["originals"] + counts["fakes"] >= _ENOUGH)
        return counts.merge(self.collected.people, on="participant")

    @cached_property
    def groups(self) -> pd.DataFrame:
        """Realness and d' by what people said about themselves, where they chose among answers."""
        rows = []
        for question in self.collected.questions:
            replies = self.collected.people[f"reply {question}"].dropna()
            if replies.nunique() > 12:  # free text
                continue
            for reply, people in self.people.groupby(f"reply {question}"):
                part = self.collected.answers["participant"].isin(people["participant"])
                given = self.collected.answers[part].dropna(subset="real")
                realness = given.groupby("version")["real"].mean()
                shares = {f"realness {version}": realness.get(version, np.nan) for version in self.collected.versions}
                d_prime = people["d_prime"].mean()
                rows.append({"question": question, "reply": reply, "people": len(people), **shares, "d_prime": d_prime})
        return pd.DataFrame(rows)

    @cached_property
    def spread(self) -> simulation.RandomEffects:
        """How much people and scenes differ, for `koala study power`."""
        return simulation.estimate_random_effects(self.collected.table(), len(self.collected.versions))

    def _compare(self, collected: StudyAnswers) -> pd.DataFrame:
        pairs = [(number, 0) for number in range(1, len(collected.versions))]
        pairs += list(combinations(range(1, len(collected.versions)), 2))
        rows = []
        for one, other in pairs:
            finding = self._test(collected, {one: 1.0, other: -1.0})
            rows.append(
                {
                    "version": collected.versions[one],
                    "other": collected.versions[other],
                    "difference": finding.value,
                    "low": finding.low,
                    "high": finding.high,
                    "p": finding.p,
                    "p_equal": finding.p_equal,
                }
            )
        return _with_holm(pd.DataFrame(rows))

    def _test(self, collected: StudyAnswers, weights: dict[int, float]) -> statistics.ContrastTest:
        return statistics.crossed_test(
            collected.table(),
            [weights.get(number, 0.0) for number in range(len(collected.versions))],
            np.random.default_rng(self.settings.seed),
            margin=self.settings.margin,
            draws=self.settings.draws,
        )


def _with_holm(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Add p that allows for all comparisons, so that many of them find no more by chance than one would (Holm)."""
    from statsmodels.stats.multitest import multipletests

    known = comparisons["p"].notna()
    comparisons["p_holm"] = np.nan
    if known.any():
        comparisons.loc[known, "p_holm"] = multipletests(comparisons.loc[known, "p"], method="holm")[1]
    return comparisons
