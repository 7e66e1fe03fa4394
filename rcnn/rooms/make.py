"""`nerf-rcnn rooms make`: many generated rooms, one process per core, resumable."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from rcnn.errors import InputError
from rcnn.job_pool import check_num_workers, run_jobs
from rcnn.safe_files import read_json, write_json

if TYPE_CHECKING:
    from rcnn.rooms.generate import GeneratedRoomConfig
    from rcnn.rooms.layouts.supply import FurnitureSupply

# Written into dataset.json; raised when the same seed would give other rooms.
FORMAT_VERSION = 2  # 1 left tight hollow furniture hollow
PACKAGES = {"embreex": "embreex", "scipy": "scipy", "cv2": "opencv-python-headless"}
SHEET_ROOMS = 16


def make_rooms(
    out: Path,
    split: str,
    count: int,
    seed: int,
    pack: Path | None = None,
    config: GeneratedRoomConfig | None = None,
    kind: str | None = None,
    num_workers: int | None = None,
) -> list[Path]:
    """Builds rooms `room_0000` ... in `out`, skipping those that are complete, and returns their folders.

    `out` also gets `dataset.json` (split, seed, settings, and the models of the split) and `contact_sheet.jpg`.
    `pack` is a furniture pack, the shipped one when None. Raises InputError or OSError in one line.
    """
    check_packages()
    from rcnn.rooms.assets import FurniturePack, shipped_pack
    from rcnn.rooms.assets.split import SPLITS
    from rcnn.rooms.generate import GeneratedRoomConfig
    from rcnn.rooms.layouts.furnish import KINDS
    from rcnn.rooms.layouts.supply import FurnitureSupply
    from rcnn.rooms.overview import write_contact_sheet

    config = config or GeneratedRoomConfig()
    if split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}, got {split}")
    if count < 1 or seed < 0:
        raise InputError(f"--count must be at least 1 and --seed at least 0, got {count} and {seed}")
    if kind is not None and kind not in KINDS:
        raise InputError(f"--kind must be one of {', '.join(KINDS)}, got {kind}")
    check_num_workers(num_workers)
    supply = FurnitureSupply(shipped_pack() if pack is None else FurniturePack(pack), split)
    out = Path(out)
    _claim(out, _description(supply, seed, config, kind))
    rooms = [out / f"room_{index:04d}" for index in range(count)]
    missing = [room for room in rooms if not room.exists()]
    if len(missing) < count:
        Console(stderr=True).print(f"{count - len(missing)} of {count} rooms are there already", highlight=False)
    if missing:
        dataset = _Dataset(supply.pack.path, split, seed, config, kind)
        run_jobs("Rooms", partial(_build_room, dataset), missing, num_workers)
    sheet = out / "contact_sheet.jpg"
    if missing or not sheet.exists():
        step = max(1, len(rooms) // SHEET_ROOMS)
        write_contact_sheet(sheet, rooms[::step][:SHEET_ROOMS])
    return rooms


def check_packages() -> None:
    """Raises InputError with the command that installs what is missing."""
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"making rooms needs {', '.join(missing)}: pip install {' '.join(missing)}")


def _description(supply: FurnitureSupply, seed: int, config: GeneratedRoomConfig, kind: str | None) -> dict[str, Any]:
    from rcnn.rooms.layouts.parametric import NUMBERS, SHAPES

    first, last = NUMBERS[supply.split]
    return {
        "format_version": FORMAT_VERSION,
        "split": supply.split,
        "seed": seed,
        "kind": kind or "any",
        "config": asdict(config),
        "pack": supply.pack.path.name,
        "pack_sha256": hashlib.sha256(supply.pack.path.read_bytes()).hexdigest(),
        "models": {name: [info.model_id for info in models] for name, models in sorted(supply.models.items())},
        "parametric_models": {"classes": sorted(SHAPES), "numbers": [first, last - 1]},
    }


def _claim(out: Path, description: dict[str, Any]) -> None:
    """Writes `dataset.json`, or checks that the rooms there were made in the same way."""
    note = out / "dataset.json"
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; choose another --out")
    if not note.exists():
        if out.is_dir() and any(out.glob("room_*")):
            raise InputError(f"{out}: holds rooms but no dataset.json; choose another --out")
        write_json(note, description)
        return
    found, wanted = read_json(note), json.loads(json.dumps(description))
    changed = [key for key in wanted if found.get(key) != wanted[key]]
    if changed:
        raise InputError(f"{out}: holds rooms with another {', '.join(changed)}; choose another --out")


@cache
def _supply(pack: Path, split: str) -> FurnitureSupply:
    from rcnn.rooms.assets import FurniturePack
    from rcnn.rooms.layouts.supply import FurnitureSupply

    return FurnitureSupply(FurniturePack(pack), split)


@dataclass(frozen=True)
class _Dataset:
    """What all rooms have in common."""

    pack: Path
    split: str
    seed: int
    config: GeneratedRoomConfig
    kind: str | None


def _build_room(dataset: _Dataset, folder: Path) -> None:
    """Builds the room that a folder's number stands for."""
    from rcnn.rooms.generate import generate_room
    from rcnn.rooms.new_folder import remove_leftovers

    remove_leftovers(folder)
    supply = _supply(dataset.pack, dataset.split)  # once in each process
    index = int(folder.name.removeprefix("room_"))
    generate_room(folder, supply, dataset.seed, index, dataset.config, dataset.kind)
