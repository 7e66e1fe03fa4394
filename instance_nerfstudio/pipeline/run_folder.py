"""The folder of one scene's run: who works in it, and where things are."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instance_nerfstudio.errors import InputError

LOCK_FILE = ".lock"
OPTIONS_FILE = "options.json"
HASHES_FILE = ".hashes.json"
PARTIAL = ".partial-"
"""Begins the name of a folder in which a stage is being made."""
# `status` holds the lock for an instant to see whether it is free.
_ATTEMPTS = 5


class RunLock:
    """Held while a process works in a run folder. The system lets go of it when the process ends, however it ends."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def tell(self, stage: str | None) -> None:
        """Notes what is being done, for whoever finds the folder locked."""
        note = {"pid": os.getpid(), "host": socket.gethostname(), "stage": stage}
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(note).encode(), 0)


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[RunLock]:
    """Makes the folder if need be and keeps other processes out of it.

    Raises:
        InputError: another process works there, or the folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{folder}: can't be written to ({error.strerror}); choose another folder") from error
    try:
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if attempt == _ATTEMPTS - 1:
                    raise InputError(f"{folder}: {_who(folder)} is at work there; wait for it or stop it") from error
                time.sleep(0.05)
        lock = RunLock(handle)
        lock.tell(None)
        yield lock
    finally:
        os.close(handle)


def working_stage(folder: Path) -> str | None:
    """The stage that some process is at in the folder; '' if it is between two, None if nobody works there."""
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return str(_note(folder).get("stage") or "")
    finally:
        os.close(handle)
    return None


def _who(folder: Path) -> str:
    note = _note(folder)
    return f"process {note['pid']} on {note['host']}" if {"pid", "host"} <= note.keys() else "another process"


def _note(folder: Path) -> dict:
    try:
        note = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
