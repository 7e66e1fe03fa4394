"""`instance_edits.json` beside the run: the user's steps. The state is what they lead to; undo drops the last."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instance_nerfstudio.edits.instance_edits import ACTIONS, Edit, InstanceEdits
from instance_nerfstudio.errors import InputError
from rcnn.safe_files import read_json, write_json

EDITS_FILE = "instance_edits.json"
FORMAT_VERSION = 1
_VALUE_KEYS = {"rename": "name", "categorize": "category", "recolour": "colour"}
_REMEDY = "correct it, or delete it to go on without edits"


@dataclass(frozen=True)
class RunIdentity:
    """What tells one run's edits from another's: ids mean something else in every run."""

    name: str
    """Method and time of the run, as its folders are called."""
    instance_ids: tuple[int, ...]
    """Ids of its instances, without background."""

    def as_json(self) -> dict[str, Any]:
        digest = hashlib.sha256(repr(self.instance_ids).encode()).hexdigest()[:16]
        return {"name": self.name, "instances": len(self.instance_ids), "ids_sha256": digest}


def read_edits(path: Path, run: RunIdentity) -> list[Edit]:
    """The steps in a file; none when there is no file.

    Raises:
        InputError: the file is damaged, of a newer version, or of another run.
    """
    if not path.exists():
        return []
    content = read_json(path)
    if content.get("format_version") != FORMAT_VERSION:
        version = content.get("format_version")
        raise InputError(f"{path}: has format_version {version!r}, not {FORMAT_VERSION}; {_REMEDY}")
    if content.get("run") != run.as_json():
        raise InputError(f"{path}: is of another run than {run.name}; move it to where it belongs, or delete it")
    records = content.get("edits")
    if not isinstance(records, list):
        raise InputError(f"{path}: has no list 'edits'; {_REMEDY}")
    edits = [_parse(path, place, record) for place, record in enumerate(records, 1)]
    state_after(edits, run, InstanceEdits(), path)
    return edits


def write_edits(path: Path, run: RunIdentity, edits: Sequence[Edit]) -> None:
    """Writes the steps, whole or not at all."""
    records = []
    for edit in edits:
        record: dict[str, Any] = {"action": edit.action}
        if edit.ids:
            record["ids"] = list(edit.ids)
        if edit.action in _VALUE_KEYS:
            record[_VALUE_KEYS[edit.action]] = edit.value
        records.append(record)
    content = {"format_version": FORMAT_VERSION, "run": run.as_json(), "edits": records}
    try:
        write_json(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make its folder writable") from error


def state_after(edits: Sequence[Edit], run: RunIdentity, start: InstanceEdits, path: Path) -> InstanceEdits:
    """What the steps lead to.

    Raises:
        InputError: a step that can't be, by its number in the file.
    """
    state = start
    for place, edit in enumerate(edits, 1):
        try:
            state = state.after(edit, run.instance_ids)
        except InputError as error:
            raise InputError(f"{path}: edit number {place}: {error}; {_REMEDY}") from error
    return state


def _parse(path: Path, place: int, record: Any) -> Edit:
    action = record.get("action") if isinstance(record, dict) else None
    if action not in ACTIONS:
        raise InputError(f"{path}: edit number {place} has action {action!r}; {_REMEDY}")
    ids = record.get("ids", [])
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise InputError(f"{path}: edit number {place} has ids {ids!r:.80}; {_REMEDY}")
    value = record.get(_VALUE_KEYS.get(action, ""))
    return Edit(action, tuple(ids), tuple(value) if isinstance(value, list) else value)  # type: ignore[arg-type]


class EditsStore:
    """The edits of a run in memory and on disk.

    The file is read again before each change, so that two viewers of one run don't undo each other's work.

    Args:
        path: the file; None for edits that are kept in memory alone.
        run: identity of the run, asked for when it is first needed: ids are known once a checkpoint is read.
        start: what options of the run hide or isolate.
    """

    def __init__(self, path: Path | None, run: Callable[[], RunIdentity], start: InstanceEdits | None = None) -> None:
        self.path = path
        self._run = run
        self._start = start or InstanceEdits()
        self._lock = threading.Lock()
        self._edits: list[Edit] = []
        self._current: InstanceEdits | None = None

    @property
    def undoable(self) -> bool:
        """Whether there is a step to undo."""
        return bool(self._edits)

    def current(self) -> InstanceEdits:
        """The state; read from disk the first time.

        Raises:
            InputError: the file is unusable.
        """
        if self._current is None:
            with self._lock:
                self._read()
        assert self._current is not None
        return self._current

    def ignore_file(self) -> None:
        """Goes on without what is in the file; it is looked at again before the first change."""
        self._edits, self._current = [], self._start

    def apply(self, edit: Edit) -> InstanceEdits:
        """Adds a step, on disk too, and returns the new state.

        Raises:
            InputError: the step can't be, or the file is unusable or can't be written; then nothing has changed.
        """
        with self._lock:
            before = self._read()
            state = before.after(edit, self._run().instance_ids)
            if state != before:  # a step that changes nothing would be one to undo all the same
                self._write([*self._edits, edit], state)
            return state

    def undo(self) -> Edit | None:
        """Takes the last step back, on disk too, and returns it; None when there is none.

        Raises:
            InputError: the file is unusable or can't be written.
        """
        with self._lock:
            self._read()
            if not self._edits:
                return None
            *rest, last = self._edits
            self._write(rest, self._fold(rest))
            return last

    def _read(self) -> InstanceEdits:
        unknown = (self._start.hidden | self._start.isolated) - set(self._run().instance_ids)
        if unknown:
            option = "hidden-instances" if min(unknown) in self._start.hidden else "isolated-instances"
            raise InputError(f"--pipeline.model.{option}: the run has no instance {min(unknown)}")
        edits = self._edits if self.path is None else read_edits(self.path, self._run())
        state = self._fold(edits)
        self._edits, self._current = edits, state
        return state

    def _fold(self, edits: Sequence[Edit]) -> InstanceEdits:
        return state_after(edits, self._run(), self._start, self.path or Path(EDITS_FILE))

    def _write(self, edits: list[Edit], state: InstanceEdits) -> None:
        if self.path is not None:
            write_edits(self.path, self._run(), edits)
        self._edits, self._current = edits, state
