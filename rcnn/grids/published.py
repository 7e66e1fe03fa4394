"""The grids and boxes published with NeRF-RPN (Hu et al., CVPR 2023) and Instance-NeRF (Liu et al., ICCV 2023).

A folder holds `features/<scene>.npz` with `rgbsigma (W, L, H, 4)`, x, y, z order and z up, `resolution`, `bbox_min` and
`bbox_max`; `aabb/<scene>.npy (N, 6)` and `obb/<scene>.npy (N, 7)` in voxel units; for NeRF-RCNN also
`masks/<scene>.npy (W, L, H)` and `metadata/<scene>.json`. Samples lie on the box (`nodes`), while boxes are
`(p - min) / (max - min) * R`. Flat files, `(N, 4)` with x fastest, are what the extraction script wrote: their axes are
instant-ngp's, which are the world's y, z and x.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from rcnn.errors import InputError
from rcnn.grids.density_grid import DensityGrid, DensityKind
from rcnn.grids.grid_file import stated_kind
from rcnn.grids.grid_truth import GridTruth, scale_boxes
from rcnn.grids.npz import read_npz, write_npz
from rcnn.safe_files import read_json

Layout = Literal["3dfront", "hypersim", "scannet", "general", "nerf-rcnn"]
LAYOUT_KINDS: Mapping[Layout, DensityKind | None] = {
    "3dfront": "log",
    "hypersim": "alpha",
    "scannet": "sigma",
    "general": None,
    "nerf-rcnn": None,
}
"""What each data set's density channel holds, as far as its publication says."""
ALPHA_DISTANCE = 0.01
"""The distance with which the published networks made opacity of density (NeRF-RPN, `density_to_alpha`)."""
EMPTY_LOG_DENSITY = -10000.0
"""Log density of instant-ngp's empty voxels."""


@dataclass(frozen=True)
class PublishedScene:
    """The files of one scene; those that a data set lacks are None."""

    name: str
    grid: Path
    boxes: Path | None = None
    masks: Path | None = None
    metadata: Path | None = None


def read_published_grid(path: Path, layout: Layout, density_kind: DensityKind | None = None) -> DensityGrid:
    """Reads a published grid; an uncompressed one is memory-mapped, also when its axes are another's.

    Args:
        path: `features/<scene>.npz`.
        layout: the data set. `general` and `nerf-rcnn` need the density kind as well.
        density_kind: overrules the data set's, for grids that were normalised since.

    Raises:
        InputError: no such file, damaged, or of unknown density kind.
    """
    data = read_npz(path)
    if missing := [name for name in ("rgbsigma", "bbox_min", "bbox_max") if name not in data]:
        raise InputError(f"{path}: no NeRF-RPN grid, {missing[0]} is missing; check the path")
    kind = stated_kind(path, data, density_kind or LAYOUT_KINDS[layout])
    values, low, high = data["rgbsigma"], data["bbox_min"], data["bbox_max"]
    resolution = tuple(int(n) for n in np.ravel(data.get("resolution", np.array(values.shape[:3]))))
    try:
        if values.ndim == 2:
            values = values.reshape(*resolution[::-1], 4).transpose(2, 1, 0, 3).transpose(2, 0, 1, 3)
            low, high = low[[2, 0, 1]], high[[2, 0, 1]]
        elif values.shape[:3] != resolution:
            if values.shape[:3] != tuple(resolution[i] for i in (2, 0, 1)):
                raise ValueError(f"resolution {resolution} does not fit rgbsigma {values.shape}")
            low, high = low[[2, 0, 1]], high[[2, 0, 1]]
        origin = "nodes" if "origin" not in data else str(data["origin"])
        return DensityGrid(values, low, high, kind, origin, alpha_distance=ALPHA_DISTANCE)  # type: ignore[arg-type]
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path}: {error}; make it anew") from error


def write_published_grid(path: Path, grid: DensityGrid) -> None:
    """Writes `features/<scene>.npz` as the published networks read it, with alpha as density.

    Alpha is this grid's, over its own voxel edge, and voxels that no camera saw are empty, as they are in grids from
    instant-ngp. The published samples lie on the faces of their box, so the box shrinks by half a voxel on each side.
    """
    alpha = grid.alpha()
    if grid.seen is not None:
        alpha = np.where(grid.seen, alpha, np.float32(0))
    cells, half = grid.as_cells(), grid.voxel_size / 2
    rgb = np.moveaxis(grid.rgb_alpha()[:3], 0, -1)
    arrays = {
        "rgbsigma": np.concatenate([rgb, alpha[..., None]], axis=-1),
        "resolution": np.array(grid.resolution, np.int64),
        "bbox_min": cells.bbox_min + half,
        "bbox_max": cells.bbox_max - half,
        "scale": np.array(1.0),
        "offset": np.zeros(3),
        "from_mitsuba": np.array(False),
        "density_kind": np.array("alpha"),  # other readers pass over it
    }
    write_npz(path, arrays)


