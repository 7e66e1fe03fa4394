"""Which scenes each training step sees: a function of the step, so that a run resumes anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from rcnn.data import SampleKey


class StepBatches(Sampler[list[SampleKey]]):
    """Batches of one process for every step of a training run.

    The scenes of all epochs, each in an order of its own, form one sequence that batches cut without regard to where
    epochs end: no scene is left out or doubled, also where there are fewer scenes than a batch takes. A process takes
    its part of each batch, so any number of processes sees the same batches.
    """

    def __init__(
        self,
        scenes: int,
        batch_size: int,
        steps: int,
        seed: int = 0,
        first: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            scenes: of the data set.
            batch_size: scenes of a step, of all processes together.
            steps: of the whole run.
            seed: of the orders.
            first: step to begin with, after an interruption.
            rank: of this process.
            world_size: processes that share a batch.

        Raises:
            ValueError: no scenes or steps, or a batch that the processes cannot share evenly.
        """
        if scenes < 1 or steps < 1 or not 0 <= first <= steps or not 0 <= rank < world_size:
            raise ValueError(f"no steps {first} to {steps} over {scenes} scenes for rank {rank} of {world_size}")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} scenes cannot be shared by {world_size} processes")
        self.scenes, self.steps, self.seed, self.first = scenes, steps, seed, first
        self.batch_size, self.share, self.rank = batch_size, batch_size // world_size, rank

    def __len__(self) -> int:
        """Steps of the whole run, not only those to come: Lightning counts on from where it was."""
        return self.steps

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, order = -1, np.zeros(0, np.int64)
        for step in range(self.first, self.steps):
            keys = []
            begin = step * self.batch_size + self.rank * self.share
            for place in range(begin, begin + self.share):
                if place // self.scenes != epoch:
                    epoch = place // self.scenes
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.scenes)
                keys.append(SampleKey(epoch, int(order[place % self.scenes])))
            yield keys
