"""nerfstudio's trainer with checkpoints that are never half-written and a resume that ends where it was meant to."""

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.frozen_field.cached_training import train_on_cache, why_not_cached
from instance_nerfstudio.frozen_field.radiance_checkpoint import adopt_radiance_options, is_resumed
from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModelConfig
from instance_nerfstudio.instance_pipeline import InstancePipeline, InstancePipelineConfig
from instance_nerfstudio.recorded_training import RecordedTraining, why_not_recorded

_NS_VIEWER = "nerfstudio.scripts.viewer.run_viewer"
WHOLE_RUN = 0
"""As `max_steps` of a learning rate schedule: it ends with the run, however long that is."""


@dataclass
class InstanceTrainerConfig(TrainerConfig):
    """Configuration of the instance trainer."""

    _target: type = field(default_factory=lambda: InstanceTrainer)
    """Target class to instantiate."""

    def __setattr__(self, name: str, value: Any) -> None:
        # `ns-viewer` puts its own options in place of the run's, which listen to everyone who can reach the machine.
        if name == "viewer" and _NS_VIEWER in sys.modules and value.websocket_host == "0.0.0.0":
            asked = any(argument.replace("_", "-").startswith("--viewer.websocket-host") for argument in sys.argv)
            value = value if asked else replace(value, websocket_host="127.0.0.1")
        super().__setattr__(name, value)

    def get_checkpoint_dir(self) -> Path:
        # Every command asks for it before it builds the pipeline, and tells the pipeline no more of where the run is.
        cast(InstancePipelineConfig, self.pipeline).run_folder = self.get_base_dir()
        return super().get_checkpoint_dir()


class InstanceTrainer(Trainer):
    """Trains until `max_num_iterations` in all, also when resumed; nerfstudio 1.1.5 would add as many again.

    Before each save the instance probabilities are calibrated, so that the checkpoint is ready to use.
    """

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

    def setup_optimizers(self) -> Optimizers:
        for group in self.config.optimizers.values():
            scheduler = group["scheduler"]
            if scheduler is not None and getattr(scheduler, "max_steps", None) == WHOLE_RUN:
                group["scheduler"] = replace(scheduler, max_steps=self.config.max_num_iterations)
        return super().setup_optimizers()

    def train(self) -> None:
        total = self.config.max_num_iterations
        self.step = max(self._start_step - 1, 0)  # what the last save is named after when nothing is left to do
        self.config.max_num_iterations = max(total - self._start_step, 0)
        try:
            if self._trains_on_cache():
                train_on_cache(self)
            else:
                super().train()
        finally:
            self.config.max_num_iterations = total

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

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        if self.pipeline.model.config.use_instances and self.pipeline.model.instances_active:
            self.pipeline.calibrate()
        folder = self.checkpoint_dir
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".checkpoint-") as partial:
            self.checkpoint_dir = Path(partial)
            try:
                super().save_checkpoint(step)
            finally:
                self.checkpoint_dir = folder
            saved = [folder / path.name for path in Path(partial).iterdir()]
            for path in saved:
                os.replace(Path(partial) / path.name, path)
        if self.config.save_only_latest_checkpoint:
            for path in folder.glob("*.ckpt"):
                if path not in saved:
                    path.unlink()
