"""The error that a user can mend, shown as one line instead of a traceback."""

import sys
from types import TracebackType

from rcnn.errors import InputError

__all__ = ["InputError", "show_input_errors_as_one_line"]


def show_input_errors_as_one_line() -> None:
    """Makes an uncaught `InputError` print its message alone; the exit status stays 1. Others keep their traceback.

    nerfstudio's commands own their `main`, so the interpreter's hook is the only place to catch what escapes them.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, InputError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = hook
