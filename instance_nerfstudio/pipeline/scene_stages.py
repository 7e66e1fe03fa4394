"""From photos to consistent masks: the stages of a scene, in order."""

from __future__ import annotations

from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.stage import Stage
from instance_nerfstudio.pipeline.stages.density import density_stage
from instance_nerfstudio.pipeline.stages.detect import detect_stage
from instance_nerfstudio.pipeline.stages.export import export_stage
from instance_nerfstudio.pipeline.stages.match import match_stage
from instance_nerfstudio.pipeline.stages.project import project_stage
from instance_nerfstudio.pipeline.stages.radiance import radiance_stage
from instance_nerfstudio.pipeline.stages.refine import refine_stages
from instance_nerfstudio.pipeline.stages.report import report_stage
from instance_nerfstudio.pipeline.stages.segment import segment_stage
from instance_nerfstudio.pipeline.stages.train import train_stage


def scene_stages(options: SceneOptions) -> list[Stage]:
    """The stages with these options; each comes after those that it reads."""
    return [
        radiance_stage(options),
        density_stage(options),
        detect_stage(options),
        segment_stage(options),
        project_stage(options),
        match_stage(options),
        train_stage(options),
        *refine_stages(options),
        export_stage(options),
        report_stage(options),
    ]
