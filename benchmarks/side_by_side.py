"""Measure several ways of doing the same thing in turn, in one run, so that a drifting machine is fair to all."""

import statistics
import time
from collections.abc import Callable


def measure(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Images per second of each way in each round.

    Args:
        ways: name to a function that does some work and returns how many images it handled.
        rounds: how often each way is run; one more round comes first and is not counted.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, work in ways.items():
            began = time.perf_counter()
            images = work()
            rate = images / (time.perf_counter() - began)
            if round_number:
                rates[name].append(rate)
    return rates


def report(rates: dict[str, list[float]]) -> None:
    """Print each way's images per second: the least, the median, the most."""
    print(f"{'':40} {'least':>8} {'median':>8} {'most':>8}  images/s")
    for name, values in rates.items():
        print(f"{name:40} {min(values):8.2f} {statistics.median(values):8.2f} {max(values):8.2f}")


def ratio(rates: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(rates[ours], rates[theirs], strict=True))
