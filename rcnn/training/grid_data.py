"""Training and validation scenes for Lightning."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from rcnn.data import GridDataset, SceneBatch
from rcnn.training.step_batches import StepBatches
from rcnn.worker_pool import end_with_parent, preloading_context

# Half as many bytes for workers to write, to copy and to send to the GPU. Colours are stored in float16; opacities are
# rounded by 2^-12 at most, a sixteenth of what bfloat16, in which the first layer sees them on GPUs, may round them.
_collate_halves = partial(SceneBatch.collate, dtype=torch.float16)
# For every shape that it has not seen, cuDNN plans each convolution anew, while the GPU waits. Rounded, they are few.
_collate_halves_of_few_shapes = partial(_collate_halves, multiple=16)


class GridData(L.LightningDataModule):
    """Batches of training scenes by step, and every validation scene once over all processes."""

    def __init__(
        self, training: GridDataset, validation: GridDataset, batch_size: int, steps: int, seed: int, num_workers: int
    ) -> None:
        """
        Args:
            training: scenes, with augmentation.
            validation: scenes as they are.
            batch_size: training scenes of a step, of all processes together.
            steps: of the whole run.
            seed: of the order.
            num_workers: processes that load training scenes, for each training process.
        """
        super().__init__()
        self.training, self.validation = training, validation
        self.batch_size, self.steps, self.seed, self.num_workers = batch_size, steps, seed, num_workers

    def train_dataloader(self) -> Any:
        trainer = self._trainer()
        batches = StepBatches(
            len(self.training), self.batch_size, self.steps, self.seed, trainer.global_step, trainer.global_rank,
            trainer.world_size,
        )  # fmt: skip
        collate = _collate_halves_of_few_shapes if self._on_gpu() else _collate_halves
        return DataLoader(
            self.training, batch_sampler=batches, num_workers=self.num_workers, collate_fn=collate,
            pin_memory=self._on_gpu(), persistent_workers=self.num_workers > 0,
            multiprocessing_context=preloading_context("rcnn.data") if self.num_workers else None,
            worker_init_fn=end_with_parent,
        )  # fmt: skip

    def val_dataloader(self) -> Any:
        trainer = self._trainer()
        # A process without a scene would not take part in what all do together; scenes that come twice count once.
        mine = np.arange(trainer.global_rank, max(len(self.validation), trainer.world_size), trainer.world_size)
        mine %= len(self.validation)
        # One by one: validation grids of different sizes need no padding, and take as long.
        return DataLoader(
            Subset(self.validation, mine.tolist()), collate_fn=SceneBatch.collate, pin_memory=self._on_gpu()
        )

    def transfer_batch_to_device(self, batch: SceneBatch, device: torch.device, dataloader_idx: int) -> SceneBatch:
        # Lightning would let the host wait for the copy, and so for all that the GPU has yet to do before it.
        return batch.to(device, non_blocking=True)

    def _trainer(self) -> L.Trainer:
        assert self.trainer is not None
        return self.trainer

    def _on_gpu(self) -> bool:
        return self._trainer().strategy.root_device.type == "cuda"
