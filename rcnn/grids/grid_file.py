"""The density grid's file.

A .npz without pickles: `rgbsigma (W, L, H, 4)` float16, index order (x, y, z); `bbox_min (3,)` and `bbox_max (3,)` in
world units; `resolution (3,)`; `density_kind`; `origin`; `world_from_scene (4, 4)`; `format_version`; where
known `seen (W, L, H)` bool and `alpha_distance`. Compressed for keeping and sending, uncompressed for training: then
grids are memory-mapped, and a thousand of them need no more memory than those in use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from rcnn.errors import InputError
from rcnn.grids.density_grid import DENSITY_KINDS, DensityGrid, DensityKind
from rcnn.grids.npz import read_npz, write_npz

FORMAT_VERSION = 1
_MAX_HALF = float(np.finfo(np.float16).max)


def write_density_grid(path: Path, grid: DensityGrid, compress: bool = True) -> None:
    """Writes a grid as float16, whole or not at all; densities beyond float16's range become its largest.

    Raises:
        ValueError: a value is not a number.
    """
    values = grid.rgbsigma
    if values.dtype not in (np.uint8, np.float16):
        values = np.clip(values, -_MAX_HALF, _MAX_HALF).astype(np.float16)
    if values.dtype == np.float16 and np.isnan(values).any():
        raise ValueError(f"{path}: the grid holds values that are not numbers; the field it came from is broken")
    arrays: dict[str, Any] = {
        "rgbsigma": values,
        "bbox_min": grid.bbox_min,
        "bbox_max": grid.bbox_max,
        "resolution": np.array(grid.resolution, np.int32),
        "density_kind": np.array(grid.density_kind),
        "origin": np.array(grid.origin),
        "world_from_scene": grid.world_from_scene,
        "format_version": np.array(FORMAT_VERSION, np.int32),
    }
    if grid.seen is not None:
        arrays["seen"] = grid.seen
    if grid.alpha_distance is not None:
        arrays["alpha_distance"] = np.array(grid.alpha_distance)
    write_npz(path, arrays, compress)


def read_density_grid(path: Path, density_kind: DensityKind | None = None) -> DensityGrid:
    """Reads a grid; an uncompressed one is memory-mapped.

    Args:
        path: a file of this format. Published grids have functions of their own in `rcnn.grids.published`.
        density_kind: what the density channel holds, for a file that does not say; must agree with one that does.

    Raises:
        InputError: no such file, damaged, of a newer format, or with an unknown or contradicted kind of density.
    """
    data = read_npz(path)
    if missing := [name for name in ("rgbsigma", "bbox_min", "bbox_max") if name not in data]:
        raise InputError(f"{path}: no density grid, {missing[0]} is missing; make one with ns-export density")
    if int(data.get("format_version", np.array(FORMAT_VERSION))) > FORMAT_VERSION:
        raise InputError(f"{path}: format {int(data['format_version'])} is newer than this program; update it")
    kind = stated_kind(path, data, density_kind)
    if "origin" not in data:
        raise InputError(f"{path}: does not say its origin; published grids are read with their --layout")
    distance = data.get("alpha_distance")
    try:
        grid = DensityGrid(
            data["rgbsigma"],
            data["bbox_min"],
            data["bbox_max"],
            kind,
            cast(Any, str(data["origin"])),
            data.get("world_from_scene", np.eye(4)),
            data.get("seen"),
            None if distance is None else float(distance),
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}; make it anew") from error
    if "resolution" in data and tuple(data["resolution"].tolist()) != grid.resolution:
        raise InputError(
            f"{path}: resolution {data['resolution'].tolist()} is not the grid's {grid.resolution}; make it anew"
        )
    return grid


def stated_kind(path: Path, data: dict[str, np.ndarray], given: DensityKind | None) -> DensityKind:
    """The density kind of a file's arrays and of the user's option, of which one must be there."""
    stated = str(data["density_kind"]) if "density_kind" in data else None
    if stated is None and given is None:
        raise InputError(f"{path}: does not say what its density is; add --density-kind {'|'.join(DENSITY_KINDS)}")
    if stated is not None and given is not None and stated != given:
        raise InputError(f"{path}: holds density of kind {stated}, not {given}; leave --density-kind out")
    kind = stated or given
    if kind not in DENSITY_KINDS:
        raise InputError(f"{path}: unknown kind of density {kind!r}; use one of {', '.join(DENSITY_KINDS)}")
    return cast(DensityKind, kind)


def mapped_grid(path: Path, cache: Path, read: Callable[[Path], DensityGrid] = read_density_grid) -> DensityGrid:
    """A grid whose voxels stay on disk: as it is when its file is uncompressed, else from an uncompressed copy.

    Every mapping holds an open file: of thousands of grids, open those in use.

    Args:
        path: the grid's file.
        cache: folder for copies, 8 bytes a voxel. A copy is made once, and again when the file changes.
        read: how to read the file; give one `functools.partial` per layout and a cache folder of its own.
    """
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    copy = cache / f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if not copy.is_file():
        grid = read(path)
        if isinstance(grid.rgbsigma, np.memmap) or isinstance(grid.rgbsigma.base, np.memmap):
            return grid
        write_density_grid(copy, grid, compress=False)
    return read_density_grid(copy)
