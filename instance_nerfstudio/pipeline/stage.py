"""A stage: what it reads, what it does, and the record that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.fingerprints import FileSet
from rcnn.safe_files import read_json, write_json

RECORD_FILE = "stage.json"


@dataclass(frozen=True)
class Stage:
    """One step from photos to masks. Its outputs are a folder named like it."""

    name: str
    run: Callable[[StageContext], Mapping[str, Any]]
    """Fills `StageContext.work` and returns a summary that JSON can hold."""
    after: tuple[str, ...] = ()
    """Stages whose outputs it reads."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Whatever of the options changes its outputs; JSON can hold it."""
    inputs: Mapping[str, FileSet] = field(default_factory=dict)
    """The user's files that it reads, by the name of the option that gave them."""
    products: tuple[str, ...] = ("**/*",)
    """Patterns of the files that later stages read. Logs, whose bytes differ from run to run, are none."""
    resumable: bool = False
    """Whether `run` goes on with what an interrupted run left in `work`; else it finds it empty."""
    version: int = 1
    """Raised when the stage does something else with the same inputs."""


@dataclass(frozen=True)
class StageContext:
    """What a running stage has."""

    work: Path
    """Folder to fill, hidden; it becomes `target` when the stage is done. One of a killed run with the same inputs is
    handed over again if the stage is resumable."""
    target: Path
    """Where the outputs will lie."""
    records: Mapping[str, StageRecord]
    """Of the stages that this one comes after."""
    progress: Progress
    """Gets tasks."""
    warnings: list[str] = field(default_factory=list)
    """Lines for the report and the terminal."""

    def output(self, stage: str) -> Path:
        """The outputs of an earlier stage."""
        return self.target.parent / stage

    def result(self, stage: str) -> dict[str, Any]:
        """The summary of an earlier stage."""
        return self.records[stage].result


@dataclass(frozen=True)
class StageRecord:
    """`stage.json`: how the outputs beside it came about."""

    stage: str
    fingerprint: str
    """Of everything that went in."""
    inputs: dict[str, str]
    """What went in, piece by piece, as fingerprints: tells what has changed since."""
    outputs: dict[str, str]
    """Fingerprints of the products by name."""
    options: dict[str, Any]
    seconds: float
    """Of the call that finished it."""
    resumed: bool
    """Whether an interrupted call had done part of it."""
    finished: str
    """UTC, ISO 8601."""
    versions: dict[str, str]
    result: dict[str, Any]
    """What the stage says of its outputs."""
    warnings: list[str]

    def write(self, folder: Path) -> None:
        """Writes the record into the stage's folder."""
        write_json(folder / RECORD_FILE, asdict(self))

    @staticmethod
    def read(folder: Path) -> StageRecord | None:
        """The record in a stage's folder; None if there is none, or it is damaged or of another version."""
        try:
            return StageRecord(**read_json(folder / RECORD_FILE))
        except (InputError, TypeError):
            return None
