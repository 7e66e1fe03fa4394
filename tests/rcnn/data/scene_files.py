"""Small scenes on disk for tests, in our layout and in the published ones."""

from pathlib import Path

import numpy as np

from rcnn.grids import DensityGrid, GridTruth, write_density_grid, write_grid_truth

SHAPE = (10, 6, 8)
LOW, HIGH = np.array([-1.0, 0, 0]), np.array([1.0, 1.2, 1.6])
AABB = np.array([[1.0, 1, 0, 4, 3, 5], [5, 2, 1, 9, 5, 7]])
OBB = np.array([[2.5, 2, 2.5, 3, 2, 5, 0], [7, 3.5, 4, 2, 3, 6, 0.5]])
NAMES = ("chair", "bed")


def grid_of(shape: tuple[int, int, int] = SHAPE, seed: int = 0, seen: bool = False) -> DensityGrid:
    """Random colours and densities, the same in a file as in memory."""
    random = np.random.default_rng(seed)
    values = random.random((*shape, 4)).astype(np.float16)
    mask = random.random(shape) < 0.5 if seen else None
    return DensityGrid(values, LOW, LOW + 0.2 * np.array(shape), "sigma", seen=mask)


def write_room(room: Path, truth: GridTruth | bool | None = True, compress: bool = True, **grid_options) -> DensityGrid:
    """A room's folder with its grid and truth; the truth of `AABB` and `OBB` if True, none if None."""
    grid = grid_of(**grid_options)
    write_density_grid(room / "grid" / "density.npz", grid, compress)
    (room / "transforms.json").write_text("{}")
    if truth is True:
        truth = GridTruth(None, np.array([1, 2], np.int32), NAMES, AABB, OBB)
    if truth:
        write_grid_truth(room / "grid" / "truth.npz", truth, grid)
    return grid


def write_features(path: Path, **changes) -> None:
    """A published grid."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).random((*SHAPE, 4), dtype=np.float32)
    arrays = {"rgbsigma": values, "resolution": np.array(SHAPE), "bbox_min": LOW, "bbox_max": HIGH} | changes
    np.savez_compressed(path, **arrays)


def write_boxes(path: Path, boxes: np.ndarray) -> Path:
    """Published boxes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, boxes)
    return path
