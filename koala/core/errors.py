"""The one error that is shown to users without a traceback, and warnings."""

import os
import sys


class UserError(ValueError):
    """Something the user can mend: one sentence of fact with the values, one of remedy."""


def first_line(error: Exception) -> str:
    """The beginning of an error's message; a library's may go on for pages."""
    return str(error).strip().partition("\n")[0][:200]


def warn(sentence: str) -> None:
    """Tell users of something on standard error, once whatever the number of processes."""
    if os.environ.get("RANK", "0") == "0":
        print(f"koala: warning: {sentence}", file=sys.stderr, flush=True)
