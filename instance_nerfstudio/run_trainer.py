"""nerfstudio's trainer with checkpoints that are never half-written and a resume that ends where it was meant to."""

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.rich_utils import CONSOLE

from instance_nerfstudio.beside import beside
from instance_nerfstudio.image_metrics import load_torchmetrics
from instance_nerfstudio.quiet_logs import QuietOptimizers, quiet_event_writers
from instance_nerfstudio.run_pipeline import RunPipeline, RunPipelineConfig

_NS_VIEWER = "nerfstudio.scripts.viewer.run_viewer"
WHOLE_RUN = 0
"""As `max_steps` of a learning rate schedule: it ends with the run, however long that is."""


@dataclass
class RunTrainerConfig(TrainerConfig):
    """Configuration of a trainer of this package."""

    _target: type = field(default_factory=lambda: RunTrainer)
    """Target class to instantiate."""

    def __setattr__(self, name: str, value: Any) -> None:
        # `ns-viewer` puts its own options in place of the run's, which listen to everyone who can reach the machine.
        if name == "viewer" and _NS_VIEWER in sys.modules and value.websocket_host == "0.0.0.0":
            asked = any(argument.replace("_", "-").startswith("--viewer.websocket-host") for argument in sys.argv)
            value = value if asked else replace(value, websocket_host="127.0.0.1")
        super().__setattr__(name, value)

    def get_checkpoint_dir(self) -> Path:
        # Every command asks for it before it builds the pipeline, and tells the pipeline no more of where the run is.
        cast(RunPipelineConfig, self.pipeline).run_folder = self.get_base_dir()
        return super().get_checkpoint_dir()


class RunTrainer(Trainer):
    """Trains until `max_num_iterations` in all, also when resumed; nerfstudio 1.1.5 would add as many again.

    Before each save the instance probabilities are calibrated, so that the checkpoint is ready to use.
    """

    pipeline: RunPipeline

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        super().setup(test_mode)
        quiet_event_writers(self.config.logging.steps_per_log)

    def setup_optimizers(self) -> Optimizers:
        for group in self.config.optimizers.values():
            scheduler = group["scheduler"]
            if scheduler is not None and getattr(scheduler, "max_steps", None) == WHOLE_RUN:
                group["scheduler"] = replace(scheduler, max_steps=self.config.max_num_iterations)
        groups = self.pipeline.get_param_groups()
        return QuietOptimizers(self.config.optimizers.copy(), groups, self.config.logging.steps_per_log)

    def train(self) -> None:
        total = self.config.max_num_iterations
        self._say_if_instances_come_late()
        self.step = max(self._start_step - 1, 0)  # what the last save is named after when nothing is left to do
        self.config.max_num_iterations = max(total - self._start_step, 0)
        if any(
            (self.config.steps_per_eval_batch, self.config.steps_per_eval_image, self.config.steps_per_eval_all_images)
        ):
            beside(load_torchmetrics)  # before it is waited for
        try:
            self.train_the_rest()
        finally:
            self.config.max_num_iterations = total

    def train_the_rest(self) -> None:
        """Trains for `max_num_iterations` from where the run stands."""
        super().train()

    def _say_if_instances_come_late(self) -> None:
        """A run made short by `--max-num-iterations` alone leaves instances little time, at falling learning rates."""
        model, total = self.pipeline.model, self.config.max_num_iterations
        start = model.options.instance_start_step
        if model.options.use_instances and not model.frozen and 2 * start > total:
            CONSOLE.print(
                f"Instances train from step {start} of {total} on; "
                f"--pipeline.model.instance-start-step {total // 5} gives them time."
            )

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        if self.pipeline.model.options.use_instances and self.pipeline.model.instances_active:
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
