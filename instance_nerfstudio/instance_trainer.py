"""Trains `instance-nerfacto`: iterations recorded on a GPU, the head alone from cached samples of a frozen field."""

from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from instance_nerfstudio.compile_ahead import compile_ahead
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.frozen_field.cached_training import train_on_cache, why_not_cached
from instance_nerfstudio.frozen_field.radiance_checkpoint import adopt_radiance_options, is_resumed
from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModelConfig
from instance_nerfstudio.instance_pipeline import InstancePipeline, InstancePipelineConfig
from instance_nerfstudio.recorded_training import RecordedTraining, why_not_recorded
from instance_nerfstudio.run_trainer import RunTrainer, RunTrainerConfig


@dataclass
class InstanceTrainerConfig(RunTrainerConfig):
    """Configuration of the instance trainer."""

    _target: type = field(default_factory=lambda: InstanceTrainer)
    """Target class to instantiate."""


class InstanceTrainer(RunTrainer):
    """Chooses the fastest way there is to train a NeRF with instances."""

    pipeline: InstancePipeline
    _recorded: RecordedTraining | None = None
    _records: bool | None = None

    def __init__(self, config: TrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        if config.machine.device_type == "cuda" and not torch.cuda.is_available():
            raise InputError(
                "no CUDA device on this machine; train `instance-nerfacto-cpu`, or add --machine.device-type cpu"
            )
        model = cast(InstanceNerfactoModelConfig, config.pipeline.model)
        if model.radiance_checkpoint is not None and not is_resumed(config):
            adopt_radiance_options(model, model.radiance_checkpoint)
            if local_rank == 0:
                config.save_config()  # nerfstudio saved it before these options were known
        super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        compile_ahead(cast(InstancePipelineConfig, self.config.pipeline).model, torch.device(self.device))
        super().setup(test_mode)

    def train_the_rest(self) -> None:
        if self._trains_on_cache():
            train_on_cache(self)
        else:
            super().train_the_rest()

    def train_iteration(self, step: int) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        if self._records is None:
            self._records = self._can_record()
            self._recorded = RecordedTraining(self) if self._records else None
        if self._recorded is not None:
            return self._recorded.train_iteration(step)
        return super().train_iteration(step)

    def _can_record(self) -> bool:
        """On a GPU the host is the bottleneck; says so where something keeps iterations from being recorded."""
        if self.pipeline.model.device.type != "cuda" or self.pipeline.model.frozen:
            return False
        reason = why_not_recorded(self)
        if reason is not None:
            CONSOLE.print(f"Iterations are not recorded as CUDA graphs, and are slower for it: {reason}.")
        return reason is None

    def _trains_on_cache(self) -> bool:
        """Over a frozen radiance field samples are constants; says so where something keeps them from being cached."""
        if not self.pipeline.model.frozen or self.config.max_num_iterations == 0:
            return False
        reason = why_not_cached(self)
        if reason is not None:
            CONSOLE.print(f"Every iteration marches its rays anew: {reason}.")
        return reason is None
