"""What a detector should find in a density grid: the instance of every voxel, and a box and category per instance.

On disk a .npz without pickles, beside its grid: `instances (W, L, H)` int32, 0 where none is; `ids (K,)` int32;
`categories (K,)` strings; `aabb (K, 6)` and, where known, `obb (K, 7)` in world units; `bbox_min`, `bbox_max` of the
grid (as cells); `format_version`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32

from rcnn.errors import InputError
from rcnn.grids.density_grid import DensityGrid
from rcnn.grids.npz import read_npz, write_npz
from rcnn.safe_files import read_json

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class GridTruth:
    """Instances of one grid; everything in voxel units, index order (x, y, z)."""

    instances: Int32[np.ndarray, "W L H"] | None
    """Instance id of each voxel, 0 where none is; None for truth that has boxes alone."""
    ids: Int32[np.ndarray, " K"]
    """Instance ids, ascending."""
    categories: tuple[str, ...]
    """Category of each instance."""
    aabb: Float[np.ndarray, "K 6"]
    """Boxes (x1, y1, z1, x2, y2, z2)."""
    obb: Float[np.ndarray, "K 7"] | None = None
    """Boxes (cx, cy, cz, w, l, h, yaw), yaw about z, counter-clockwise from above."""

    def __post_init__(self) -> None:
        count = len(self.ids)
        if len(self.categories) != count or self.aabb.shape != (count, 6):
            raise ValueError(f"{count} ids need as many categories and boxes (K, 6), not {self.aabb.shape}")
        if self.obb is not None and self.obb.shape != (count, 7):
            raise ValueError(f"{count} ids need oriented boxes ({count}, 7), not {self.obb.shape}")


def scale_boxes(
    boxes: Float[np.ndarray, "K 6"] | Float[np.ndarray, "K 7"],
    scale: Float[np.ndarray, "3"],
    shift: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "K 6"] | Float[np.ndarray, "K 7"]:
    """Boxes under p -> scale * p + shift. An oriented box under unequal scales keeps its yaw's image and its volume.

    Its sides grow as their own directions do; what is then no rectangle differs from one by as much as scales do.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.shape[1] == 6:
        return np.concatenate([boxes[:, :3] * scale + shift, boxes[:, 3:] * scale + shift], axis=1)
    cosine, sine = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    along = np.stack([cosine * scale[0], sine * scale[1]], axis=1)
    length = np.hypot(*along.T)
    across = scale[0] * scale[1] / length
    sides = boxes[:, 3:6] * np.stack([length, across, np.full(len(boxes), scale[2])], axis=1)
    return np.concatenate([boxes[:, :3] * scale + shift, sides, np.arctan2(along[:, 1], along[:, 0])[:, None]], axis=1)


def write_grid_truth(path: Path, truth: GridTruth, grid: DensityGrid) -> None:
    """Writes the truth of `grid`, with boxes in world units, whole or not at all."""
    cells = grid.as_cells()
    scale, shift = cells.voxel_size, cells.bbox_min
    arrays = {
        "ids": truth.ids.astype(np.int32),
        "categories": np.array(truth.categories, dtype=np.str_),
        "aabb": scale_boxes(truth.aabb, scale, shift),
        "bbox_min": cells.bbox_min,
        "bbox_max": cells.bbox_max,
        "format_version": np.array(FORMAT_VERSION, np.int32),
    }
    if truth.instances is not None:
        if truth.instances.shape != grid.resolution:
            raise ValueError(f"{path}: truth of {truth.instances.shape} voxels for a grid of {grid.resolution}")
        arrays["instances"] = truth.instances.astype(np.int32)
    if truth.obb is not None:
        arrays["obb"] = scale_boxes(truth.obb, scale, shift)
    write_npz(path, arrays)


