"""The pipeline of `instance-splatfacto`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.run_pipeline import RunPipeline, RunPipelineConfig
from instance_nerfstudio.splats.gsplat_ready import require_gsplat
from instance_nerfstudio.splats.instance_splatfacto import InstanceSplatfactoModel, InstanceSplatfactoModelConfig
from instance_nerfstudio.splats.splat_datamanager import SplatDataManager, SplatDataManagerConfig

LESSON_FOLDER = "teacher"


@dataclass
class SplatPipelineConfig(RunPipelineConfig):
    """Configuration of the splats' pipeline."""

    _target: type = field(default_factory=lambda: SplatPipeline)
    """Target class to instantiate."""
    datamanager: SplatDataManagerConfig = field(default_factory=SplatDataManagerConfig)
    """Specifies the data manager."""
    model: InstanceSplatfactoModelConfig = field(default_factory=InstanceSplatfactoModelConfig)
    """Specifies the model."""
    teacher: Path | None = None
    """config.yml of a NeRF of the same scene: its surfaces are where Gaussians start, and if it is an instance-nerfacto
    run, its masks of every training view are what their instances learn."""
    teacher_views: int = 120
    """Views between the photos, rendered by the teacher, that splats learn from like photos, and from their depths:
    where few photos look, splats are floaters and smears without them. 0 for a teacher that is worse than splats."""


class SplatPipeline(RunPipeline):
    """Photos of a scene with masks, and Gaussians with instances."""

    config: SplatPipelineConfig
    datamanager: SplatDataManager

    def __init__(self, config: SplatPipelineConfig, device: str, test_mode: Any = "val", *args: Any, **kwargs: Any):
        if config.model.rasterizer == "gsplat":
            require_gsplat()  # before minutes of reading
        if config.teacher_views < 0:
            raise InputError(f"--pipeline.teacher-views {config.teacher_views}: must be 0 or more")
        if config.teacher is not None and test_mode == "val":
            if config.run_folder is None:
                raise InputError("--pipeline.teacher: is for ns-train")
            from instance_nerfstudio.splats.teacher import learn_from  # with all that exports

            lesson = learn_from(
                config.teacher, config.run_folder / LESSON_FOLDER, config.model.use_instances, config.teacher_views
            )
            config.datamanager.start_points, config.datamanager.teacher_views = lesson.points, lesson.views
            config.datamanager.masks_dir = lesson.masks or config.datamanager.masks_dir
        super().__init__(config, device, test_mode, *args, **kwargs)

    @property
    def model(self) -> InstanceSplatfactoModel:
        return cast(InstanceSplatfactoModel, super().model)
