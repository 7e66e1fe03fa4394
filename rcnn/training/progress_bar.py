"""Lightning's progress bar, which the GPU does not have to wait for."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Shows the values of the steps that are logged: the host waits for the GPU to fetch them."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.validating or trainer.global_step % log_every == 0:
            self._shown = super().get_metrics(trainer, pl_module)
        return self._shown
