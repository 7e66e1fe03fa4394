"""`refine-1`, `refine-2`, ...: the field's own masks, drawn to edges, as the next training's masks."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.fingerprints import FileSet
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.stage import Stage, StageContext
from instance_nerfstudio.pipeline.stages.train import agreement_text, train_head


def refine_stages(options: SceneOptions) -> list[Stage]:
    """A stage per round. A round that brings nothing is not kept, and ends the later ones."""
    refine = options.refine
    if refine.refine_rounds < 0:
        raise InputError(f"--refine-rounds {refine.refine_rounds}: must be at least 0")
    weights = {"cascadepsp_folder": FileSet(refine.cascadepsp_folder)} if refine.cascadepsp_folder else {}
    return [
        Stage(
            name=f"refine-{number}",
            run=partial(_refine, options, number),
            after=("radiance", "segment", "match", "train" if number == 1 else f"refine-{number - 1}"),
            options={"refiner": refine.refiner, "iterations": options.train.iterations},
            inputs=weights,
            products=("**/step-*.ckpt", "**/dataparser_transforms.json", "instance_masks/*"),
            resumable=True,
        )
        for number in range(1, refine.refine_rounds + 1)
    ]


def final_field(context: StageContext) -> tuple[Path, Path]:
    """config.yml of the field after the last round that was kept, and the masks that it learnt from."""
    rounds = sorted((name for name in context.records if name.startswith("refine-")), key=lambda name: int(name[7:]))
    kept = [name for name in rounds if context.result(name)["kept"]]
    stage = kept[-1] if kept else "train"
    masks = context.output(stage if kept else "match") / "instance_masks"
    return context.output(stage) / context.result(stage)["config"], masks


def _refine(options: SceneOptions, number: int, context: StageContext) -> dict[str, Any]:
    before = context.result("train" if number == 1 else f"refine-{number - 1}")
    if not before.get("kept", True):
        return {"kept": False, "summary": "left out: the round before brought nothing"}
    if before["agreement"] is None:
        return {"kept": False, "summary": "left out: no held-out view has segments that could tell whether it helps"}

    from instance_nerfstudio.lift.refine import keep_round
    from instance_nerfstudio.masks.instances_json import INSTANCES_FILE, MASKS_FOLDER

    masks = context.work / MASKS_FOLDER
    _write_masks(options, context, masks)
    shutil.copyfile(context.output("match") / INSTANCES_FILE, masks / INSTANCES_FILE)
    result = train_head(options, context, masks, context.target / MASKS_FOLDER)
    kept = result["agreement"] is not None and keep_round(before["agreement"], result["agreement"])
    verdict = "kept" if kept else "not kept"
    return {**result, "kept": kept, "summary": f"{verdict}{agreement_text(result)}, {before['agreement']:.3f} before"}


def _write_masks(options: SceneOptions, context: StageContext, folder: Path) -> None:
    """The refined masks of the training views that are not there yet."""
    import numpy as np

    from instance_nerfstudio.export.views import dataset_views, photos_root
    from instance_nerfstudio.lift.refine import refine_view
    from instance_nerfstudio.masks.instance_masks import resize_labels, write_instance_mask
    from instance_nerfstudio.pipeline.open_field import open_field
    from instance_nerfstudio.segments.photos import Photo
    from instance_nerfstudio.segments.segments_folder import read_segments

    config, masks = final_field(context)
    pipeline = open_field(config, options.data, masks)
    refiner = None
    if options.refine.refiner == "cascadepsp":
        from instance_nerfstudio.lift.cascade_psp import CascadePSP

        refiner = CascadePSP(str(pipeline.device), options.refine.cascadepsp_folder)
    segments = read_segments(context.output("segment"))
    root = photos_root(pipeline.datamanager)
    views = dataset_views(pipeline.datamanager, pipeline.model.camera_optimizer, "train")
    for view in context.progress.track(views, description="Refining masks"):
        path, photo = folder / f"{view.name}.png", Photo(root / view.image_name, view.image_name)
        if path.is_file():
            continue
        outputs = pipeline.model.render(view.camera.to(pipeline.device))
        ids = outputs["instance_ids"][..., 0].cpu().numpy().astype(np.int32)
        confidence = outputs["instance_confidence"][..., 0].cpu().numpy().astype(np.float32)
        picture = photo.rgb()
        height, width = picture.shape[:2]
        ids, confidence = (resize_labels(part, height, width, photo.path) for part in (ids, confidence))
        found = None if segments.is_skipped(photo.path) else segments.view(photo.path)
        write_instance_mask(path, refine_view(picture, ids, confidence, found, refiner=refiner))
