"""The error that a user can mend, shown as one line instead of a traceback."""


class InputError(ValueError):
    """Something in the user's data or options is wrong. The message is one line: what, which file, what to do."""
