"""Trains and evaluates a nerfstudio configuration from Python, with one progress bar instead of a log."""

import random
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
import yaml
from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer
from rich.progress import Progress

from instance_nerfstudio import method_config
from instance_nerfstudio.frozen_field.radiance_checkpoint import adopt_radiance_options
from instance_nerfstudio.hushed_console import hushed_console
from instance_nerfstudio.instance_datamanager import InstanceDataManagerConfig
from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModelConfig
from instance_nerfstudio.instance_trainer import InstanceTrainer, InstanceTrainerConfig
from instance_nerfstudio.run_trainer import RunTrainer, RunTrainerConfig
from rcnn.safe_files import write_atomically


def training_config(
    method: str, data: Path, iterations: int | None = None, device_type: str | None = None
) -> InstanceTrainerConfig:
    """A copy of a method's configuration for one scene; nothing is evaluated or saved on the way.

    Args:
        method: `instance-nerfacto` or `instance-nerfacto-cpu`.
        data: the scene.
        iterations: the method's own number when None.
        device_type: `cuda` or `cpu`; a GPU if there is one when None.
    """
    small = method == "instance-nerfacto-cpu"
    spec = method_config.instance_nerfacto_cpu if small else method_config.instance_nerfacto
    config = deepcopy(cast(InstanceTrainerConfig, spec.config))
    config.machine.device_type = cast(Any, device_type or ("cuda" if torch.cuda.is_available() else "cpu"))
    config.data = config.pipeline.datamanager.data = data
    if iterations is not None:
        config.max_num_iterations = iterations
    config.steps_per_save = config.max_num_iterations
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    return config


def train_quietly(config: RunTrainerConfig, progress: Progress) -> tuple[RunTrainer, float]:
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
    with hushed_console():
        config.save_config()
        _seed(config.machine.seed)
        trainer = config.setup(local_rank=0, world_size=1)
        assert isinstance(trainer, RunTrainer)
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


def train_into(
    folder: Path,
    target: Path,
    config: InstanceTrainerConfig,
    progress: Progress,
    masks_target: Path | None = None,
) -> tuple[InstanceTrainer, float]:
    """Trains in a folder that will be moved, and goes on with what an interrupted call left there.

    Args:
        folder: gets `<method>/run/` with config.yml and checkpoints.
        target: where the folder will lie; config.yml names this place.
        config: complete but for its place.
        progress: gets one task.
        masks_target: where the instance masks will lie, if they move too.

    Returns:
        As `train_quietly`.
    """
    config.output_dir, config.experiment_name, config.timestamp = folder.parent, folder.name, "run"
    run = config.get_base_dir()
    for half in run.glob(".checkpoint-*"):
        shutil.rmtree(half, ignore_errors=True)
    if any(config.get_checkpoint_dir().glob("step-*.ckpt")):
        config.load_dir = config.get_checkpoint_dir()
        model = cast(InstanceNerfactoModelConfig, config.pipeline.model)
        if model.radiance_checkpoint is not None:
            adopt_radiance_options(model, model.radiance_checkpoint)
    trainer, seconds = train_quietly(config, progress)
    assert isinstance(trainer, InstanceTrainer)
    datamanager = cast(InstanceDataManagerConfig, config.pipeline.datamanager)
    moved = replace(config, output_dir=target.parent, experiment_name=target.name, load_dir=None)
    if masks_target is not None:
        moved.pipeline = replace(moved.pipeline, datamanager=replace(datamanager, masks_dir=masks_target))
    write_atomically(run / "config.yml", yaml.dump(moved).encode())
    return trainer, seconds


@torch.no_grad()
def held_out_psnr(pipeline: Any) -> float:
    """Mean PSNR of the held-out views; not a number without any."""
    model, values = pipeline.model, []
    for camera, batch in pipeline.datamanager.fixed_indices_eval_dataloader:
        rendered = model.render(camera)["rgb"]
        truth = model.renderer_rgb.blend_background(batch["image"].to(rendered.device))
        values.append(-10 * torch.log10((rendered - truth).square().mean()).item())
    return float(np.mean(values)) if values else float("nan")


def _seed(seed: int) -> None:
    # As nerfstudio.scripts.train does, whose import takes ten seconds: it builds the options of all methods.
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nerfstudio draws from it
    torch.manual_seed(seed)
