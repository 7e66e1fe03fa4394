"""`instance-nerf demo`: from nothing to a room whose objects keep their identity from every camera."""

import gc
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from instance_nerfstudio.beside import beside
from instance_nerfstudio.compat import put_off_compilation
from instance_nerfstudio.demo_room import RoomBuild, demo_room
from instance_nerfstudio.errors import InputError
from rcnn.safe_files import write_atomically

# nerfstudio takes seconds to load: that happens while the room is built.
if TYPE_CHECKING:
    from instance_nerfstudio.instance_datamanager import InstanceDataManagerConfig
    from instance_nerfstudio.instance_trainer import InstanceTrainerConfig

_PATIENCE = 30.0
"""Seconds that the process has to compile the last kernels."""
_SCORES = {
    "psnr": "PSNR (dB)",
    "instance_miou": "instance mIoU",
    "pq": "PQ",
    "pq_scene": "PQ^scene",
}


@dataclass(frozen=True)
class DemoPreset:
    """What the demo trains on one kind of machine."""

    config: "InstanceTrainerConfig"
    """The method."""
    iterations: int
    """Training iterations."""
    rays_per_batch: int
    """Training rays per iteration."""
    learning_rate: float
    """Of the field, its proposal networks and the instance head, at the start."""
    instance_start_step: int
    """Iteration from which the instance head trains."""
    export_cameras: Literal["eval", "all"]
    """Cameras whose masks are exported: rendering is slow without a GPU."""


def demo_preset() -> DemoPreset:
    """The preset for this machine: on a CUDA device masks of all views."""
    from instance_nerfstudio import method_config

    if torch.cuda.is_available():
        return DemoPreset(
            cast("InstanceTrainerConfig", method_config.instance_nerfacto.config),
            iterations=2000,
            rays_per_batch=4096,
            learning_rate=2e-2,
            instance_start_step=450,
            export_cameras="all",
        )
    return DemoPreset(
        cast("InstanceTrainerConfig", method_config.instance_nerfacto_cpu.config),
        iterations=2000,
        rays_per_batch=1024,
        learning_rate=1e-2,
        instance_start_step=300,
        export_cameras="eval",
    )


def run_demo(
    output_dir: Path, compiling: BaseProcess | None = None, building: RoomBuild | None = None
) -> dict[str, float]:
    """Builds the room, trains, evaluates, exports masks, and writes `contact_sheet.png` and `metrics.json`.

    Args:
        output_dir: gets everything. What an earlier demo left there is replaced, except its room if it is the same.
        compiling: a process that compiles the kernels of the training (`compile_process.start_compiling`).
        building: the room, if it has been begun; another is begun if it does not suit this machine.

    Returns:
        What `metrics.json` holds: scores of the held-out views and seconds of each stage.
    """
    console = Console()
    output_dir = output_dir.resolve()
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output_dir}: can't be created ({error.strerror}); choose another --output-dir") from error
    seconds: dict[str, float] = {}

    start = perf_counter()
    ready = beside(_prepare)
    with _progress(console) as progress:
        room = _room(output_dir / "room", building, progress)
    preset = ready.result()
    if compiling is not None:
        compiling.join(_PATIENCE)  # what is missing then is compiled when it is launched
    seconds["room"] = perf_counter() - start

    from instance_nerfstudio.contact_sheet import write_contact_sheet
    from instance_nerfstudio.export.atomic_folder import atomic_folder
    from instance_nerfstudio.export.export_masks import EXPORT_ENTRIES, ExportMasks
    from instance_nerfstudio.training import train_quietly

    config = deepcopy(preset.config)
    config.output_dir, config.experiment_name = output_dir, "runs"
    config.data = config.pipeline.datamanager.data = room
    config.max_num_iterations = config.steps_per_save = preset.iterations
    config.steps_per_eval_batch = config.steps_per_eval_image = preset.iterations  # all views are scored afterwards
    datamanager = cast("InstanceDataManagerConfig", config.pipeline.datamanager)
    datamanager.train_num_rays_per_batch = preset.rays_per_batch
    config.pipeline.model = replace(config.pipeline.model, instance_start_step=preset.instance_start_step)
    for part in ("proposal_networks", "fields", "instance_head"):
        config.optimizers[part]["optimizer"].lr = preset.learning_rate
    shutil.rmtree(output_dir / "runs" / str(config.method_name), ignore_errors=True)
    start = perf_counter()
    with _progress(console) as progress:
        trainer, _ = train_quietly(config, progress)
    seconds["training"] = perf_counter() - start

    pipeline = trainer.pipeline
    start = perf_counter()
    run = config.get_base_dir()
    loader = pipeline.datamanager.fixed_indices_eval_dataloader
    scores = pipeline.get_average_image_metrics(loader, "eval", output_path=run / "eval")
    seconds["evaluation"] = perf_counter() - start

    start = perf_counter()
    export = ExportMasks(run / "config.yml", output_dir / "masks", cameras=preset.export_cameras, overwrite=True)
    with atomic_folder(export.output_dir, export.overwrite, EXPORT_ENTRIES) as folder:
        export.export(pipeline, folder)
    seconds["export"] = perf_counter() - start

    metrics = {key: value for key, value in scores.items() if "per_sec" not in key and key != "fps"}
    metrics |= {f"seconds_{stage}": value for stage, value in seconds.items()}
    metrics["seconds_total"] = sum(seconds.values())
    write_contact_sheet(output_dir / "contact_sheet.png", run / "eval", pipeline.datamanager.instances, metrics)
    write_atomically(output_dir / "metrics.json", json.dumps(metrics, indent=1).encode())

    _print_summary(console, metrics, seconds)
    console.print(f"Contact sheet  {output_dir / 'contact_sheet.png'}", soft_wrap=True)
    console.print(f"Masks          {output_dir / 'masks'}", soft_wrap=True)
    console.print("Look around in the room (choose `instances` as output type):", soft_wrap=True)
    console.print(f"  ns-viewer --load-config {run / 'config.yml'}", soft_wrap=True, highlight=False)
    return metrics


