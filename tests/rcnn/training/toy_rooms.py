"""Rooms of a few coloured blocks on a floor, small enough to train on in seconds."""

from pathlib import Path

import numpy as np

from rcnn.backbones import ResNetConfig
from rcnn.grids import DensityGrid, GridTruth, write_density_grid, write_grid_truth
from rcnn.rpn import FCOSHeadConfig, NeRFRPNConfig

EDGE = 0.1
TINY = NeRFRPNConfig(
    ResNetConfig(blocks=(1, 1, 1, 1), block="basic", width=8, out_channels=16, norm="group", norm_groups=4),
    FCOSHeadConfig(convs=2, norm_groups=4),
)


def write_toy_room(room: Path, seed: int, shape: tuple[int, int, int] = (36, 32, 20)) -> None:
    """Three blocks apart from each other, with their boxes."""
    rng = np.random.default_rng(seed)
    values = np.zeros((*shape, 4), np.float16)
    values[:, :, :2] = (0.5, 0.5, 0.5, 100)
    boxes = []
    for place in rng.permutation(4)[:3]:
        corner = np.array([place // 2 * shape[0] // 2, place % 2 * shape[1] // 2, 2]) + rng.integers(1, 4, 3) * [
            1,
            1,
            0,
        ]
        size = rng.integers([8, 8, 6], [13, 12, 15])
        end = corner + size
        values[corner[0] : end[0], corner[1] : end[1], corner[2] : end[2]] = (*rng.random(3), 100)
        boxes.append([*corner, *end])
    grid = DensityGrid(values, np.zeros(3), EDGE * np.array(shape), "sigma")
    aabb = np.array(boxes, float)
    obb = np.concatenate([(aabb[:, :3] + aabb[:, 3:]) / 2, aabb[:, 3:] - aabb[:, :3], np.zeros((3, 1))], 1)
    write_density_grid(room / "grid" / "density.npz", grid, compress=False)
    names = ("block",) * 3
    write_grid_truth(
        room / "grid" / "truth.npz", GridTruth(None, np.arange(1, 4, dtype=np.int32), names, aabb, obb), grid
    )


def write_toy_rooms(root: Path, train: int = 2, val: int = 1) -> Path:
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            write_toy_room(root / split / f"room_{number:04d}", seed=number)
    return root
