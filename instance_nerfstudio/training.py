"""Trains and evaluates a nerfstudio configuration from Python, with one progress bar instead of a log."""

import contextlib
import io
import random
from collections.abc import Iterator
from time import perf_counter

import numpy as np
import torch
from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import Progress

from instance_nerfstudio.instance_trainer import InstanceTrainer, InstanceTrainerConfig


def train_quietly(config: InstanceTrainerConfig, progress: Progress) -> tuple[InstanceTrainer, float]:
    """What `ns-train` does with `config`, without the viewer: trains, saves, and writes config.yml.

    Args:
        config: a complete configuration; data and output folders should be absolute, so that `ns-viewer` finds them.
        progress: gets one task that counts iterations.

    Returns:
        The trainer, its pipeline in evaluation mode, and the seconds of the training loop.
    """
    config.vis = "tensorboard"
    config.logging.local_writer = LocalWriterConfig(enable=False)
    config.set_timestamp()
    writer.EVENT_WRITERS.clear()  # nerfstudio's writers are global: a second training would log into the first run too
    with _hushed_console():
        config.save_config()
        _seed(config.machine.seed)
        trainer = config.setup(local_rank=0, world_size=1)
        assert isinstance(trainer, InstanceTrainer)
        trainer.setup()
        task = progress.add_task("Training", total=config.max_num_iterations)
        trainer.callbacks.append(
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION],
                lambda step: progress.update(task, completed=step + 1),
            )
        )
        start = perf_counter()
        trainer.train()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = perf_counter() - start
    trainer.pipeline.eval()
    return trainer, seconds


def _seed(seed: int) -> None:
    # As nerfstudio.scripts.train does, whose import takes ten seconds: it builds the options of all methods.
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nerfstudio draws from it
    torch.manual_seed(seed)


@contextlib.contextmanager
def _hushed_console() -> Iterator[None]:
    """Keeps nerfstudio's own messages from tearing the progress bar apart."""
    file = CONSOLE.file
    CONSOLE.file = io.StringIO()
    try:
        yield
    finally:
        CONSOLE.file = file
