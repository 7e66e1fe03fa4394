"""Trains `instance-splatfacto`."""

from dataclasses import dataclass, field

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import Progress

from instance_nerfstudio.run_trainer import RunTrainer, RunTrainerConfig
from instance_nerfstudio.splats.lift import held_out_miou, lift, lifted_instead
from instance_nerfstudio.splats.splat_pipeline import SplatPipeline


@dataclass
class SplatTrainerConfig(RunTrainerConfig):
    """Configuration of the splats' trainer."""

    _target: type = field(default_factory=lambda: SplatTrainer)
    """Target class to instantiate."""


class SplatTrainer(RunTrainer):
    """Trains Gaussians and their instances together, and says at the end if lifting them would have been better."""

    pipeline: SplatPipeline

    def train_the_rest(self) -> None:
        super().train_the_rest()
        if self.pipeline.model.instances_active:
            self._compare_with_lifting()

    @torch.no_grad()
    def _compare_with_lifting(self) -> None:
        pipeline = self.pipeline
        training = pipeline.training
        pipeline.eval()
        trained = held_out_miou(pipeline)
        if trained is not None:
            with Progress(disable=True) as progress:
                lifted = lift(pipeline, progress)
            with lifted_instead(pipeline.model, lifted):
                without = held_out_miou(pipeline)
            assert without is not None
            scores = (
                f"Instance mIoU of the held-out views: {trained:.3f} trained, {without:.3f} lifted without training"
            )
            if without > trained:
                config = self.base_dir / "config.yml"
                scores += f". To have the better ones: instance-nerf lift-splats --load-config {config}"
            CONSOLE.print(scores, soft_wrap=True)
        pipeline.train(training)
