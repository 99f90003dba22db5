"""Which picture is shown to whom: balanced, and random beyond that.

A scene is a photograph of which there are several *versions*: version 0 is the original, the others are what each model
made of it. Nobody sees a scene twice. Everybody sees the same number of originals and as near as may be the same number
of each model's pictures, and every version of every scene gets about the same number of answers (an incomplete
block design). It is made as people come, from what was answered until then, so that who leaves early does not unbalance it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from koala.errors import UserError

ORIGINAL = 0


@dataclass(frozen=True)
class Check:
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


def quotas(totals: NDArray[np.int64], shown: int, original_share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many pictures of each version one person sees: `(V,)`.

    Args:
        totals: `(V,)` answers to each version until now; what cannot be shared out evenly goes where they are fewest.
        shown: pictures for each person.
        original_share: of originals among them.
        rng: of ties.
    """
    originals = round(shown * original_share)
    models = len(totals) - 1
    each, more = divmod(shown - originals, models)
    fewest = np.lexsort([rng.random(models), totals[1:]])[:more]
    result = np.concatenate([[originals], np.full(models, each)])
    result[1 + fewest] += 1
    return result


def assign(
    counts: NDArray[np.int64], shown: int, original_share: float, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """The pictures of the next person, in the order they are shown.

    Each place goes to a scene that this person has not and whose version was judged least often, then to the scene that
    was judged least often in any version, then to chance.

    Args:
        counts: `(S, V)` answers until now, and those that are awaited.
        shown: pictures for each person.
        original_share: of originals among them.
        rng: of everything that is left open.

    Returns:
        Scene and version of each.

    Raises:
        UserError: there are fewer scenes than pictures to show.
    """
    scenes = len(counts)
    if shown > scenes:
        raise UserError(f"{shown} pictures cannot be shown of {scenes} scenes; nobody sees a scene twice")
    versions = np.repeat(np.arange(counts.shape[1]), quotas(counts.sum(axis=0), shown, original_share, rng))
    free, totals = np.ones(scenes, bool), counts.sum(axis=1)
    chosen = []
    for version in rng.permutation(versions):
        order = np.lexsort([rng.random(scenes), totals, counts[:, version], ~free])
        scene = int(order[0])
        free[scene] = False
        chosen.append((scene, int(version)))
    return [chosen[place] for place in rng.permutation(shown)]


def insert_checks(pictures: Sequence[str], count: int, rng: np.random.Generator) -> list[str | Check]:
    """Put checks among the pictures, spread over the whole and never first."""
    trials: list[str | Check] = list(pictures)
    edges = np.linspace(1, len(pictures), count + 1)
    places = [
        int(rng.integers(int(low), max(int(low) + 1, int(high)))) for low, high in zip(edges, edges[1:], strict=False)
    ]
    for place in sorted(places, reverse=True):
        trials.insert(place, Check(str(rng.choice(["real", "fake"]))))
    return trials


def design(
    participants: int, scenes: int, models: int, shown: int, original_share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A whole study in which nobody leaves early: `(P, S)`, which version of which scene each sees; -1 for none."""
    counts = np.zeros((scenes, models + 1), np.int64)
    table = np.full((participants, scenes), -1)
    for participant in range(participants):
        for scene, version in assign(counts, shown, original_share, rng):
            counts[scene, version] += 1
            table[participant, scene] = version
    return table
