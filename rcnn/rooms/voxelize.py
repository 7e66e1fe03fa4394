"""`nerf-rcnn rooms voxelize`: density grids straight from rooms, for training by the hundred.

The output has the layout of rooms that `instance-nerf fit-grids` was run on: `<room>/grid/density.npz`, `truth.npz`,
`slices.png`, and `voxelize.json` with how they were made.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rcnn.errors import InputError
from rcnn.grids import DensityGrid, GridTruth, write_density_grid, write_grid_truth
from rcnn.grids.find_grids import GRID_FILE, GRID_FOLDER, PICTURE_FILE, TRUTH_FILE
from rcnn.grids.grid_truth import room_truth
from rcnn.grids.slices import write_slices
from rcnn.job_pool import run_jobs
from rcnn.rooms.new_folder import new_folder, remove_leftovers
from rcnn.rooms.radiance_look import RadianceLook, default_look, radiance_grid
from rcnn.rooms.seen_space import see_space
from rcnn.safe_files import read_json, write_json

# Raised when the same seed and look would give other grids.
FORMAT_VERSION = 1
NOTE_FILE = "voxelize.json"
MAX_RESOLUTION = 256
# What a voxel must absorb to count as something.
SOLID_ALPHA = 0.1


@dataclass(frozen=True)
class VoxelizeConfig:
    """How rooms become grids; the same values give the same grids."""

    resolution: int = 160
    """Voxels along the longest side of a room, 256 at most."""
    seed: int = 0
    """Of the noise, together with each room's own."""
    look: RadianceLook = field(default_factory=default_look)
    """What the grids look like."""

    def __post_init__(self) -> None:
        if not 2 <= self.resolution <= MAX_RESOLUTION:
            raise InputError(f"--resolution {self.resolution}: must lie between 2 and {MAX_RESOLUTION}")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be at least 0")

    def note(self) -> dict[str, Any]:
        """What JSON files say of it."""
        return {"format_version": FORMAT_VERSION, **json.loads(json.dumps(asdict(self)))}


def voxelize_rooms(rooms: Path, out: Path, config: VoxelizeConfig, num_workers: int | None = None) -> list[Path]:
    """Makes a grid for each room, skipping those that have one, and returns the rooms' folders in `out`.

    Args:
        rooms: a room made by `nerf-rcnn rooms make`, or a folder that holds such rooms.
        out: folder for the results. It may be `rooms` itself, when there are no grids of trained fields.
        config: how.
        num_workers: processes; one per core when None.

    Raises:
        InputError: no rooms there, a damaged one, or `out` holds grids that were made in another way.
    """
    found = find_rooms(rooms)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another --out")
    folders = [out / room.name for room in found]
    waiting = [pair for pair in zip(found, folders, strict=True) if not _is_done(pair[1] / GRID_FOLDER, config)]
    if len(waiting) < len(found):
        done = len(found) - len(waiting)
        Console(stderr=True).print(f"{done} of {len(found)} rooms have grids already", highlight=False)
    if waiting:
        run_jobs("Rooms", partial(_voxelize_job, config=config), waiting, num_workers)
    return folders


def find_rooms(folder: Path) -> list[Path]:
    """The room `folder`, or the rooms in it, by name.

    Raises:
        InputError: there are none.
    """
    if (folder / "transforms.json").is_file():
        return [folder.resolve()]
    found = sorted(file.parent for file in folder.glob("*/transforms.json") if not file.parent.name.startswith("."))
    if not found:
        raise InputError(f"{folder}: holds no room; make rooms with nerf-rcnn rooms make")
    return found


def voxelize_room(room: Path, config: VoxelizeConfig) -> tuple[DensityGrid, GridTruth]:
    """The grid of one room, and its truth.

    Raises:
        InputError: its files are missing or damaged, or it was not made by `nerf-rcnn rooms make`.
    """
    space = see_space(room, config.resolution)
    truth = room_truth(room, space.empty_grid())
    assert truth.instances is not None
    own = hashlib.sha256(json.dumps(_identity(room), sort_keys=True).encode()).digest()
    return radiance_grid(space, truth.instances > 0, config.look, (config.seed, *own[:8])), truth


def _identity(room: Path) -> Any:
    """What tells a room from others, wherever it lies: split and seeds, or where it has none, its cameras."""
    seed = read_json(room / "instances.json").get("seed")
    return seed or read_json(room / "transforms.json").get("frames")


def _is_done(folder: Path, config: VoxelizeConfig) -> bool:
    note = folder / NOTE_FILE
    if not note.is_file():
        if folder.exists():
            raise InputError(f"{folder}: exists and was not written by rooms voxelize; choose another --out")
        return False
    theirs, ours = read_json(note).get("config"), config.note()
    if theirs != ours:
        theirs = theirs if isinstance(theirs, dict) else {}
        other = next((key for key in ours if theirs.get(key) != ours[key]), "config")
        raise InputError(f"{folder}: was made with another {other}; give the same options, or choose another --out")
    return True


def _voxelize_job(pair: tuple[Path, Path], config: VoxelizeConfig) -> None:
    room, folder = pair
    target = folder / GRID_FOLDER
    remove_leftovers(target)
    grid, truth = voxelize_room(room, config)
    with new_folder(target) as unfinished:
        write_density_grid(unfinished / GRID_FILE, grid)
        write_grid_truth(unfinished / TRUTH_FILE, truth, grid)
        write_slices(unfinished / PICTURE_FILE, grid)
        note = {
            "resolution": "x".join(map(str, grid.resolution)),
            "occupancy": round(float((grid.alpha() > SOLID_ALPHA).mean()), 5),
            "seen": round(float(np.mean(grid.seen if grid.seen is not None else 1.0)), 5),
            "instances": len(truth.ids),
            "config": config.note(),
        }
        write_json(unfinished / NOTE_FILE, note)
