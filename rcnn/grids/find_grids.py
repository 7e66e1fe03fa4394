"""Where grids lie: `<room>/grid/density.npz` with its truth beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rcnn.errors import InputError

GRID_FOLDER = "grid"
GRID_FILE, TRUTH_FILE, PICTURE_FILE = "density.npz", "truth.npz", "slices.png"


def find_grids(folders: Sequence[Path], grid_folder: str = GRID_FOLDER) -> list[Path]:
    """The density.npz of rooms: the given folders, or those directly in them; sorted, each once.

    Args:
        folders: rooms, or folders that hold rooms.
        grid_folder: folder in a room that has its grid.

    Raises:
        InputError: one is no folder, or has no grid.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name rooms, or folders that hold rooms")
        own = folder / grid_folder / GRID_FILE
        inner = sorted(folder.glob(f"*/{grid_folder}/{GRID_FILE}"))
        grids = [own] if own.is_file() else [path for path in inner if not path.parent.parent.name.startswith(".")]
        if not grids:
            raise InputError(
                f"{folder}: holds no {grid_folder}/{GRID_FILE}; make grids with instance-nerf fit-grids or "
                "nerf-rcnn rooms voxelize"
            )
        found |= dict.fromkeys(grids)
    return sorted(found)
