"""How a run ends that can't go on: one line, an exit status, and nothing that keeps running."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from instance_nerfstudio.errors import InputError

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# torch.save answers a full disk with a RuntimeError that does not say so.
_NEARLY_NOTHING = 1 << 20


class Terminated(KeyboardInterrupt):
    """SIGTERM, unwinding like Ctrl-C: partial files go away and children are ended."""


@contextmanager
def termination_unwinds() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated` in the main thread instead of ending the process at once."""
    if threading.current_thread() is not threading.main_thread():  # a scheduler's worker has signals of its own
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def full_disk_is_one_line(folder: Path) -> Iterator[None]:
    """Turns what libraries raise on a full disk into an `InputError` that says so."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if is_disk_full(error, folder):
            raise InputError(
                f"{folder}: no space left on the device; make room and give the same command again, it goes on there"
            ) from error
        raise


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error, or one that led to it, is from a full disk."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in _NO_SPACE:
            return True
        current = current.__cause__ or current.__context__
    if not isinstance(error, RuntimeError | OSError):
        return False
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(place).free < _NEARLY_NOTHING


def exit_interrupted(error: KeyboardInterrupt, arguments: Sequence[str]) -> None:
    """Ends the process as Ctrl-C or SIGTERM should, with a line that says how to go on.

    Args:
        error: what was caught.
        arguments: the command line, `sys.argv`.
    """
    command = shlex.join([os.path.basename(arguments[0]), *arguments[1:]])
    print(f"stopped; what is done is kept, go on with: {command}", file=sys.stderr)
    sys.exit(TERMINATED if isinstance(error, Terminated) else INTERRUPTED)
