"""`match`: segments of the training views become masks with ids that all views share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.stage import Stage, StageContext
from instance_nerfstudio.pipeline.stages.density import GRID_FILE
from instance_nerfstudio.pipeline.stages.detect import instances_file
from instance_nerfstudio.pipeline.stages.project import PROJECTIONS_FILE, VIEWS_FILE

# Masks need no more: finer borders are those of the segmenter, not of the objects.
LONGEST_SIDE = 1024


def match_stage(options: SceneOptions) -> Stage:
    """Names the segments of the training views. Held-out views stay out of it: their segments are for scoring."""
    return Stage(
        name="match",
        run=partial(_match, options),
        after=("density", "detect", "segment", "project"),
        options={"matcher": options.match.matcher},
        version=2,
    )


def _match(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    import numpy as np

    from instance_nerfstudio.lift import match_consensus, match_hungarian, match_seed, settle
    from instance_nerfstudio.lift.view_projection import read_projections
    from instance_nerfstudio.masks.instance_masks import write_instance_mask
    from instance_nerfstudio.masks.instances_json import (
        INSTANCES_FILE,
        MASKS_FOLDER,
        InstanceInfo,
        write_instances_json,
    )
    from instance_nerfstudio.pipeline.instance_voxels import instance_grid
    from instance_nerfstudio.pipeline.view_list import read_views
    from instance_nerfstudio.segments.segments_folder import read_segments

    grid = instance_grid(instances_file(context), context.output("density") / GRID_FILE)
    if options.match.matcher != "consensus" and not grid.count:
        raise InputError(
            f"--matcher {options.match.matcher}: matches to 3D instances, and `detect` gave none; use --matcher "
            "consensus, or give instances with --instances FILE"
        )
    projections = read_projections(context.output("project") / PROJECTIONS_FILE)
    folder = read_segments(context.output("segment"))
    every = read_views(context.output("project") / VIEWS_FILE, options.data)
    views = [view for view in every if not view.held_out and not folder.is_skipped(view.photo)]
    task = context.progress.add_task("Reading segments", total=len(views))
    segments = []
    for view in views:
        segments.append(_at_most(LONGEST_SIDE, folder.view(view.photo), view.photo))
        context.progress.advance(task)
    match = {"seed": match_seed, "hungarian": match_hungarian, "consensus": match_consensus}[options.match.matcher]
    task = context.progress.add_task("Matching", total=None)
    projected = [projections[view.name] for view in views]
    matching = match(segments, projected, grid)
    if options.match.matcher != "seed":  # the paper's rule is left as it is
        matching = settle(matching, projected)
    context.progress.update(task, total=1, completed=1)
    if not matching.instances:
        raise InputError(
            f"{context.target}: no segment belongs to an instance, with --matcher {options.match.matcher}; look at the "
            "segments, or try another --matcher or --source"
        )
    for view, ids in zip(views, matching.maps, strict=True):
        write_instance_mask(context.work / MASKS_FOLDER / f"{view.name}.png", ids)
    infos = [InstanceInfo(found.id, found.category, found.score) for found in matching.instances]
    extra = {
        "views": {str(found.id): found.views for found in matching.instances},
        "detected": [found.id for found in matching.instances if found.detected] if grid.count else None,
    }
    for place in (context.work, context.work / MASKS_FOLDER):
        write_instances_json(place / INSTANCES_FILE, infos, **extra)
    abstained = float(np.mean([(ids < 0).mean() for ids in matching.maps]))
    new = len(infos) - len(extra["detected"] or ())
    missed = f", {new} that the detector missed" if grid.count else ""
    return {
        "instances": len(infos),
        "new": new,
        "matcher": options.match.matcher,
        "abstained": round(abstained, 4),
        "summary": f"{len(infos)} instances{missed}; {abstained:.0%} of the pixels abstain",
    }


def _at_most(longest: int, segments: Any, photo: Path) -> Any:
    """Segments with at most so many pixels along the longer side."""
    from dataclasses import replace

    from instance_nerfstudio.masks.instance_masks import resize_labels

    height, width = segments.ids.shape
    factor = longest / max(height, width)
    if factor >= 1:
        return segments
    return replace(segments, ids=resize_labels(segments.ids, round(height * factor), round(width * factor), photo))
