"""The one error that is shown to users without a traceback."""


class UserError(ValueError):
    """Something the user can mend: one sentence of fact with the values, one of remedy."""


def first_line(error: Exception) -> str:
    """The beginning of an error's message; a library's may go on for pages."""
    return str(error).strip().partition("\n")[0][:200]
