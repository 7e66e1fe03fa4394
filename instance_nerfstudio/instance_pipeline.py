"""The pipeline of `instance-nerfacto`."""

from dataclasses import dataclass, field
from typing import Any

from instance_nerfstudio.export.scene_survey import SceneSurvey
from instance_nerfstudio.frozen_field.cached_training import CachedTrainingConfig
from instance_nerfstudio.instance_datamanager import InstanceDataManager, InstanceDataManagerConfig
from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel, InstanceNerfactoModelConfig
from instance_nerfstudio.run_pipeline import RunPipeline, RunPipelineConfig


@dataclass
class InstancePipelineConfig(RunPipelineConfig):
    """Configuration of the instance pipeline."""

    _target: type = field(default_factory=lambda: InstancePipeline)
    """Target class to instantiate."""
    datamanager: InstanceDataManagerConfig = field(default_factory=InstanceDataManagerConfig)
    """Specifies the data manager."""
    model: InstanceNerfactoModelConfig = field(default_factory=InstanceNerfactoModelConfig)
    """Specifies the model."""
    cached_training: CachedTrainingConfig = field(default_factory=CachedTrainingConfig)
    """Training of the head alone over a frozen radiance field."""


class InstancePipeline(RunPipeline):
    """Rays of a scene with masks, and a NeRF with an instance head."""

    config: InstancePipelineConfig
    datamanager: InstanceDataManager

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.test_mode != "val":  # weights rest
            self.model.scene_survey = SceneSurvey(self.model, self.datamanager.train_dataset.cameras)

    @property
    def model(self) -> InstanceNerfactoModel:
        return super().model  # type: ignore[return-value]
