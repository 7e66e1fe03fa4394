"""`report.html`: a page that needs no other file, network or script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from instance_nerfstudio.pipeline.report.rows import InstanceRow, StageRow
from instance_nerfstudio.pipeline.report.view_pictures import ViewRow
from rcnn.safe_files import write_atomically

SCORE_NAMES = {
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "pq_scene": "PQ^scene",
    "sq_scene": "SQ^scene",
    "rq_scene": "RQ^scene",
    "pq_scene_pl": "PQ^scene, rules of Panoptic Lifting",
}


@dataclass(frozen=True)
class ReportPage:
    """What the page shows."""

    scene: str
    data: str
    run: str
    train_config: str
    """config.yml of the trained instance field."""
    held_out: Sequence[ViewRow]
    """Views that neither matching nor training has seen."""
    training: Sequence[ViewRow]
    stages: Sequence[StageRow]
    instances: Sequence[InstanceRow]
    agreement: Sequence[tuple[str, float]]
    """Stage, and the panoptic quality of its field with the segments of each held-out view."""
    truth: Mapping[str, float]
    """Of the field with the scene's own masks, held-out views; empty without any."""
    facts: Sequence[tuple[str, str]]
    warnings: Sequence[tuple[str, str]]
    """Stage and line."""
    versions: Mapping[str, str]


def write_report(path: Path, page: ReportPage) -> None:
    """Writes the page, whole or not at all. Whatever comes from files and options is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("instance_nerfstudio.pipeline.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    template = environment.get_template("report.html.jinja")
    total = sum(stage.seconds for stage in page.stages)
    write_atomically(path, template.render(page=page, total=total, score_names=SCORE_NAMES).encode())


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
