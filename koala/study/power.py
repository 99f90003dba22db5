"""How many participants and scenes a study needs, by simulating studies: `koala study power`."""

from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from koala.config.study import PowerStudy
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.core.wording import counted
from koala.study import simulation, statistics, trials

_ALPHA = 0.05


def power_command(settings: PowerStudy) -> int:
    """`koala study power`: print a table.

    Returns:
        0.

    Raises:
        UserError: the numbers do not go together.
    """
    if not settings.realness + settings.difference < 1:
        raise UserError(
            f"--realness {settings.realness} and --difference {settings.difference} more is no share; choose less"
        )
    table = simulate_power(settings)
    print(
        f"share of {settings.simulations} simulated studies, each participant judging "
        f"{counted(settings.shown, 'picture')}, that"
    )
    print(
        f"  find    a difference of {100 * settings.difference:g} points from {100 * settings.realness:g} % (p < 0.05)"
    )
    print(f"  equate  equal models within {100 * settings.difference:g} points (TOST, p < 0.05)")
    print(table.to_string(index=False, formatters={"find": _percent, "equate": _percent}))
    return 0


def simulate_power(settings: PowerStudy) -> pd.DataFrame:
    """How often studies of each size find a difference, and how often they show that there is none.

    They are tested by `statistics.crossed_estimate` and Student's t, which keeps the same level as the report's
    bootstrap in a hundredth of its time.

    Returns:
        participants, scenes, answers to each model's pictures, find, equate.

    Raises:
        UserError: somebody would see a scene twice.
    """
    if min(settings.scenes) < settings.shown:
        raise UserError(f"--shown {settings.shown} needs as many --scenes; nobody sees a scene twice")
    sizes = list(product(settings.participants, settings.scenes))
    with Progress(len(sizes) * settings.simulations, "simulating", "studies") as progress:
        rows = [_row(settings, participants, scenes, progress) for participants, scenes in sizes]
    return pd.DataFrame(rows, columns=["participants", "scenes", "answers a model", "find", "equate"])


def _row(settings: PowerStudy, participants: int, scenes: int, progress: Progress) -> tuple:
    """Studies of one size."""
    rng = np.random.default_rng([settings.seed, participants, scenes])
    quota = trials.Quota(settings.shown, settings.original_share)
    versions = trials.full_design(participants, scenes, settings.models, quota, rng)
    null = 0.0 if settings.models > 1 else settings.realness
    found = equated = 0
    for _ in range(settings.simulations):
        found += simulate_study(versions, settings, settings.difference, rng).p_value(null) < _ALPHA
        low, high = simulate_study(versions, settings, 0.0, rng).interval(1 - 2 * _ALPHA)
        equated += null - settings.difference < low and high < null + settings.difference
        progress.advance(1)
    answers = int((versions == 1).sum())
    return participants, scenes, answers, found / settings.simulations, equated / settings.simulations


def simulate_study(
    versions: NDArray[np.int64], settings: PowerStudy, difference: float, rng: np.random.Generator
) -> statistics.Estimate:
    """What one simulated study says of the first model: less the second, where there is one."""
    spread = simulation.RandomEffects(
        settings.participants_sd, settings.scenes_sd, settings.pictures_sd, settings.tastes_sd
    )
    models = [settings.realness + difference] + [settings.realness] * (settings.models - 1)
    answers = simulation.simulate_answers(versions, [settings.realness, *models], spread, rng)
    weights = [0.0, 1.0, -1.0][: settings.models + 1] + [0.0] * (settings.models - 2)
    return statistics.crossed_estimate(answers, weights)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
