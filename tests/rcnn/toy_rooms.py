"""Rooms of a few coloured blocks on a floor, small enough to train on in seconds."""

from pathlib import Path

import numpy as np

from rcnn.backbones import ResNetConfig
from rcnn.boxes import MatchingConfig
from rcnn.grids import DensityGrid, GridTruth, write_density_grid, write_grid_truth
from rcnn.roi_heads import BoxHeadConfig, MaskHeadConfig, RoIHeadsConfig
from rcnn.rpn import FCOSHeadConfig, NeRFRPNConfig

EDGE = 0.1
TINY = NeRFRPNConfig(
    ResNetConfig(blocks=(1, 1, 1, 1), block="basic", width=8, out_channels=16, norm="group", norm_groups=4),
    FCOSHeadConfig(convs=2, norm_groups=4),
)
TINY_HEADS = RoIHeadsConfig(
    box=BoxHeadConfig(hidden=64),
    mask=MaskHeadConfig(bins=5, convs=2, channels=16),
    matching=MatchingConfig(0.25, 0.25, samples=64, positive_fraction=0.25),
)


def write_toy_room(room: Path, seed: int, shape: tuple[int, int, int] = (36, 32, 20), stepped: bool = False) -> None:
    """Three blocks apart from each other, with boxes and masks; stepped ones have upper halves half as wide as the
    lower."""
    rng = np.random.default_rng(seed)
    values = np.zeros((*shape, 4), np.float16)
    values[:, :, :2] = (0.5, 0.5, 0.5, 100)
    boxes, ids = [], np.zeros(shape, np.int32)
    for place in rng.permutation(4)[:3]:
        shift = rng.integers(1, 4, 3)
        corner = np.array([place // 2 * shape[0] // 2 + shift[0], place % 2 * shape[1] // 2 + shift[1], 2])
        size = rng.integers([8, 8, 6], [13, 12, 15])
        end, colour = corner + size, rng.random(3)
        boxes.append([*corner, *end])
        narrow = corner[0] + size[0] // 2 if stepped else end[0]
        for top, right in ((end[2], narrow), (corner[2] + size[2] // 2, end[0])):
            part = (slice(corner[0], right), slice(corner[1], end[1]), slice(corner[2], top))
            values[part] = (*colour, 100)
            ids[part] = len(boxes)
    grid = DensityGrid(values, np.zeros(3), EDGE * np.array(shape), "sigma")
    aabb = np.array(boxes, float)
    obb = np.concatenate([(aabb[:, :3] + aabb[:, 3:]) / 2, aabb[:, 3:] - aabb[:, :3], np.zeros((3, 1))], 1)
    write_density_grid(room / "grid" / "density.npz", grid, compress=False)
    # The tall ones are towers, so that there are classes to tell apart.
    names = tuple("tower" if sides[2] > 10 else "block" for sides in aabb[:, 3:] - aabb[:, :3])
    truth = GridTruth(ids, np.arange(1, 4, dtype=np.int32), names, aabb, obb)
    write_grid_truth(room / "grid" / "truth.npz", truth, grid)


def write_toy_rooms(root: Path, train: int = 2, val: int = 1, stepped: bool = False) -> Path:
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            write_toy_room(root / split / f"room_{number:04d}", seed=number, stepped=stepped)
    return root
