"""`nerf-rcnn grids compare`: two sets of density grids, of trained fields and of voxelized rooms for example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rcnn.errors import InputError
from rcnn.grids import read_density_grid, read_grid_truth
from rcnn.grids.comparison_picture import draw_comparison
from rcnn.grids.find_grids import TRUTH_FILE, find_grids
from rcnn.grids.grid_statistics import REGIONS, GridStatistics, grid_statistics, histogram_distance, pooled_statistics
from rcnn.job_pool import run_jobs
from rcnn.safe_files import write_json

# Rooms shown side by side.
PICTURED = 3


def compare_grids(
    one: Path,
    two: Path,
    out: Path,
    folders: tuple[str, str] = ("grid", "grid"),
    max_grids: int = 100,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Measures both sets, prints a table, and writes a picture and the numbers.

    Args:
        one: rooms with grids, or one such room.
        two: the same.
        out: .png for the picture, with the numbers beside it as .json; or .json for the numbers alone.
        folders: folder in a room that has its grid, of either set.
        max_grids: grids of each set, evenly chosen.
        num_workers: processes; one per core when None.

    Raises:
        InputError: no grids there, grids without truth, or damaged ones.
    """
    if out.suffix not in (".png", ".json"):
        raise InputError(f"{out}: must end in .png or .json; choose another --out")
    if max_grids < 1:
        raise InputError(f"--max-grids must be at least 1, got {max_grids}")
    sets = [_evenly(find_grids([path], folder), max_grids) for path, folder in zip((one, two), folders, strict=True)]
    for path in (path for grids in sets for path in grids):
        if not path.with_name(TRUTH_FILE).is_file():
            raise InputError(f"{path}: has no {TRUTH_FILE} beside it; only grids with truth are compared")
    measured = run_jobs("Measuring", measure_grid, [path for grids in sets for path in grids], num_workers)
    kinds = [pooled_statistics(measured[: len(sets[0])]), pooled_statistics(measured[len(sets[0]) :])]
    names = _names((one, two), folders)
    report = {
        "sets": [{"path": str(path), **kind} for path, kind in zip((one, two), kinds, strict=True)],
        "histogram_distance": {
            key: {region: histogram_distance(kinds[0][key][region], kinds[1][key][region]) for region in REGIONS}  # type: ignore[index]
            for key in ("alpha_histograms", "log10_sigma_histograms")
        },
    }
    if out.suffix == ".png":
        draw_comparison(out, names, kinds, _pairs(*sets)[:PICTURED])
    write_json(out.with_suffix(".json"), report)
    _print(names, kinds, report["histogram_distance"])
    return report


def measure_grid(path: Path) -> GridStatistics:
    """The statistics of a grid file with its truth beside it.

    Raises:
        InputError: damaged, or truth without voxels.
    """
    grid = read_density_grid(path)
    truth = read_grid_truth(path.with_name(TRUTH_FILE), grid)
    if truth.instances is None:
        raise InputError(f"{path.with_name(TRUTH_FILE)}: holds boxes without voxels; compare grids of rooms")
    return grid_statistics(grid, truth)


def _evenly(paths: list[Path], count: int) -> list[Path]:
    if len(paths) <= count:
        return paths
    return [paths[k * len(paths) // count] for k in range(count)]


def _pairs(one: Sequence[Path], two: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Grids of the same room, by its name, where there are any, else any grids."""
    names = {path.parent.parent.name: path for path in two}
    same = [(path, names[path.parent.parent.name]) for path in one if path.parent.parent.name in names]
    return same or list(zip(one, two, strict=False))


def _names(paths: tuple[Path, Path], folders: tuple[str, str]) -> list[str]:
    """Short names that differ, where they can."""
    for parts in range(1, 10):
        names = ["/".join(path.resolve().parts[-parts:]) for path in paths]
        if names[0] != names[1]:
            return names
    return [f"{path.resolve().name}/{folder}" for path, folder in zip(paths, folders, strict=True)]


def _print(names: list[str], kinds: list[dict[str, Any]], distances: dict[str, Any]) -> None:
    table = Table("", *(f"{name} ({kind['grids']})" for name, kind in zip(names, kinds, strict=True)))
    for key in kinds[0]["numbers"]:
        table.add_row(key, *(_number(kind["numbers"][key]) for kind in kinds))
    console = Console()
    console.print(table)
    for key, label in (("alpha_histograms", "opacity"), ("log10_sigma_histograms", "log density")):
        values = ", ".join(f"{region} {value:.3f}" for region, value in distances[key].items() if value is not None)
        console.print(f"share of {label} histograms that differs: {values}", highlight=False)


def _number(entry: dict[str, Any]) -> str:
    return "-" if entry["mean"] is None else f"{entry['mean']:.4f} ± {entry['std']:.4f}"
