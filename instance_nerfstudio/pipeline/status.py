"""What is done in run folders, as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.run_folder import OPTIONS_FILE, working_stage
from instance_nerfstudio.pipeline.run_stages import stage_states
from instance_nerfstudio.pipeline.scene_stages import scene_stages

_STYLES = {"done": "green", "running": "cyan", "stale": "yellow", "damaged": "red", "missing": "dim"}


@dataclass(frozen=True)
class StageStatus:
    """One row of the table."""

    stage: str
    condition: str
    """done, running, stale, damaged or missing."""
    seconds: float | None
    note: str


def find_run_folders(paths: Sequence[Path]) -> list[Path]:
    """The run folders among the paths and directly in them; sorted, each once.

    Raises:
        InputError: one is none, and holds none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if (path / OPTIONS_FILE).is_file():
            found[path] = None
            continue
        inner = sorted(file.parent for file in path.glob(f"*/{OPTIONS_FILE}"))
        if not inner:
            raise InputError(f"{path}: is no run folder and holds none; make one with `instance-nerf run --data SCENE`")
        found |= dict.fromkeys(inner)
    return list(found)


def scene_status(folder: Path) -> list[StageStatus]:
    """The state of every stage.

    Raises:
        InputError: it is no run folder, or its scene is gone.
    """
    working = working_stage(folder)
    rows = []
    for state in stage_states(scene_stages(SceneOptions.of_folder(folder)), folder.absolute()):
        running = working == state.stage.name
        condition = "running" if running else state.condition
        note = state.reason if state.condition in ("stale", "damaged") else ""
        if state.interrupted and not running:
            note = f"{note}{', ' if note else ''}interrupted"
        elif state.condition == "done" and state.record is not None:
            note = str(state.record.result.get("summary", ""))
        rows.append(StageStatus(state.stage.name, condition, state.record.seconds if state.record else None, note))
    return rows


def print_status(folders: Sequence[Path], console: Console) -> None:
    """A table per run folder; a folder that can't be read is a line."""
    for folder in folders:
        try:
            rows = scene_status(folder)
        except InputError as error:
            console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            continue
        table = Table(title=str(folder), title_justify="left", title_style="bold")
        table.add_column("stage")
        table.add_column("state")
        table.add_column("seconds", justify="right")
        table.add_column("")
        for row in rows:
            seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
            style = _STYLES[row.condition]
            table.add_row(row.stage, f"[{style}]{row.condition}[/{style}]", seconds, row.note.replace("[", r"\["))
        console.print(table)


def status_as_json(folders: Sequence[Path]) -> str:
    """The same for programs."""
    content = {
        str(folder): [
            {"stage": row.stage, "state": row.condition, "seconds": row.seconds, "note": row.note}
            for row in scene_status(folder)
        ]
        for folder in folders
    }
    return json.dumps(content, indent=1)
