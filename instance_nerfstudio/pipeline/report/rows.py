"""The tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instance_nerfstudio.masks.instances_json import read_instances_json
from instance_nerfstudio.pipeline.stage import StageRecord
from rcnn.safe_files import read_json


@dataclass(frozen=True)
class StageRow:
    """What a stage took and gave."""

    name: str
    seconds: float
    share: float
    """Of the longest stage, in [0, 1]."""
    summary: str
    resumed: bool


@dataclass(frozen=True)
class InstanceRow:
    """One object."""

    id: int
    colour: str
    """As CSS takes it."""
    category: str
    score: float
    views: int | None
    """Views with a segment of it."""
    size: str
    """Along x, y and z in world units; empty where it has no box."""
    detected: bool | None
    """Whether the 3D detector found it; None without one."""


def stage_rows(records: Sequence[StageRecord]) -> list[StageRow]:
    """A row for each stage."""
    longest = max((record.seconds for record in records), default=0.0) or 1.0
    return [
        StageRow(
            record.stage,
            record.seconds,
            record.seconds / longest,
            str(record.result.get("summary", "")),
            record.resumed,
        )
        for record in records
    ]


def instance_rows(exported: Path, matched: Path) -> list[InstanceRow]:
    """A row for each instance, by id, from the two stages' `instances.json`.

    Raises:
        InputError: one is missing or damaged.
    """
    note = read_json(matched)
    views, detected = note.get("views", {}), note.get("detected")
    rows = []
    for info in sorted(read_instances_json(exported), key=lambda info: info.id):
        box, (red, green, blue) = info.box_world, info.colour or (0, 0, 0)
        size = "" if box is None else " × ".join(f"{box[i + 3] - box[i]:.2f}" for i in range(3))
        rows.append(
            InstanceRow(
                info.id,
                f"rgb({red} {green} {blue})",
                info.category.replace("_", " "),
                info.score,
                views.get(str(info.id)),
                size,
                None if detected is None else info.id in detected,
            )
        )
    return rows
