"""`train`: the instance head over the frozen radiance field, on the matched masks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.stage import Stage, StageContext
from instance_nerfstudio.pipeline.stages.radiance import radiance_config


def train_stage(options: SceneOptions) -> Stage:
    """Trains the head. It takes seconds once samples are cached, so that a killed run begins it anew."""
    return Stage(
        name="train",
        run=partial(_train, options),
        after=("radiance", "segment", "match"),
        options={"iterations": options.train.iterations},
        products=("**/step-*.ckpt", "**/dataparser_transforms.json"),
    )


def _train(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    from instance_nerfstudio.masks.instances_json import MASKS_FOLDER

    result = train_head(options, context, context.output("match") / MASKS_FOLDER)
    return {**result, "summary": f"{result['instances']} instances{agreement_text(result)}"}


def agreement_text(result: dict[str, Any]) -> str:
    """The score in a stage's summary."""
    agreement = result["agreement"]
    return "" if agreement is None else f", PQ {agreement:.3f} with the segments of held-out views"


def train_head(
    options: SceneOptions, context: StageContext, masks: Path, masks_target: Path | None = None
) -> dict[str, Any]:
    """Trains the head on a folder of masks and scores it by the segments of the held-out views.

    Args:
        options: of the scene.
        context: of the stage.
        masks: the folder.
        masks_target: where it will lie when the stage is done, if elsewhere.
    """
    from dataclasses import replace

    from instance_nerfstudio.pipeline.held_out import held_out_agreement
    from instance_nerfstudio.segments.segments_folder import read_segments
    from instance_nerfstudio.training import train_into, training_config

    config = training_config(context.result("radiance")["method"], options.data, options.train.iterations)
    datamanager: Any = config.pipeline.datamanager
    datamanager.masks_dir = masks
    config.pipeline.model = replace(config.pipeline.model, radiance_checkpoint=radiance_config(context))
    trainer, seconds = train_into(context.work, context.target, config, context.progress, masks_target)
    segments = read_segments(context.output("segment"))
    return {
        "config": (trainer.base_dir.relative_to(context.work) / "config.yml").as_posix(),
        "instances": len(trainer.pipeline.model.instance_head.instance_ids) - 1,
        "agreement": held_out_agreement(trainer.pipeline, segments, context.progress),
        "training_seconds": round(seconds, 2),
    }
