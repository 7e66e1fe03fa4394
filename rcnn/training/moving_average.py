"""The moving average of the weights that a run validates and saves."""

from __future__ import annotations

import itertools

import lightning as L
import torch
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(WeightAveraging):
    """Exponential moving average of weights and buffers after every step, on the device that trains.

    Lightning keeps it on the CPU unless told otherwise, and copies all weights there in every step.
    """

    def __init__(self, decay: float) -> None:
        """
        Args:
            decay: share of the average that a step keeps, once there were many steps.
        """
        super().__init__()
        self.decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._average_model = AveragedWeights(pl_module, self.decay, trainer.strategy.root_device)


class AveragedWeights(AveragedModel):
    """Updated in a few launches that the host doesn't wait for."""

    def __init__(self, model: nn.Module, decay: float, device: torch.device) -> None:
        """
        Args:
            model: whose weights are averaged; it may be on another device yet.
            decay: as in `MovingAverage`.
            device: of the average.
        """
        super().__init__(model, device, use_buffers=True)
        # The host decides by it.
        self.n_averaged = self.n_averaged.cpu()
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averages, values = (list(itertools.chain(part.parameters(), part.buffers())) for part in (self.module, model))
        keep = moving_average_factor(self.decay, int(self.n_averaged))
        pairs = list(zip(averages, values, strict=True))
        numbers = [(average, value) for average, value in pairs if average.is_floating_point()]
        torch._foreach_lerp_([average for average, _ in numbers], [value for _, value in numbers], 1 - keep)
        # Counters have no average.
        counters = [(average, value) for average, value in pairs if not average.is_floating_point()]
        if counters:
            torch._foreach_copy_([average for average, _ in counters], [value for _, value in counters])
        self.n_averaged += 1


def moving_average_factor(decay: float, updates: int) -> float:
    """Share of the average that is kept: less while there are few updates, lest a short run is judged by the weights
    that it began with; nothing at the first."""
    return 0.0 if updates == 0 else min(decay, (1 + updates) / (10 + updates))
