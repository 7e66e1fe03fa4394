"""`export`: the masks of the trained field in all views, and their scores where there is truth."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from instance_nerfstudio.pipeline.fingerprints import FileSet
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.stage import Stage, StageContext
from instance_nerfstudio.pipeline.stages.project import VIEWS_FILE
from instance_nerfstudio.pipeline.stages.refine import final_field, refine_stages


def export_stage(options: SceneOptions) -> Stage:
    """Renders the masks."""
    truth = _truth_folder(options.data)
    return Stage(
        name="export",
        run=partial(_export, options),
        after=("project", "match", "train", *(stage.name for stage in refine_stages(options))),
        options={"cameras": options.export.cameras, "format": list(options.export.format)},
        inputs={"data": FileSet(truth)} if truth.is_dir() else {},
    )


def _truth_folder(data: Path) -> Path:
    """The scene's own masks, if there are any: they are never trained on here."""
    return (data if data.is_dir() else data.parent) / "instance_masks"


def _export(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    import torch

    from instance_nerfstudio.export.export_masks import ExportMasks
    from instance_nerfstudio.pipeline.open_field import open_field

    config, masks = final_field(context)
    cameras = options.export.cameras
    if cameras == "auto":
        held_out = context.result("project")["held_out"]
        cameras = "all" if torch.cuda.is_available() or not held_out else "eval"
    formats = tuple(dict.fromkeys(("png", *options.export.format)))
    export = ExportMasks(config, context.target, cameras=cameras, format=formats)
    views, instances = export.export(open_field(config, options.data, masks), context.work, context.progress)
    truth = _scores(options, context)
    score = f", PQ^scene {truth['pq_scene']:.3f} against the scene's own masks" if truth else ""
    return {
        "views": views,
        "instances": instances,
        "cameras": cameras,
        "truth": truth,
        "summary": f"{instances} instances in {views} views{score}",
    }


def _scores(options: SceneOptions, context: StageContext) -> dict[str, float]:
    """Panoptic quality of the held-out views against the scene's own masks; empty without any.

    Not mIoU: it compares ids, and those of the truth are other ones.
    """
    import torch

    from instance_nerfstudio.evaluation.metrics import InstanceMetrics
    from instance_nerfstudio.masks.instance_masks import find_instance_masks, read_instance_mask, resize_labels
    from instance_nerfstudio.masks.instances_json import MASKS_FOLDER
    from instance_nerfstudio.pipeline.view_list import read_views

    views = [view for view in read_views(context.output("project") / VIEWS_FILE, options.data) if view.held_out]
    if not views:
        return {}
    metrics, compared = InstanceMetrics(), 0
    for view, path in zip(
        views, find_instance_masks([view.photo for view in views], options.data, required=False), strict=True
    ):
        ours = context.work / MASKS_FOLDER / f"{view.name}.png"
        if path is None or not ours.is_file():
            continue
        ids, truth = read_instance_mask(ours), read_instance_mask(path)
        height, width = ids.shape
        metrics.update(torch.from_numpy(ids), torch.from_numpy(resize_labels(truth, height, width, path)))
        compared += 1
    scores = {name: round(value, 4) for name, value in metrics.compute().items() if name != "instance_miou"}
    return scores if compared and math.isfinite(scores["pq_scene"]) else {}
