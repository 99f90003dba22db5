"""Numbers as people read them: one minus sign, one dash for none."""

import math
from collections.abc import Callable
from typing import Any


def percent(share: float) -> str:
    """A share, as 48.6 %."""
    return "–" if is_none(share) else f"{_rounded(100 * share, 1)} %"


def points(difference: float) -> str:
    """A difference of shares in points, as +3.1 or −0.4."""
    return "–" if is_none(difference) else _rounded(100 * difference, 1, "+")


def decimal(value: float) -> str:
    """With two decimals."""
    return "–" if is_none(value) else _rounded(value, 2)


def p_value(value: float) -> str:
    """As precise as it deserves."""
    if is_none(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: float, high: float, form: Callable[[float], str] = percent) -> str:
    """Both ends, as 40.2 % to 57.1 %."""
    return "–" if is_none(low) else f"{form(low)} to {form(high)}"


def is_none(value: Any) -> bool:
    """Whether there is no number."""
    return value is None or not math.isfinite(value)


def _rounded(value: float, decimals: int, sign: str = "-") -> str:
    return f"{round(float(value), decimals) + 0.0:{sign}.{decimals}f}".replace("-", "−")
