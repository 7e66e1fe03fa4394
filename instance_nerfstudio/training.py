"""Trains and evaluates a nerfstudio configuration from Python, with one progress bar instead of a log."""

import contextlib
import io
import random
from collections.abc import Iterator
from time import perf_counter

import numpy as np
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.data.scene_box import SceneBox
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


def warm_up(config: InstanceTrainerConfig) -> None:
    """Imports, compiles and loads what training and rendering with `config` need, while something else is done.

    Nothing of it is kept but what compilers and drivers remember.
    """
    device, rays = torch.device(config.machine.device_type), 1024
    with _hushed_console():
        model = config.pipeline.model.setup(
            scene_box=SceneBox(aabb=torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])),
            num_train_data=1,
            metadata={"dataparser_transform": torch.eye(4)[:3], "dataparser_scale": 1.0},
            device=device,
        ).to(device)
    model.instances_active = model.config.use_instances
    bundle = RayBundle(
        origins=torch.zeros(rays, 3, device=device),
        directions=torch.nn.functional.normalize(torch.randn(rays, 3, device=device), dim=-1),
        pixel_area=torch.ones(rays, 1, device=device),
        camera_indices=torch.zeros(rays, 1, dtype=torch.long, device=device),
    )
    labels = torch.zeros(rays, 1, dtype=torch.int32, device=device)
    batch = {"image": torch.rand(rays, 3, device=device), "instances": labels}
    for _ in range(2):
        outputs = model(bundle)
        losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
        torch.stack(list(losses.values())).sum().backward()
        model.proposal_sampler._step = 10  # the proposal networks rest in the second round
    model.eval()
    with torch.no_grad():
        model(bundle)
    if device.type == "cuda":
        torch.cuda.synchronize()


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