def _room(folder: Path, building: RoomBuild | None, progress: Progress) -> Path:
    wanted = demo_room(torch.cuda.is_available())
    if building is not None and building.config != wanted:
        building.stop()
        building = None
    return (building or RoomBuild(folder, wanted)).finish(progress)


def _prepare() -> DemoPreset:
    """Loads what the demo needs after its room."""
    with _without_collection():
        gpu = beside(_wake_gpu)
        put_off_compilation()
        from instance_nerfstudio.export import export_masks  # noqa: F401
        from instance_nerfstudio.hash_grids.implementation import triton_problem

        preset = demo_preset()
        gpu.result()
        if torch.cuda.is_available():
            device = torch.device("cuda", torch.cuda.current_device())
            read = beside(partial(_read_tiny_photo, device))
            triton_problem(device)  # Triton's first launch takes a while
            read.exception()  # where it matters it is raised again
    return preset


def _wake_gpu() -> None:
    """CUDA and cuBLAS get ready, while nerfstudio loads."""
    with suppress(Exception):  # where it matters it is raised again
        if torch.cuda.is_available():
            ones = torch.ones(64, 64, device="cuda")
            (ones @ ones).sum().item()


def _read_tiny_photo(device: torch.device) -> None:
    """What photos go through before training: code of CUDA is loaded when it is first launched, which takes a while."""
    from nerfstudio.cameras.cameras import Cameras

    from instance_nerfstudio.resident_pixels import resident_pixels

    side = 8
    camera = Cameras(torch.eye(4)[None, :3], float(side), float(side), side / 2, side / 2, side, side)
    photo = torch.rand(1, side, side, 3)
    batch = {"image": photo, "image_idx": torch.zeros(1), "instances": (photo[..., :1] > 0.5).int()}
    pixels = resident_pixels(batch, camera, 1, 1 << 20, device)
    assert pixels is not None
    pixels.sample(side, 0.5)


@contextmanager
def _without_collection() -> Iterator[None]:
    """While open, no garbage is collected. What is loaded inside stays: searching it takes a quarter of loading it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:>20}"), BarColumn(bar_width=50), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _print_summary(console: Console, metrics: dict[str, float], seconds: dict[str, float]) -> None:
    table = Table(title="Held-out views of the demo room")
    table.add_column("score")
    table.add_column("", justify="right")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    scores = [
        (title, f"{metrics[key]:.1f}" if key == "psnr" else f"{metrics[key]:.3f}") for key, title in _SCORES.items()
    ]
    stages = [(stage, f"{value:.1f}") for stage, value in seconds.items()]
    for score, stage in zip_longest(
        scores, [*stages, ("total", f"{metrics['seconds_total']:.1f}")], fillvalue=("", "")
    ):
        table.add_row(*score, *stage)
    console.print(table)
