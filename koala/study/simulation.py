"""Studies that might be: answers of other people to pictures of other scenes, and how much these differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from koala.study.statistics import AnswerTable


@dataclass(frozen=True)
class RandomEffects:
    """How much people and scenes differ: standard deviations in logits.

    Attributes:
        participants: of how readily people answer "Real".
        scenes: of how real a scene looks in any version.
        pictures: of how real one version of a scene looks.
        tastes: of how people differ in what they hold of one version.
    """

    participants: float = 0.6
    scenes: float = 0.5
    pictures: float = 0.6
    tastes: float = 0.3

    @property
    def total(self) -> float:
        """Of all together."""
        return float(np.sqrt(self.participants**2 + self.scenes**2 + self.pictures**2 + self.tastes**2))


def simulate_answers(
    versions: NDArray[np.int64], realness: Sequence[float], spread: RandomEffects, rng: np.random.Generator
) -> AnswerTable:
    """A study that might be: answers of other people to pictures of other scenes.

    Args:
        versions: `(P, S)`, who judges which version of which scene; -1 for none.
        realness: of each version, over all people and scenes.
        spread: how much these differ.
        rng: of everything.
    """
    participants, scenes = versions.shape
    middle = np.array([_logit_of_mean(mean, spread.total) for mean in realness])
    logits = (
        middle
        + rng.normal(0, spread.participants, (participants, 1, 1))
        + rng.normal(0, spread.scenes, (1, scenes, 1))
        + rng.normal(0, spread.pictures, (1, scenes, len(middle)))
        + rng.normal(0, spread.tastes, (participants, 1, len(middle)))
    )
    seen = np.take_along_axis(logits, np.maximum(versions, 0)[..., None], axis=2)[..., 0]
    return AnswerTable(versions, rng.random(versions.shape) < special.expit(seen))


def estimate_random_effects(answers: AnswerTable, versions: int) -> RandomEffects:
    """Estimate how much people and scenes differ, for planning another study.

    Answers of one person to different scenes agree more than chance as far as people differ, and so on: each of the
    four variances is a mean product of two answers' deviations. They are on the scale of shares, and are brought to
    logits by the mean slope of the logistic curve (in a few rounds, for it depends on the result).

    Args:
        answers: everything that was answered.
        versions: how many there are.
    """
    seen = np.stack([answers.versions == version for version in range(versions)]).astype(float)  # (V, P, S)
    count = np.maximum(seen.sum(axis=(1, 2), keepdims=True), 1)
    means = (seen * answers.real).sum(axis=(1, 2), keepdims=True) / count
    deviations = seen * (answers.real - means)

    def shared(axis: int, different: bool) -> float:
        """Mean product over pairs that share a participant (axis 2 is summed) or a scene (axis 1)."""
        sums, counts = deviations.sum(axis=axis), seen.sum(axis=axis)
        if different:  # pairs of different versions: all pairs less those of one version
            products = (sums.sum(axis=0) ** 2 - (sums**2).sum(axis=0)).sum()
            pairs = (counts.sum(axis=0) ** 2 - (counts**2).sum(axis=0)).sum()
        else:
            products, pairs = (sums**2).sum() - (deviations**2).sum(), (counts**2).sum() - seen.sum()
        return float(products / pairs) if pairs else 0.0

    participants, scenes = max(0.0, shared(2, True)), max(0.0, shared(1, True))
    tastes, pictures = max(0.0, shared(2, False) - participants), max(0.0, shared(1, False) - scenes)
    spread = RandomEffects()
    for _ in range(10):
        slopes = [_mean_slope(float(np.clip(mean, 0.01, 0.99)), round(spread.total, 3)) for mean in means.ravel()]
        spread = RandomEffects(*(np.sqrt([participants, scenes, pictures, tastes]) / np.mean(slopes)).tolist())
    return spread


def _mean_slope(mean: float, sd: float) -> float:
    """Of the logistic curve, over normal logits whose probabilities have this mean."""
    places, shares = np.polynomial.hermite_e.hermegauss(60)
    chance = special.expit(_logit_of_mean(mean, sd) + sd * places)
    return float(chance * (1 - chance) @ shares / shares.sum())


@cache
def _logit_of_mean(mean: float, sd: float) -> float:
    """Where the middle of normal logits lies when their probabilities have this mean (Gauss-Hermite, 60 points)."""
    places, shares = np.polynomial.hermite_e.hermegauss(60)

    def excess(middle: float) -> float:
        return float(special.expit(middle + sd * places) @ shares / shares.sum()) - mean

    return float(optimize.brentq(excess, -30, 30))
