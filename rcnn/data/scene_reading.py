"""One scene read and checked: its grid, mapped from the disk, and the boxes in it."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from rcnn.boxes import box_sizes, clip_and_filter, clip_boxes, thicken_boxes, usable_boxes
from rcnn.data.scenes import BoxKind, DataLayout, SceneFiles
from rcnn.errors import InputError
from rcnn.grids import DensityGrid, GridTruth, read_density_grid, read_grid_truth
from rcnn.grids.density_grid import DensityKind
from rcnn.grids.grid_file import mapped_grid
from rcnn.grids.grid_truth import scale_boxes
from rcnn.grids.npz import read_npz
from rcnn.grids.published import Layout, read_published_grid, read_published_truth
from rcnn.safe_files import write_atomically

# 512 voxels along each side in float32. A small file may declare any size, and would fill the memory.
MAX_GRID_BYTES = 4 * 4 * 512**3
_SLAB = 16


def default_cache() -> Path:
    """Folder for uncompressed copies of grids, `$XDG_CACHE_HOME/instance-nerf/grids`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "instance-nerf" / "grids"


@dataclass(frozen=True)
class SceneReadingConfig:
    """How scenes of a data set are read."""

    layout: DataLayout = "rooms"
    """What the files look like."""
    boxes: BoxKind = "aabb"
    """Axis-aligned boxes or boxes turned about z."""
    density_kind: DensityKind | None = None
    """What the density channel holds, where neither the file nor the data set's publication says."""
    hide_unseen: bool = True
    """Voxels that no camera saw are empty, as in the published grids; else they are what the field happens to hold."""
    cache: Path = field(default_factory=default_cache)
    """Compressed grids are copied here uncompressed, 8 bytes a voxel, to be mapped from the disk."""


@dataclass(frozen=True, eq=False)
class SceneTruth:
    """The boxes of one scene in voxel units, cut to the grid (OBBs to its height), no side thinner than a voxel."""

    boxes: Float32[np.ndarray, "K columns"]
    """AABBs or OBBs, as asked for."""
    categories: tuple[str, ...]
    obb: Float32[np.ndarray, "K 7"] | None = None
    """Beside AABBs, the OBBs of the same objects where they are known."""


def open_grid(files: SceneFiles, config: SceneReadingConfig) -> DensityGrid:
    """The grid of a scene, mapped from its file or from a copy in the cache.

    That no value is NaN is found out once for each state of the file.

    Raises:
        InputError: no such file, damaged, far too large, of unknown density kind, or not all numbers.
    """
    path = files.grid
    if not path.is_file():
        raise InputError(f"{path}: no such file, but scene {files.name!r} needs it; complete the data or its split")
    _check_declared_size(path)
    if files.published is None:
        read = partial(read_density_grid, density_kind=config.density_kind)
    else:
        read = partial(read_published_grid, layout=cast(Layout, config.layout), density_kind=config.density_kind)
    folder = config.cache / f"{config.layout}-{config.density_kind or 'stated'}"
    try:
        grid = mapped_grid(path, folder, read)
        if grid.rgbsigma.dtype != np.uint8 and not _is_copy(grid, folder):
            _check_numbers(path, grid, config.cache)
    except InputError:
        raise
    except (TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: no density grid ({error!r}); make it anew") from error
    except ValueError as error:  # the copy is not written when values are NaN
        raise InputError(f"{path}: holds values that are not numbers; make the grid anew") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{path}: cannot be copied to the cache {folder} ({reason}); choose another --cache"
        ) from error
    return grid


def grid_features(grid: DensityGrid, hide_unseen: bool) -> Float32[Tensor, "4 W L H"]:
    """`DensityGrid.rgb_alpha`, with opacity 0 where no camera saw if `hide_unseen`."""
    wide = None
    if grid.rgbsigma.dtype == np.float16:
        # The same numbers; torch widens halves several times as fast as NumPy.
        halves = torch.from_numpy(np.array(grid.rgbsigma)).permute(3, 0, 1, 2)
        wide = torch.empty(halves.shape, dtype=torch.float32).copy_(halves).numpy()
    values = grid.rgb_alpha(wide)
    if hide_unseen and grid.seen is not None:
        values[3] *= grid.seen
    return torch.from_numpy(values)


def read_truth(
    files: SceneFiles, config: SceneReadingConfig, grid: DensityGrid, needs_masks: bool = False
) -> SceneTruth | None:
    """The truth of a scene in voxel units; None where it has none. No boxes at all are fine.

    Raises:
        InputError: damaged, of the other kind of boxes, boxes that are not finite, flat or outside of the grid, or
            without the masks that are needed.
    """
    truth = _read_truth(files, grid)
    if truth is None:
        return None
    if needs_masks and truth.instances is None:
        raise InputError(f"{files.truth_file}: holds boxes and no masks; leave scene {files.name!r} out")
    only_boxes = files.published is not None and files.published.metadata is None
    if only_boxes and config.boxes == "aabb" and truth.obb is not None:
        raise InputError(
            f"{files.truth_file}: holds OBBs (7 columns) where AABBs (6) belong; use --boxes obb, or correct it"
        )
    return _checked_truth(files.truth_file, truth, config.boxes, grid)


