"""`segment`: 2D masks of every photo, from a mask source."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.fingerprints import FileSet
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.scene_files import scene_files, scene_photos
from instance_nerfstudio.pipeline.stage import Stage, StageContext

_NAMED = 3


def segment_stage(options: SceneOptions) -> Stage:
    """Segments photo by photo; a killed run goes on with the next one."""
    config = options.segment
    settings = asdict(config)
    del settings["replace"]
    inputs = {"data": scene_files(options.data)}
    for name in ("masks", "weights", "detectron2_config"):
        value = settings[name]
        if value is not None and Path(value).exists():
            inputs[name] = FileSet(Path(value))
            del settings[name]
    return Stage(
        name="segment",
        run=partial(_segment, options),
        options={name: str(value) if isinstance(value, Path) else value for name, value in settings.items()},
        inputs=inputs,
        resumable=True,
    )


def _segment(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    from instance_nerfstudio.segments.segment import segment_images

    photos = scene_photos(options.data)
    # What lies in the folder was made in the same way, but for versions of packages.
    found = segment_images(photos, context.work, replace(options.segment, replace=True), progress=context.progress)
    if not found.count:
        raise InputError(
            f"{options.data}: {options.segment.source} found no segment in any of {len(photos)} photos; lower "
            "--min-score, or choose another --source"
        )
    skipped = [photo.name for photo in photos if found.is_skipped(photo)]
    if skipped:
        names = f"{', '.join(skipped[:_NAMED])}{' ...' if len(skipped) > _NAMED else ''}"
        context.warnings.append(
            f"{len(skipped)} of {len(photos)} photos have no segments from {options.segment.source}, they teach colour "
            f"alone: {names}"
        )
    return {
        "photos": len(photos),
        "segments": found.count,
        "skipped": skipped,
        "tracks": found.tracks,
        "source": options.segment.source,
        "summary": f"{found.count} segments in {len(photos) - len(skipped)} photos, {options.segment.source}",
    }
