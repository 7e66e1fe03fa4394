"""Density grids of many rooms: a short radiance field for each, its grid and the room's truth in the grid's frame."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from rich.progress import Progress

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.atomic_folder import atomic_folder
from instance_nerfstudio.export.density import SOLID_ALPHA, density_grid
from instance_nerfstudio.export.density_field import DensitySamplingConfig
from instance_nerfstudio.instance_datamanager import InstanceDataManagerConfig
from instance_nerfstudio.instance_trainer import InstanceTrainerConfig
from instance_nerfstudio.training import held_out_psnr, train_quietly, training_config
from rcnn.grids import write_density_grid, write_grid_truth
from rcnn.grids.find_grids import GRID_FILE, GRID_FOLDER, PICTURE_FILE, TRUTH_FILE
from rcnn.grids.grid_truth import room_truth
from rcnn.grids.slices import write_slices
from rcnn.safe_files import read_json, write_atomically, write_json

NOTE_FILE = "fit.json"
GRID_ENTRIES = (GRID_FILE, TRUTH_FILE, PICTURE_FILE, NOTE_FILE)
TABLE_COLUMNS = ("room", "psnr", "seconds", "train_seconds", "resolution", "occupancy", "seen", "instances")


@dataclass(frozen=True)
class GridFitConfig:
    """How a room becomes a grid. Rooms fitted alike have equal values here."""

    iterations: int = 1800
    """Training iterations of each room's field."""
    rays_per_batch: int = 8192
    """Training rays per iteration."""
    learning_rate: float = 1e-2
    """Of the field and its proposal networks, at the start."""
    learning_rate_final: float = 1e-3
    """The same at the end."""
    proposal_samples: tuple[int, ...] = (128, 64)
    """Samples per ray of each proposal network."""
    field_samples: int = 32
    """Samples per ray of the field."""
    proposal_warmup: int = 300
    """Iterations over which proposal networks go from training always to training now and then."""
    max_res: int = 1024
    """Finest resolution of the field's hash grid."""
    log2_hashmap_size: int = 18
    """Rows of each level of the hash grid, as a power of two."""
    small_field: bool = False
    """Whether the field is that of `instance-nerfacto-cpu`, which sets samples and hash grid itself."""
    grid: DensitySamplingConfig = field(default_factory=lambda: DensitySamplingConfig(resolution=160))
    """Sampling of the trained field."""
    margin: float = 0.0
    """World units by which the grid reaches beyond the room."""


def default_fit() -> GridFitConfig:
    """What suits this machine."""
    if torch.cuda.is_available():
        return GridFitConfig()
    grid = DensitySamplingConfig(resolution=160, depth_size=80)
    return GridFitConfig(iterations=2000, rays_per_batch=1024, small_field=True, grid=grid)


def fit_room(room: Path, config: GridFitConfig, device_type: str, progress: Progress, overwrite: bool = False) -> Path:
    """Trains a radiance field on a room and writes its grid and truth into the room's folder `grid`.

    The folder appears whole: `density.npz`, `truth.npz` where the room has voxel truth, `slices.png`, and `fit.json`
    with the table's columns and the configuration.

    Args:
        room: a scene in nerfstudio's format.
        config: training and sampling.
        device_type: `cuda`, for the first GPU that this process sees, or `cpu`.
        progress: gets tasks while it runs.
        overwrite: whether an earlier `grid` is replaced.

    Returns:
        The folder `grid`.

    Raises:
        InputError: the room can't be trained on, or its truth is damaged.
    """
    start = perf_counter()
    room = room.resolve()
    # Local, not in the room: hundreds of checkpoints that nobody wants are written there, each to be deleted at once.
    run = Path(tempfile.mkdtemp(prefix="fit-grids-"))
    tasks = set(progress.task_ids)
    try:
        with atomic_folder(room / GRID_FOLDER, overwrite, GRID_ENTRIES) as folder:
            trainer, train_seconds = train_quietly(_training_config(room, run, config, device_type), progress)
            pipeline = trainer.pipeline
            psnr = held_out_psnr(pipeline)
            grid, _ = density_grid(pipeline, config.grid, progress, margin=config.margin)
            write_density_grid(folder / GRID_FILE, grid)
            instances = 0
            if (room / "gt_voxels.npz").is_file():
                truth = room_truth(room, grid)
                write_grid_truth(folder / TRUTH_FILE, truth, grid)
                instances = len(truth.ids)
            write_slices(folder / PICTURE_FILE, grid)
            row = {
                "psnr": None if np.isnan(psnr) else round(psnr, 3),
                "seconds": round(perf_counter() - start, 2),
                "train_seconds": round(train_seconds, 2),
                "resolution": "x".join(map(str, grid.resolution)),
                "occupancy": round(float((grid.alpha() > SOLID_ALPHA).mean()), 5),
                "seen": round(float(np.mean(cast(np.ndarray, grid.seen))), 5),
                "instances": instances,
            }
            note = {**row, "config": _plain(config)}
            write_json(folder / NOTE_FILE, note)
    except InputError as error:
        raise InputError(str(error) if str(room) in str(error) else f"{room}: {error}") from error
    finally:
        shutil.rmtree(run, ignore_errors=True)
        for task in set(progress.task_ids) - tasks:
            progress.remove_task(task)
    return room / GRID_FOLDER


