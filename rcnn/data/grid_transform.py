"""Grids and boxes turned, mirrored and scaled alike, about the vertical axis through the grid's centre."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int32, Shaped
from torch import Tensor

from rcnn.boxes import aabb_to_obb, box_intersection, box_volume, clip_boxes, is_rotated, normalize_yaw, obb_to_aabb

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class GridTransform:
    """Quarter turns, then mirroring, then a turn by any angle with scaling; turns are counter-clockwise from above.

    Positions are continuous voxel units, in which voxel i covers [i, i + 1). Voxels are taken for cubes.
    """

    quarter_turns: int = 0
    flip_x: bool = False
    flip_y: bool = False
    angle: float = 0.0
    """Radians."""
    scale: float = 1.0
    """Size of things afterwards, relative to before. The grid keeps its size."""

    @property
    def resamples(self) -> bool:
        """Whether voxels are interpolated; without, they only change places."""
        return self.angle != 0 or self.scale != 1

    def shape_after(self, shape: Sequence[int]) -> Shape:
        """Voxels along x, y and z of the transformed grid."""
        x, y, z = shape
        return (y, x, z) if self.quarter_turns % 2 else (x, y, z)

    def apply(self, grid: Shaped[Tensor, "C X Y Z"]) -> Shaped[Tensor, "C X2 Y2 Z"]:
        """The transformed grid, a new one: trilinear interpolation, and zeros where it was not defined.

        Args:
            grid: in the memory of the CPU.
        """
        # Views of NumPy can run backwards, so that all is one copy.
        moved = np.rot90(grid.numpy(), self.quarter_turns, (1, 2))
        axes = tuple(axis for axis, flip in ((1, self.flip_x), (2, self.flip_y)) if flip)
        moved = torch.from_numpy(np.array(np.flip(moved, axes), order="C"))
        return _turn_and_scale(moved, self.angle, self.scale) if self.resamples else moved

    def apply_to_ids(self, ids: Int32[Tensor, "X Y Z"]) -> Int32[Tensor, "X2 Y2 Z"]:
        """The transformed instance map, a new one: each voxel takes the id at its centre, and 0 outside of the grid.

        Args:
            ids: in the memory of the CPU.
        """
        moved = replace(self, angle=0.0, scale=1.0).apply(ids[None])[0]
        if not self.resamples:
            return moved
        x, y = _ground_source(moved.shape[0], moved.shape[1], self.angle, self.scale)
        z = (torch.arange(moved.shape[2], dtype=torch.float64) + 0.5 - 0.5 * moved.shape[2]) / self.scale
        padded = F.pad(moved, (0, 1, 0, 1, 0, 1))  # what lies outside reads the zeros
        places = [
            torch.where((place >= 0) & (place < size), place, size)
            for source, size in zip((x, y, z), moved.shape, strict=True)
            for place in ((source + 0.5 * size).floor().long(),)
        ]
        return padded[places[0][:, :, None], places[1][:, :, None], places[2]]

    def apply_to_boxes(self, boxes: Float[Tensor, "K columns"], shape: Sequence[int]) -> Float[Tensor, "K columns"]:
        """The transformed boxes: OBBs exactly; AABBs become the smallest that enclose the turned ones.

        Args:
            boxes: in voxels.
            shape: voxels of the grid before.
        """
        before = 0.5 * boxes.new_tensor(list(shape))
        after = 0.5 * boxes.new_tensor(list(self.shape_after(shape)))
        linear = self._linear(boxes)
        rotated = is_rotated(boxes)
        obb = boxes if rotated else aabb_to_obb(boxes)
        center = (obb[:, :3] - before) @ linear.T + after
        if not rotated:
            half = 0.5 * obb[:, 3:6] @ linear.abs().T
            return torch.cat([center - half, center + half], 1)
        along = torch.stack([obb[:, 6].cos(), obb[:, 6].sin()], 1) @ linear[:2, :2].T
        yaw = normalize_yaw(torch.atan2(along[:, 1], along[:, 0]))
        return torch.cat([center, obb[:, 3:6] * self.scale, yaw[:, None]], 1)

    def _linear(self, like: Tensor) -> Float[Tensor, "3 3"]:
        """Matrix of offsets from the centre."""
        cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][self.quarter_turns % 4]
        quarter = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], dtype=torch.float64)
        flip = torch.tensor([-1.0 if self.flip_x else 1.0, -1.0 if self.flip_y else 1.0, 1.0], dtype=torch.float64)
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        turn = torch.tensor([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], dtype=torch.float64)
        return (self.scale * turn @ (flip[:, None] * quarter)).to(like)


def visible_fraction(boxes: Float[Tensor, "K columns"], shape: Sequence[int]) -> Float[Tensor, "K"]:
    """Share of the volume of each box that lies in the grid."""
    if is_rotated(boxes):
        grid = aabb_to_obb(boxes.new_tensor([[0.0, 0, 0, *shape]]))
        inside = box_intersection(boxes, grid.expand(len(boxes), 7)) if len(boxes) else boxes[:, 0]
    else:
        inside = box_volume(clip_boxes(boxes, shape))
    return inside / box_volume(boxes).clamp(min=1e-12)


def transform_boxes(
    transform: GridTransform,
    boxes: Float[Tensor, "K columns"],
    shape: Sequence[int],
    obb: Float[Tensor, "K 7"] | None = None,
    min_visible: float = 0.5,
) -> tuple[Float[Tensor, "L columns"], Bool[Tensor, "K"]]:
    """Boxes for a transformed grid: those that stay in it, cut to it (OBBs to its height).

    Args:
        transform: what was done to the grid.
        boxes: AABBs or OBBs in voxels.
        shape: voxels of the grid before.
        obb: beside AABBs, the OBBs of the same objects. An object lies in both of its boxes, and so does what encloses
            it after a turn, which keeps that as small as can be known.
        min_visible: share of a box that must be in the grid afterwards, lest it is dropped.

    Returns:
        The boxes that are left, and which those are.
    """
    after = transform.shape_after(shape)
    moved = transform.apply_to_boxes(boxes, shape)
    if obb is not None and not is_rotated(boxes) and transform.angle != 0:
        turned = obb_to_aabb(transform.apply_to_boxes(obb, shape))
        low, high = torch.maximum(moved[:, :3], turned[:, :3]), torch.minimum(moved[:, 3:], turned[:, 3:])
        # Boxes that contradict each other stay as they are.
        sound = (high > low).all(1, keepdim=True)
        moved = torch.where(sound, torch.cat([low, high], 1), moved)
    keep = visible_fraction(moved, after) >= min_visible if transform.resamples else torch.ones(len(moved)).bool()
    return clip_boxes(moved[keep], after), keep


def _ground_source(
    size_x: int, size_y: int, angle: float, scale: float
) -> tuple[Float64[Tensor, "X Y"], Float64[Tensor, "X Y"]]:
    """Where a voxel's centre came from, along x and y and relative to the grid's centre."""
    x = torch.arange(size_x, dtype=torch.float64)[:, None] + 0.5 - 0.5 * size_x
    y = torch.arange(size_y, dtype=torch.float64)[None] + 0.5 - 0.5 * size_y
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    return cosine * x + sine * y, cosine * y - sine * x


def _turn_and_scale(grid: Float[Tensor, "C X Y Z"], angle: float, scale: float) -> Float[Tensor, "C X Y Z"]:
    """Trilinear, as bilinear in the ground plane and then linear in z: heights share the former's weights."""
    channels, size_x, size_y, size_z = grid.shape
    x, y = _ground_source(size_x, size_y, angle, scale)
    # grid_sample wants -1..1 from face to face, y first.
    source = torch.stack([y / (0.5 * size_y), x / (0.5 * size_x)], -1)
    layers = grid.permute(0, 3, 1, 2).reshape(1, channels * size_z, size_x, size_y)
    flat = F.grid_sample(layers, source[None].to(grid), "bilinear", "zeros", align_corners=False)
    layers = flat.view(channels, size_z, size_x, size_y)
    if scale != 1:
        z = (torch.arange(size_z, dtype=torch.float64) + 0.5 - 0.5 * size_z) / scale + 0.5 * size_z - 0.5
        below = z.floor()
        result = torch.zeros_like(layers)
        for index, weight in ((below, 1 - (z - below)), (below + 1, z - below)):
            inside = (index >= 0) & (index < size_z)
            picked = layers[:, index.clamp(0, size_z - 1).long()]
            result.addcmul_(picked, (weight * inside).to(grid)[:, None, None])
        layers = result
    return layers.permute(0, 2, 3, 1).contiguous()