def read_instance_rows(files: SceneFiles, grid: DensityGrid) -> Int32[Tensor, "W L H"]:
    """The instance map of a scene: row + 1 of the box of the object that a voxel belongs to, 0 where none.

    Raises:
        InputError: the scene has none.
    """
    truth = _read_truth(files, grid)
    if truth is None or truth.instances is None:
        raise InputError(f"{files.truth_file}: has no masks; leave scene {files.name!r} out")
    ids = np.asarray(truth.instances)
    rows = np.zeros(max(int(ids.max(initial=0)), int(truth.ids.max(initial=0))) + 1, np.int32)
    rows[truth.ids] = np.arange(1, len(truth.ids) + 1)
    return torch.from_numpy(rows[np.maximum(ids, 0)])


def read_proposals(path: Path, kind: BoxKind, grid: DensityGrid) -> Float32[Tensor, "P columns"]:
    """Boxes of a file that `rcnn.detecting.write_proposals` wrote, in the grid's voxels.

    Raises:
        InputError: no such file, damaged, or of the other kind of boxes.
    """
    boxes = read_npz(path, ["boxes"]).get("boxes")
    columns = 6 if kind == "aabb" else 7
    if boxes is None or boxes.ndim != 2 or boxes.shape[1] != columns or not np.isfinite(boxes).all():
        found = "no boxes" if boxes is None else f"boxes {boxes.shape}"
        raise InputError(f"{path}: holds {found} where (N, {columns}) belong; make it anew with nerf-rcnn predict")
    cells = grid.as_cells()
    scaled = scale_boxes(boxes, 1 / cells.voxel_size, -cells.bbox_min / cells.voxel_size)
    return clip_and_filter(torch.from_numpy(scaled).float(), grid.resolution)[0]


def _read_truth(files: SceneFiles, grid: DensityGrid) -> GridTruth | None:
    try:
        if files.published is not None:
            known = files.published.boxes is not None or files.published.metadata is not None
            return read_published_truth(files.published, grid) if known else None
        if files.truth is None:
            return None
        _check_declared_size(files.truth)
        return read_grid_truth(files.truth, grid)
    except (TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise InputError(f"{files.truth_file}: no truth of a grid ({error!r}); make it anew") from error


def _checked_truth(path: Path, truth: GridTruth, kind: BoxKind, grid: DensityGrid) -> SceneTruth:
    if kind == "obb" and truth.obb is None and len(truth.ids):
        raise InputError(f"{path}: holds AABBs alone where OBBs belong; use --boxes aabb or complete the file")
    chosen = truth.aabb if kind == "aabb" else truth.obb if truth.obb is not None else np.zeros((0, 7))
    boxes = torch.from_numpy(np.array(chosen, np.float64))
    for row, sides in enumerate(box_sizes(boxes)):
        where = f"{path}: box {row + 1} of {len(boxes)}"
        if not boxes[row].isfinite().all():
            raise InputError(f"{where} has numbers that are not finite; correct it")
        if not (sides > 0).all():
            raise InputError(f"{where} has no volume (sides of {_numbers(sides)} voxels); correct it or leave it out")
    clipped = clip_boxes(boxes, grid.resolution)
    outside = (~usable_boxes(clipped, grid.resolution, min_size=0)) | (box_sizes(clipped) <= 0).any(1)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise InputError(
            f"{path}: box {row + 1} of {len(boxes)} ({_numbers(boxes[row])} voxels) lies outside of the grid of "
            f"{'x'.join(map(str, grid.resolution))}; correct it or leave it out"
        )
    # A rug of a centimetre owns a layer of voxels, and no detector can do better than that.
    thick = thicken_boxes(clipped, grid.resolution)
    companion = truth.obb if kind == "aabb" else None
    if companion is not None:
        companion = thicken_boxes(torch.from_numpy(companion.astype(np.float64)), grid.resolution).float().numpy()
    return SceneTruth(thick.float().numpy(), truth.categories, companion)


def _check_declared_size(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            largest = max((info.file_size for info in archive.infolist()), default=0)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable .npz file ({error}); make it anew") from error
    if largest > MAX_GRID_BYTES:
        raise InputError(f"{path}: unpacks to {largest / 1e9:.2g} GB, more than any grid needs; make it anew, coarser")


def _is_copy(grid: DensityGrid, folder: Path) -> bool:
    values = grid.rgbsigma if isinstance(grid.rgbsigma, np.memmap) else grid.rgbsigma.base
    # Small copies are read and not mapped; they are made without NaN, and so are those of small files.
    return not isinstance(values, np.memmap) or Path(str(values.filename)).parent.resolve() == folder.resolve()


def _check_numbers(path: Path, grid: DensityGrid, cache: Path) -> None:
    """Reads all of a mapped file, and leaves a mark in the cache that it need not be done again."""
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    mark = cache / "checked" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if mark.is_file():
        return
    for start in range(0, len(grid.rgbsigma), _SLAB):
        if np.isnan(grid.rgbsigma[start : start + _SLAB]).any():
            raise InputError(f"{path}: holds values that are not numbers; make the grid anew")
    write_atomically(mark, b"")


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:.4g}" for value in values.tolist())
