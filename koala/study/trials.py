"""Which picture is shown to whom: balanced, and random beyond that.

A scene is a photograph of which there are several *versions*: version 0 is the original, the others are what each model
made of it. Nobody sees a scene twice. Everybody sees the same number of originals and as near as may be the same number
of each model's pictures, and every version of every scene gets about the same number of answers (an incomplete block
design). It is made as people come, from what was answered until then, so that who leaves early does not unbalance it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

ORIGINAL = 0


@dataclass(frozen=True)
class AttentionCheck:
    """Instead of a picture, words that ask for an answer, to see whether they are read."""

    expected: str


def rank_scenes(labels: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Scenes in random order, but such that the first ones, however many, have labels as evenly as may be.

    Args:
        labels: of each scene; "" where none is known.
        rng: of the draw.
    """
    of_label: dict[str, list[int]] = defaultdict(list)
    for scene in rng.permutation(len(labels)):
        of_label[labels[scene]].append(int(scene))
    rounds = [(turn, rng.random(), scene) for scenes in of_label.values() for turn, scene in enumerate(scenes)]
    return [scene for _, _, scene in sorted(rounds)]


@dataclass(frozen=True)
class Quota:
    """What one person is shown.

    Attributes:
        shown: pictures.
        original_share: of originals among them.
    """

    shown: int
    original_share: float

    def of_versions(self, totals: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """How many pictures of each version: `(V,)`.

        Args:
            totals: `(V,)` answers to each until now; what cannot be shared out evenly goes where they are fewest.
            rng: of ties.
        """
        originals = round(self.shown * self.original_share)
        models = len(totals) - 1
        each, more = divmod(self.shown - originals, models)
        fewest = np.lexsort([rng.random(models), totals[1:]])[:more]
        result = np.concatenate([[originals], np.full(models, each)])
        result[1 + fewest] += 1
        return result


def assign_trials(counts: NDArray[np.int64], quota: Quota, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The pictures of the next person, in the order they are shown.

    Each place goes to a scene that this person has not and whose version was judged least often, then to the scene that
    was judged least often in any version, then to chance.

    Args:
        counts: `(S, V)` answers until now, and those that are awaited.
        quota: what the person is shown.
        rng: of everything that is left open.

    Returns:
        Scene and version of each.

    Raises:
        ValueError: there are fewer scenes than pictures to show.
    """
    scenes = len(counts)
    if quota.shown > scenes:
        raise ValueError(f"{quota.shown} pictures cannot be shown of {scenes} scenes; nobody sees a scene twice")
    versions = np.repeat(np.arange(counts.shape[1]), quota.of_versions(counts.sum(axis=0), rng))
    free, totals = np.ones(scenes, bool), counts.sum(axis=1)
    chosen = []
    for version in rng.permutation(versions):
        scene = int(np.lexsort([rng.random(scenes), totals, counts[:, version], ~free])[0])
        free[scene] = False
        chosen.append((scene, int(version)))
    return [chosen[place] for place in rng.permutation(len(chosen))]


def insert_checks(pictures: Sequence[str], count: int, rng: np.random.Generator) -> list[str | AttentionCheck]:
    """Put checks among the pictures, spread over the whole and never first."""
    trials: list[str | AttentionCheck] = list(pictures)
    edges = np.linspace(1, max(len(pictures), 1), count + 1).astype(int).tolist()
    places = [int(rng.integers(low, max(low + 1, high))) for low, high in pairwise(edges)]
    for place in sorted(places, reverse=True):
        trials.insert(place, AttentionCheck(str(rng.choice(["real", "fake"]))))
    return trials


def full_design(
    participants: int, scenes: int, models: int, quota: Quota, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A whole study in which nobody leaves early: `(P, S)`, which version of which scene each sees; -1 for none."""
    counts = np.zeros((scenes, models + 1), np.int64)
    table = np.full((participants, scenes), -1)
    for participant in range(participants):
        for scene, version in assign_trials(counts, quota, rng):
            counts[scene, version] += 1
            table[participant, scene] = version
    return table