def read_published_boxes(path: Path, grid: DensityGrid) -> Float[np.ndarray, "K 6"] | Float[np.ndarray, "K 7"]:
    """Boxes of `aabb/` or `obb/` in the continuous voxel units of `grid` (see `DensityGrid.world_to_voxels`).

    Raises:
        InputError: no such file, or no boxes in it.
    """
    try:
        boxes = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: no plain .npy array ({str(error).splitlines()[0]}); save it anew") from error
    if not isinstance(boxes, np.ndarray) or boxes.ndim != 2 or boxes.shape[1] not in (6, 7):
        raise InputError(f"{path}: boxes must be (N, 6) or (N, 7); check the path")
    return _to_voxels(boxes, grid)


def read_published_truth(scene: PublishedScene, grid: DensityGrid) -> GridTruth:
    """The truth of a scene: NeRF-RCNN's masks and metadata where they are, else NeRF-RPN's boxes.

    Raises:
        InputError: a file is missing or damaged, or the scene has no truth.
    """
    if scene.metadata is None:
        if scene.boxes is None:
            raise InputError(f"{scene.grid}: has no boxes; give a scene of the training or validation split")
        boxes = read_published_boxes(scene.boxes, grid)
        ids = np.arange(1, len(boxes) + 1, dtype=np.int32)
        names = ("object",) * len(ids)
        if boxes.shape[1] == 6:
            return GridTruth(None, ids, names, boxes)
        return GridTruth(None, ids, names, enclosing_boxes(boxes), boxes)
    content = read_json(scene.metadata)
    try:
        rows = sorted(content["instances"], key=lambda row: row["id"])
        corners = np.array(content["scene_bbox"], np.float64).reshape(2, 3)
        scale = np.array(grid.resolution) / (corners[1] - corners[0])
        shift = -corners[0] * scale
        aabb = np.array([row["aabb"] for row in rows], np.float64).reshape(-1, 6)
        obb = np.array([row["obb"] for row in rows], np.float64).reshape(-1, 7) if rows and "obb" in rows[0] else None
        names = tuple(str(row.get("nyu40_class") or row.get("category") or "object") for row in rows)
        ids = np.array([row["id"] for row in rows], np.int32)
        instances = None
        if scene.masks is not None:
            instances = np.load(scene.masks, mmap_mode="r", allow_pickle=False)
            if instances.shape != grid.resolution:
                raise ValueError(f"masks {instances.shape} for a grid of {grid.resolution}")
            instances = instances.astype(np.int32)
        in_grid = None if obb is None else _to_voxels(scale_boxes(obb, scale, shift), grid)
        return GridTruth(instances, ids, names, _to_voxels(scale_boxes(aabb, scale, shift), grid), in_grid)
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise InputError(f"{scene.metadata}: or its masks are damaged ({error!r}); make them anew") from error


def _to_voxels(boxes: np.ndarray, grid: DensityGrid) -> np.ndarray:
    """From (p - min) / (max - min) * R of the file's box to the voxel units in which sample i lies at i + 0.5."""
    if grid.origin == "cells":
        return boxes.astype(np.float64)
    count = np.array(grid.resolution)
    return scale_boxes(boxes, (count - 1) / count, np.full(3, 0.5))


def enclosing_boxes(obb: Float[np.ndarray, "K 7"]) -> Float[np.ndarray, "K 6"]:
    """Smallest axis-aligned boxes around oriented ones."""
    cosine, sine = np.abs(np.cos(obb[:, 6])), np.abs(np.sin(obb[:, 6]))
    w, l, h = obb[:, 3:6].T
    half = np.stack([cosine * w + sine * l, sine * w + cosine * l, h], axis=1) / 2
    return np.concatenate([obb[:, :3] - half, obb[:, :3] + half], axis=1)


def listed_scenes(path: Path) -> list[PublishedScene]:
    """The scenes of the `general` layout: a CSV file `,scene,rgbsigma_path,boxes_path` with paths beside it.

    `rcnn.data.find_scenes` finds those of the other layouts.

    Raises:
        InputError: no such file, or no such columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [
            PublishedScene(
                row["scene"],
                path.parent / row["rgbsigma_path"],
                None if row["boxes_path"] in ("None", "") else path.parent / row["boxes_path"],
            )
            for row in rows
        ]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the CSV file of the scenes") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: needs the columns scene, rgbsigma_path and boxes_path; correct it") from error