def read_grid_truth(path: Path, grid: DensityGrid) -> GridTruth:
    """Reads the truth that was written beside `grid`.

    Raises:
        InputError: no such file, damaged, or of another grid.
    """
    data = read_npz(path)
    try:
        cells = grid.as_cells()
        corners = np.stack([data["bbox_min"], data["bbox_max"]])
        if np.abs(corners - [cells.bbox_min, cells.bbox_max]).max() > 0.01 * cells.voxel_size.min():
            raise InputError(f"{path}: belongs to a grid with another box; make both anew")
        instances = data.get("instances")
        if instances is not None and instances.shape != grid.resolution:
            raise InputError(f"{path}: has {instances.shape} voxels, its grid {grid.resolution}; make both anew")
        scale, shift = 1 / cells.voxel_size, -cells.bbox_min / cells.voxel_size
        obb = scale_boxes(data["obb"], scale, shift) if "obb" in data else None
        names = tuple(str(name) for name in data["categories"])
        return GridTruth(instances, data["ids"], names, scale_boxes(data["aabb"], scale, shift), obb)
    except InputError:
        raise
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: no truth of a grid ({error!r}); make it anew") from error


def room_truth(room: Path, grid: DensityGrid) -> GridTruth:
    """The truth of a room's folder, `gt_voxels.npz` and `instances.json`, in the frame of a grid of that room.

    Voxels are resampled with `resample_ids`. Boxes come from `instances.json`; instances without one are left out of
    the list and keep their voxels.

    Raises:
        InputError: the room has no such files, or they are damaged.
    """
    path, table = room / "gt_voxels.npz", room / "instances.json"
    data = read_npz(path)
    cells = grid.as_cells()
    try:
        rows = sorted((row for row in read_json(table)["instances"] if row.get("aabb")), key=lambda row: row["id"])
        ids = np.array([row["id"] for row in rows], np.int32)
        aabb = np.array([row["aabb"] for row in rows], np.float64).reshape(-1, 6)
        with_obb = bool(rows) and all(row.get("obb") for row in rows)
        obb = np.array([row["obb"] for row in rows], np.float64).reshape(-1, 7) if with_obb else None
        names = tuple(str(row.get("category", "object")) for row in rows)
        voxels = data["instances"]
        size = (data["bbox_max"] - data["bbox_min"]) / np.array(voxels.shape)
        scale, shift = cells.voxel_size / size, (cells.bbox_min - data["bbox_min"]) / size
        instances = resample_ids(voxels, grid.resolution, scale, shift)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{room}: {path.name} or {table.name} is damaged ({error!r}); make the room anew") from error
    inverse, offset = 1 / cells.voxel_size, -cells.bbox_min / cells.voxel_size
    boxes = None if obb is None else scale_boxes(obb, inverse, offset)
    return GridTruth(instances, ids, names, scale_boxes(aabb, inverse, offset), boxes)


def resample_ids(
    ids: np.ndarray,
    shape: tuple[int, int, int],
    scale: Float[np.ndarray, "3"],
    shift: Float[np.ndarray, "3"],
) -> Int32[np.ndarray, "W L H"]:
    """Ids on another grid of cells, of which voxel position p lies at scale * p + shift in the first; 0 outside of it.

    A cell takes the id at its centre. One that is larger than the first grid's takes the id that is most frequent in
    it, and of equally frequent ones an instance before none.
    """
    finer = np.maximum(np.ceil(scale - 1e-6).astype(int), 1)
    places = []
    for axis in range(3):
        centres = (np.arange(shape[axis] * finer[axis]) + 0.5) / finer[axis] * scale[axis] + shift[axis]
        index = np.floor(centres + 1e-9).astype(int)
        places.append(np.where((index >= 0) & (index < ids.shape[axis]), index, ids.shape[axis]))
    padded = np.pad(np.asarray(ids).astype(np.int32), (0, 1))  # what lies outside reads the zeros
    result = padded[np.ix_(*places)]
    if (finer == 1).all():
        return result
    w, l, h = shape
    parts = result.reshape(w, finer[0], l, finer[1], h, finer[2]).transpose(0, 2, 4, 1, 3, 5).reshape(w, l, h, -1)
    parts = np.sort(parts, axis=-1)[..., ::-1]  # instances first, so that they win ties
    counts = (parts[..., None, :] == parts[..., :, None]).sum(-1)
    return np.take_along_axis(parts, counts.argmax(-1)[..., None], axis=-1)[..., 0]
