"""The statistics of a study: pure functions of arrays.

*Realness* is the share of answers "Real". Both the people and the scenes of a study are samples, of all people and of
all photographs. Who is easily fooled is so in many answers, and a scene that is easily coloured gets many, so that
answers are not independent and what a study finds is uncertain from both sides. The functions called `crossed_...` take
both into account; shapes are P participants, S scenes, V versions of each scene (the original, and one of each model).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

ORIGINAL_PAPER = (0.790, 0.691, 0.641, 0.543, 0.424, 0.359, 0.351, 0.179, 0.150)
"""Realness of the nine pictures of Baldassarre et al. (2017), as they published them."""
ORIGINAL_PAPER_SUMMARY = (0.458, 0.2236, 40)
"""Their mean, standard deviation and participants, as the replication's t-test took them."""
_NORMAL = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class AnswerTable:
    """What everybody answered, as a table of participants and scenes.

    Attributes:
        versions: `(P, S)`, which version of the scene the participant judged; -1 for none.
        real: `(P, S)` bool, whether the answer was "Real"; of no meaning where there is no version.
    """

    versions: NDArray[np.int64]
    real: NDArray[np.bool_]

    @classmethod
    def of(cls, participants: ArrayLike, scenes: ArrayLike, versions: ArrayLike, real: ArrayLike) -> "AnswerTable":
        """From one row an answer; participants and scenes are named by anything that can be compared."""
        rows, row = np.unique(np.asarray(participants), return_inverse=True)
        columns, column = np.unique(np.asarray(scenes), return_inverse=True)
        table = cls(np.full((len(rows), len(columns)), -1), np.zeros((len(rows), len(columns)), bool))
        table.versions[row, column] = versions
        table.real[row, column] = real
        return table

    def of_versions(self, versions: ArrayLike) -> "AnswerTable":
        """The answers to some versions only, without the people and scenes that have none."""
        wanted = np.isin(self.versions, versions)
        rows, columns = wanted.any(axis=1), wanted.any(axis=0)
        part = np.ix_(rows, columns)
        return AnswerTable(np.where(wanted, self.versions, -1)[part], self.real[part])


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated, its standard error, and the degrees of freedom of that."""

    value: float
    se: float
    df: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval, by Student's t."""
        half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.se
        return self.value - half, self.value + half

    def p_value(self, null: float = 0.0) -> float:
        """Of the two-sided test that the true number is `null`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(2 * stats.t.sf(np.abs(np.divide(self.value - null, self.se)), self.df))


@dataclass(frozen=True)
class ContrastTest:
    """A contrast of versions, tested.

    Attributes:
        value: what was found.
        low: lower end of its confidence interval.
        high: upper end.
        p: of the two-sided test that the truth is the null value.
        p_equal: of the two one-sided tests (TOST): small when the truth is within the margin of the null value.
    """

    value: float
    low: float
    high: float
    p: float
    p_equal: float


def wilson_interval(share: float, count: float, z: float = _NORMAL) -> tuple[float, float]:
    """Wilson's score interval of a share of independent answers, such as those of different people to one picture.

    Args:
        share: of them.
        count: of answers; 0 says nothing.
        z: quantile of the level, 1.96 for 95 %.

    References:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not count:
        return 0.0, 1.0
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


# ---------------------------------------------------------------- people and scenes, crossed


def crossed_estimate(answers: AnswerTable, weights: Sequence[float]) -> Estimate:
    """A contrast of realness with the error that it has from both participants and scenes.

    This is the moment estimate for crossed random effects: squared sums over participants and over scenes, less what
    they count twice (two-way clustering), with Satterthwaite's degrees of freedom.

    Args:
        answers: everything that was answered.
        weights: one a version: (0, 1) is the realness of version 1, (0, 1, -1) a difference.

    References:
        Cameron, Gelbach and Miller, "Robust inference with multiway clustering", J. Business & Economic
        Statistics 29 (2011); Clark, "The language-as-fixed-effect fallacy", J. Verbal Learning and Verbal
        Behavior 12 (1973).
    """
    part = answers.of_versions(np.flatnonzero(weights))
    participants, scenes = part.versions.shape
    value, deviations = 0.0, np.zeros(part.versions.shape)
    for version in np.flatnonzero(weights).tolist():
        seen = part.versions == version
        if not seen.any():
            return Estimate(np.nan, np.nan, np.nan)
        realness = part.real[seen].mean()
        value += weights[version] * realness
        deviations += weights[version] * seen * (part.real - realness) / seen.sum()
    if min(participants, scenes) < 2:
        return Estimate(value, np.nan, np.nan)
    count = (part.versions >= 0).sum()
    groups = np.array([participants, scenes, count])
    squares = np.array(
        [(deviations.sum(axis=1) ** 2).sum(), (deviations.sum(axis=0) ** 2).sum(), (deviations**2).sum()]
    )
    of_participants, of_scenes, of_answers = squares * groups / (groups - 1)
    variance = max(of_participants + of_scenes - of_answers, min(of_participants, of_scenes))
    pieces = of_participants**2 / (participants - 1) + of_scenes**2 / (scenes - 1)
    return Estimate(float(value), float(np.sqrt(variance)), float(variance**2 / pieces) if pieces else np.nan)


