"""What a check of `koala doctor` finds, and how numbers are written in it."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        status: "ok", "warning" or "failed".
        text: what was found.
        remedy: what to do where not all is well.
        measure: of findings with one status, the lowest is told.
    """

    status: Status
    text: str
    remedy: str = ""
    measure: float = 0.0


def format_bytes(number: float) -> str:
    """A number of bytes, in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.{0 if number >= 10 or unit == 'bytes' else 1}f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
