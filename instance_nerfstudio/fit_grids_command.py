"""What `instance-nerf fit-grids` does: many rooms, one after another on each device."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from instance_nerfstudio.device_pool import run_on_devices
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.fit_grids import GridFitConfig, fit_room, is_fitted, write_table
from instance_nerfstudio.item_progress import item_progress


def fit_grids(
    rooms: Sequence[Path],
    config: GridFitConfig,
    devices: Sequence[str] = (),
    table: Path | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Fits every room that is not fitted yet, and keeps the table up to date.

    Args:
        rooms: rooms, or folders that hold rooms.
        config: training and sampling, the same for all.
        devices: torch devices, e.g. `cuda:0 cuda:1`; one process each when there are several. The first GPU, else the
            CPU, when empty.
        table: CSV file; `grids.csv` beside the rooms when None.
        overwrite: whether fitted rooms are fitted anew.

    Returns:
        One line for each room that failed; the others are complete.

    Raises:
        InputError: no rooms there, devices that are not there, or rooms that were fitted in another way.
    """
    found = find_rooms(rooms)
    devices = list(devices) or ["cuda:0" if torch.cuda.is_available() else "cpu"]
    _check_devices(devices)
    table = table or found[0].parent / "grids.csv"
    waiting = [room for room in found if overwrite or not is_fitted(room, config)]
    write_table(table, found)
    console = Console(stderr=True)
    failures: list[str] = []
    with item_progress(console) as progress:
        task = progress.add_task("Rooms", total=len(found), completed=len(found) - len(waiting))
        kind = torch.device(devices[0]).type
        if devices in (["cpu"], ["cuda"], ["cuda:0"]):
            fit = partial(_fit_with_progress, config=config, kind=kind, overwrite=overwrite, progress=progress)
            results = ((room, fit(room)) for room in waiting)
        else:
            work = partial(_fit_in_worker, config=config, kind=kind, overwrite=overwrite)
            results = run_on_devices(work, waiting, devices)
        for room, error in results:
            progress.advance(task)
            if isinstance(error, Exception):
                failures.append(_failure(room, error))
                progress.console.print(f"[red]error:[/red] {failures[-1]}", soft_wrap=True, highlight=False)
            else:
                write_table(table, [room])
    console.print(f"{len(found) - len(failures)} of {len(found)} rooms have grids; {table}", soft_wrap=True)
    return failures


def find_rooms(paths: Sequence[Path]) -> list[Path]:
    """The folders that hold a transforms.json: the given ones, or those directly in them; sorted, each once.

    Raises:
        InputError: one is no folder, or neither a room nor a folder of rooms.
    """
    if not paths:
        raise InputError("no rooms given; name room folders, or folders that hold rooms")
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; name room folders, or folders that hold rooms")
        inner = sorted(file.parent for file in path.glob("*/transforms.json") if not file.parent.name.startswith("."))
        rooms = [path] if (path / "transforms.json").is_file() else inner
        if not rooms:
            raise InputError(f"{path}: holds no room with a transforms.json; make rooms with nerf-rcnn rooms make")
        found |= dict.fromkeys(room.resolve() for room in rooms)
    return sorted(found)


def _check_devices(devices: Sequence[str]) -> None:
    if len({name.partition(":")[0] for name in devices}) > 1:
        raise InputError(f"--devices {' '.join(devices)}: name devices of one kind")
    for name in devices:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise InputError(f"--devices {name}: no such device; use e.g. cuda:0 cuda:1, or cpu") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise InputError(f"--devices {name}: this machine has {torch.cuda.device_count()} CUDA device(s)")


def _fit_with_progress(
    room: Path, config: GridFitConfig, kind: str, overwrite: bool, progress: Progress
) -> Exception | None:
    try:
        fit_room(room, config, kind, progress, overwrite)
    except Exception as error:
        return error
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return None


def _fit_in_worker(room: Path, config: GridFitConfig, kind: str, overwrite: bool) -> None:
    warnings.filterwarnings("ignore")  # as the command itself does
    with Progress(disable=True) as progress:
        fit_room(room, config, kind, progress, overwrite)


def _failure(room: Path, error: Exception) -> str:
    """The one line that names the room: one room's failure is not the next one's."""
    if isinstance(error, InputError):
        return str(error)
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"{room}: could not be fitted ({type(error).__name__}: {reason})"


def exit_with_failures(failures: Sequence[str]) -> None:
    """Exit status 1 when a room failed; each was named already."""
    if failures:
        sys.exit(f"error: {len(failures)} room(s) failed; correct them and run the same command again")