def crossed_interval(answers: AnswerTable, version: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a version's realness, for other people and other scenes: Wilson's, and so within 0 and 1.

    The answers count as many as independent ones that have the same error, at most as many as they are; where all are
    alike, which shows no error, as many as there are people or scenes, whichever are fewer. These less one are also the
    degrees of freedom.

    Returns:
        Both ends; NaN where fewer than two people or two scenes have answers.

    References:
        Dean and Pagano, "Evaluating confidence interval methods for binomial proportions in clustered surveys",
        J. Survey Statistics and Methodology 3 (2015): Wilson's with an effective sample size.
    """
    part = answers.of_versions([version])
    groups, count = min(part.versions.shape), (part.versions >= 0).sum()
    if groups < 2:
        return np.nan, np.nan
    estimate = crossed_estimate(part, [0.0] * version + [1.0])
    share, se = estimate.value, estimate.se
    effective = min(count, share * (1 - share) / se**2) if se > 0 else groups
    return wilson_interval(share, effective, float(stats.t.ppf((1 + level) / 2, groups - 1)))


def crossed_bootstrap(
    answers: AnswerTable, weights: Sequence[float], rng: np.random.Generator, draws: int = 1999
) -> NDArray[np.float64]:
    """How far a contrast strays, in its own standard errors, when participants and scenes are drawn again.

    Each draw takes as many participants and as many scenes as there were, with replacement, and with them the answers
    of the ones to the others. Its spread alone would be too wide (it counts the chance in single answers three times,
    see Owen), so that each draw is divided by the standard error that `crossed_estimate` finds in it: a bootstrap-t.

    Args:
        answers: everything that was answered.
        weights: one a version, as in `crossed_estimate`.
        rng: of the draws.
        draws: how many.

    Returns:
        Sorted; at most `draws`, for in a small study a draw may miss a version.

    References:
        Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007); Efron and Tibshirani, "An
        Introduction to the Bootstrap" (1993), chapter 12.5 (bootstrap-t).
    """
    part = answers.of_versions(np.flatnonzero(weights))
    participants, scenes = part.versions.shape
    if min(participants, scenes) < 2:
        return np.empty(0)
    rows = rng.multinomial(participants, np.full(participants, 1 / participants), draws).astype(float)
    columns = rng.multinomial(scenes, np.full(scenes, 1 / scenes), draws).astype(float)
    stray = np.zeros(draws)
    by_row, by_column, of_answers = np.zeros(rows.shape), np.zeros(columns.shape), np.zeros(draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        for version in np.flatnonzero(weights).tolist():
            seen = (part.versions == version).astype(float)
            real = seen * part.real
            realness = real.sum() / seen.sum()
            row_real, row_seen = columns @ real.T, columns @ seen.T  # (draws, P), over the scenes drawn
            column_real, column_seen = rows @ real, rows @ seen  # (draws, S), over the participants drawn
            count, hits = (rows * row_seen).sum(axis=1), (rows * row_real).sum(axis=1)
            drawn, weight = hits / count, weights[version] / count
            stray += weights[version] * (drawn - realness)
            by_row += weight[:, None] * (row_real - drawn[:, None] * row_seen)
            by_column += weight[:, None] * (column_real - drawn[:, None] * column_seen)
            of_answers += weight**2 * (hits * (1 - 2 * drawn) + count * drawn**2)
        of_participants = (rows * by_row**2).sum(axis=1) * participants / (participants - 1)
        of_scenes = (columns * by_column**2).sum(axis=1) * scenes / (scenes - 1)
        variance = np.maximum(of_participants + of_scenes - of_answers, np.minimum(of_participants, of_scenes))
        strays = stray / np.sqrt(variance)
    return np.sort(strays[np.isfinite(strays)])


def crossed_test(
    answers: AnswerTable,
    weights: Sequence[float],
    rng: np.random.Generator,
    *,
    null: float = 0.0,
    margin: float = 0.1,
    level: float = 0.95,
    draws: int = 1999,
) -> ContrastTest:
    """The main analysis: a contrast of realness, tested by the bootstrap crossed over participants and scenes.

    Args:
        answers: everything that was answered.
        weights: one a version, as in `crossed_estimate`.
        rng: of the bootstrap.
        null: the value that is tested.
        margin: differences from `null` smaller than this count as none, in the test of equality.
        level: of the confidence interval.
        draws: of the bootstrap.

    Returns:
        The finding; NaN where the answers do not suffice.
    """
    estimate = crossed_estimate(answers, weights)
    strays = crossed_bootstrap(answers, weights, rng, draws)
    if not len(strays) or not estimate.se > 0:
        return ContrastTest(estimate.value, np.nan, np.nan, np.nan, np.nan)

    def below(stray: float) -> float:
        return float(1 + np.searchsorted(strays, stray, "right")) / (len(strays) + 1)

    def above(stray: float) -> float:
        return float(1 + len(strays) - np.searchsorted(strays, stray, "left")) / (len(strays) + 1)

    found = (estimate.value - null) / estimate.se
    p = min(1.0, 2 * min(below(found), above(found)))
    p_equal = max(above(found + margin / estimate.se), below(found - margin / estimate.se))
    ends = estimate.value - estimate.se * np.quantile(strays, [(1 + level) / 2, (1 - level) / 2])
    low, high = np.clip(ends, np.minimum(weights, 0).sum(), np.maximum(weights, 0).sum())  # no truth lies beyond
    return ContrastTest(estimate.value, float(low), float(high), p, p_equal)


# ---------------------------------------------------------------- telling real from fake


def signal_detection(
    hits: ArrayLike, fakes: ArrayLike, false_alarms: ArrayLike, originals: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sensitivity d' and criterion c of people who answer "Fake": element by element.

    d' is 0 for who cannot tell, whatever they prefer to answer. c is negative for who is quick to say "Fake", positive
    for who is quick to say "Real". Counts are smoothed (log-linear), so that nobody is infinitely good.

    Args:
        hits: answers "Fake" to fakes.
        fakes: fakes that were judged.
        false_alarms: answers "Fake" to originals.
        originals: originals that were judged.

    References:
        Hautus, "Corrections for extreme proportions", Behavior Research Methods 27 (1995).
    """
    hit = special.ndtri((np.asarray(hits) + 0.5) / (np.asarray(fakes) + 1))
    alarm = special.ndtri((np.asarray(false_alarms) + 0.5) / (np.asarray(originals) + 1))
    return hit - alarm, -(hit + alarm) / 2


