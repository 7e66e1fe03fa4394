"""A line for each validation where there is no terminal to draw a progress bar in."""

from __future__ import annotations

import time

import lightning as L
from rich.console import Console

_SHOWN = ("train/loss", "val/R50", "val/AP25", "val/AP50", "val/maskAP25", "val/maskAP50", "val/maskmAP50")


class PrintedScores(L.Callback):
    """Prints step, time, loss and scores."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = [f"{name} {values[name]:.4f}" for name in _SHOWN if name in values]
        minutes = (time.monotonic() - self._begin) / 60
        line = f"step {trainer.global_step} of {trainer.max_steps}, {minutes:.1f} min: {', '.join(shown)}"
        Console(stderr=True).print(line, highlight=False, soft_wrap=True)
