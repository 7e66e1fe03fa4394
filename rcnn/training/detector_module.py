"""What the training of both detectors has in common: optimizer, logs, scores and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.data import SceneBatch
from rcnn.visualization import SceneContents, SheetConfig, sheet_tensor


@dataclass(frozen=True)
class OptimizationConfig:
    """AdamW with a one-cycle schedule, as NeRF-RPN is trained."""

    lr: float = 3e-4
    """Highest learning rate of the cycle."""
    weight_decay: float = 1e-3
    """Of weights; biases and norms are not decayed."""
    warmup: float = 0.3
    """Share of the steps in which the rate rises."""
    gradient_clip: float = 0.1
    """Largest norm of all gradients together."""
    ema_decay: float = 0.999
    """Of the moving average of the weights, which is what is validated and saved; 0 for the weights themselves."""

    def __post_init__(self) -> None:
        if not (self.lr > 0 and 0 < self.warmup < 1 and 0 <= self.ema_decay < 1 and self.gradient_clip > 0):
            raise ValueError("lr and gradient_clip must be positive, warmup and ema_decay less than 1")


class Scores(Protocol):
    """Of a validation."""

    def summary(self) -> dict[str, float]:
        """Figures for loggers."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        ...


class DetectorModule(L.LightningModule):
    """A detector with its optimizer and scores. One step is one batch."""

    judged_by: str
    """The score of the best checkpoint."""

    def __init__(self, model: nn.Module, optimization: OptimizationConfig, steps: int, pictures: int) -> None:
        """
        Args:
            model: the detector.
            optimization: of its weights.
            steps: of the whole run, for the schedule.
            pictures: validation scenes that are drawn for TensorBoard.
        """
        super().__init__()
        self.model = model
        self.optimization = optimization
        self.steps = steps
        self.pictures = pictures
        self.scores: Scores | None = None
        """Of the last validation."""

    def losses(self, batch: SceneBatch) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms by name, whose sum is the objective."""
        raise NotImplementedError

    def compute_scores(self) -> Scores:
        """Those of the validation scenes of all processes."""
        raise NotImplementedError

    def training_step(self, batch: SceneBatch, _: int) -> Float[Tensor, ""]:
        losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        # Lightning does work, on the GPU too, for every value that it is given.
        log_every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.global_step + 1) % log_every == 0:
            values = {f"train/{name}": value.detach() for name, value in losses.items()}
            self.log_dict(values, batch_size=len(batch))
            self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
        return total

    def draws(self, index: int) -> bool:
        """Whether a validation batch is to be drawn."""
        return index < self.pictures and self.global_rank == 0

    def draw(self, batch: SceneBatch, **found: Any) -> None:
        """Shows the first scene of a batch, with what `SceneContents.of` takes, in TensorBoard."""
        x, y, z = batch.grids.extents[0]
        features = batch.grids.features[0, :, :x, :y, :z]
        contents = SceneContents.of(features, truth=batch.truth()[0][0], **found)
        picture = sheet_tensor(contents, batch.names[0], SheetConfig(view_size=320))
        for logger in self.loggers:
            logger.experiment.add_image(f"val/{batch.names[0]}", picture, self.global_step)  # type: ignore[attr-defined]

    def on_validation_epoch_end(self) -> None:
        self.scores = self.compute_scores()
        # Without a single object there is no score, but the callback that keeps the best detector needs one.
        for name, value in {self.judged_by: 0.0, **self.scores.summary()}.items():
            self.log(f"val/{name}", float(value), prog_bar=name == self.judged_by)  # the same on all processes

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["scores"] = {} if self.scores is None else self.scores.to_json()

    def configure_optimizers(self) -> Any:
        """AdamW in two groups and OneCycleLR, stepped with every batch."""
        learning = [p for p in self.model.parameters() if p.requires_grad]
        decayed = [p for p in learning if p.ndim > 1]
        others = [p for p in learning if p.ndim <= 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        options = self.optimization
        optimizer = torch.optim.AdamW(groups, options.lr, weight_decay=options.weight_decay)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, options.lr, total_steps=self.steps, pct_start=options.warmup
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