def crossed_signal_detection(answers: AnswerTable, original: int, model: int) -> tuple[Estimate, Estimate]:
    """Sensitivity d' and criterion c of all people together, for one model, with their errors (delta method)."""
    seen = [answers.versions == version for version in (model, original)]
    fakes = [(these & ~answers.real).sum() for these in seen]
    counts = [these.sum() for these in seen]
    d_prime, criterion = (float(value) for value in signal_detection(fakes[0], counts[0], fakes[1], counts[1]))
    slopes = 1 / stats.norm.pdf([d_prime / 2 - criterion, d_prime / 2 + criterion])  # at the model, at the original

    def estimate(value: float, of_model: float, of_original: float) -> Estimate:
        weights = np.zeros(max(model, original) + 1)
        weights[[model, original]] = slopes * (of_model, of_original)  # of realness: that of "Fake" turned round
        error = crossed_estimate(answers, weights.tolist())
        return Estimate(value if np.isfinite(error.value) else np.nan, error.se, error.df)

    return estimate(d_prime, -1, 1), estimate(criterion, 0.5, 0.5)


# ---------------------------------------------------------------- scores of pictures, as the replication tested them


def published_test(scores: Sequence[float], participants: int) -> float:
    """The replication's t-test against the original paper: the sd is over pictures, n is the participants.

    It is here to be compared with `pictures_test`. n must be the number of things that the sd is over, and with
    participants in its place equal models are found different far too often.

    Returns:
        p.
    """
    mean, sd = float(np.mean(scores)), float(np.std(scores, ddof=1))
    return float(stats.ttest_ind_from_stats(mean, sd, participants, *ORIGINAL_PAPER_SUMMARY).pvalue)


def pictures_test(scores: Sequence[float], others: Sequence[float] = ORIGINAL_PAPER) -> tuple[float, float]:
    """The t-test over pictures: p with equal variances, and without (Welch)."""
    return float(stats.ttest_ind(scores, others).pvalue), float(stats.ttest_ind(scores, others, equal_var=False).pvalue)


def pictures_equality(scores: Sequence[float], margin: float, others: Sequence[float] = ORIGINAL_PAPER) -> float:
    """The two one-sided tests (TOST) over pictures: p that their means differ by less than `margin`."""
    from statsmodels.stats.weightstats import ttost_ind

    return float(ttost_ind(np.asarray(scores), np.asarray(others), -margin, margin, usevar="unequal")[0])