def is_fitted(room: Path, config: GridFitConfig) -> bool:
    """Whether a room has a grid already.

    Raises:
        InputError: it was fitted in another way, as grids of one data set must be alike; or something else is there.
    """
    folder = room / GRID_FOLDER
    note = folder / NOTE_FILE
    if not note.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: exists and was not written by fit-grids; move it away")
        return False
    theirs, ours = read_json(note).get("config"), _plain(config)
    if theirs != ours:
        theirs = theirs if isinstance(theirs, dict) else {}
        other = next((key for key in ours if theirs.get(key) != ours[key]), "config")
        raise InputError(
            f"{note}: was fitted with other options ({other} {theirs.get(other)}, not {ours[other]}); "
            "give the same ones, or replace the grids with --overwrite"
        )
    return True


def write_table(path: Path, rooms: list[Path]) -> None:
    """A CSV file with a row for each of the rooms that is fitted; rows of other rooms stay.

    Raises:
        InputError: a file that is no such table is there.
    """
    rows = read_table(path)
    for room in rooms:
        note = room / GRID_FOLDER / NOTE_FILE
        if note.is_file():
            content = read_json(note)
            name = str(room.resolve())
            rows[name] = {"room": name} | {key: str(content.get(key, "")) for key in TABLE_COLUMNS[1:]}
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, TABLE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    write_atomically(path, text.getvalue().encode())


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows of an earlier table by room; empty without one."""
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != TABLE_COLUMNS:
                raise ValueError("other columns")
            return {row["room"]: row for row in reader}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: is no table of fitted rooms ({error}); choose another --table") from error


def _plain(config: GridFitConfig) -> dict[str, Any]:
    """The configuration as JSON holds it."""
    return json.loads(json.dumps(asdict(config)))


def _training_config(room: Path, run: Path, config: GridFitConfig, device_type: str) -> InstanceTrainerConfig:
    """`instance-nerfacto` without instances, short."""
    small = config.small_field
    method = f"instance-nerfacto{'-cpu' if small else ''}"
    training = training_config(method, room, config.iterations, device_type)
    training.output_dir, training.experiment_name = run, "fit"
    datamanager = cast(InstanceDataManagerConfig, training.pipeline.datamanager)
    datamanager.train_num_rays_per_batch = config.rays_per_batch
    datamanager.masks_dir = None
    training.pipeline.model = replace(training.pipeline.model, use_instances=False)
    if not small:
        training.pipeline.model = replace(
            training.pipeline.model,
            num_proposal_samples_per_ray=config.proposal_samples,
            num_nerf_samples_per_ray=config.field_samples,
            proposal_warmup=config.proposal_warmup,
            proposal_weights_anneal_max_num_iters=config.proposal_warmup,
            max_res=config.max_res,
            log2_hashmap_size=config.log2_hashmap_size,
        )
    for name in ("proposal_networks", "fields"):
        group = training.optimizers[name]
        group["optimizer"] = replace(group["optimizer"], lr=config.learning_rate)
        group["scheduler"] = replace(group["scheduler"], lr_final=config.learning_rate_final)
    assert isinstance(datamanager.dataparser, NerfstudioDataParserConfig)
    return training
