"""What a terminal can show."""

import os
from typing import TextIO


def has_colors(stream: TextIO) -> bool:
    """Whether what is written there is read on a terminal, by someone who has nothing against colours."""
    return stream.isatty() and "NO_COLOR" not in os.environ


def alarm(text: str) -> str:
    """Text in red."""
    return f"\033[1;31m{text}\033[0m"
