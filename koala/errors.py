"""The one error that is shown to users without a traceback."""


class UserError(ValueError):
    """Something the user can mend: one sentence of fact with the values, one of remedy."""
