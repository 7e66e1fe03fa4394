"""Axis-aligned and rotated boxes turned into each other, into corners and into one canonical form.

AABB: `(x1, y1, z1, x2, y2, z2)`. OBB: `(cx, cy, cz, w, l, h, yaw)`, sizes along the box's own x, y and z, and the angle
from the grid's x axis to the box's, in radians, counter-clockwise seen from above. Units are the caller's, voxels in
the detector.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def is_rotated(boxes: Float[Tensor, "*N columns"]) -> bool:
    """Whether boxes are OBBs.

    Raises:
        ValueError: they have neither 6 nor 7 columns.
    """
    if boxes.dim() == 0 or boxes.shape[-1] not in (6, 7):
        raise ValueError(f"boxes must have 6 columns (AABB) or 7 (OBB), not the shape {list(boxes.shape)}")
    return boxes.shape[-1] == 7


def aabb_to_obb(boxes: Float[Tensor, "*N 6"]) -> Float[Tensor, "*N 7"]:
    """The same boxes with a yaw of 0."""
    low, high = boxes[..., :3], boxes[..., 3:]
    return torch.cat([0.5 * (low + high), high - low, torch.zeros_like(boxes[..., :1])], -1)


def ground_half_extents(boxes: Float[Tensor, "*N 7"]) -> Float[Tensor, "*N 2"]:
    """Half the sides, along the grid's x and y, of what encloses OBBs in the ground plane."""
    cos, sin = boxes[..., 6].cos().abs(), boxes[..., 6].sin().abs()
    w, l = boxes[..., 3], boxes[..., 4]
    return 0.5 * torch.stack([w * cos + l * sin, w * sin + l * cos], -1)


def obb_to_aabb(boxes: Float[Tensor, "*N 7"]) -> Float[Tensor, "*N 6"]:
    """The smallest AABBs that enclose OBBs."""
    half = torch.cat([ground_half_extents(boxes), 0.5 * boxes[..., 5:6]], -1)
    return torch.cat([boxes[..., :3] - half, boxes[..., :3] + half], -1)


def enclosing_aabb(boxes: Float[Tensor, "*N columns"]) -> Float[Tensor, "*N 6"]:
    """:func:`obb_to_aabb` of OBBs; AABBs as they are."""
    return obb_to_aabb(boxes) if is_rotated(boxes) else boxes


def ground_corners(boxes: Float[Tensor, "*N 7"]) -> Float[Tensor, "*N 4 2"]:
    """Corners of OBBs in the ground plane, counter-clockwise from the box's own (+x, +y)."""
    cos, sin = boxes[..., 6:7].cos(), boxes[..., 6:7].sin()
    along = 0.5 * torch.stack([boxes[..., 3], -boxes[..., 3], -boxes[..., 3], boxes[..., 3]], -1)
    across = 0.5 * torch.stack([boxes[..., 4], boxes[..., 4], -boxes[..., 4], -boxes[..., 4]], -1)
    offsets = torch.stack([cos * along - sin * across, sin * along + cos * across], -1)
    return boxes[..., None, :2] + offsets


def box_corners(boxes: Float[Tensor, "*N columns"]) -> Float[Tensor, "*N 8 3"]:
    """Corners of AABBs or OBBs: the four lower ones as in :func:`ground_corners`, then the four upper ones."""
    if not is_rotated(boxes):
        boxes = aabb_to_obb(boxes)
    ground = ground_corners(boxes)
    half = 0.5 * boxes[..., 5]
    low, high = (
        torch.cat([ground, z[..., None, None].expand(*ground.shape[:-1], 1)], -1)
        for z in (boxes[..., 2] - half, boxes[..., 2] + half)
    )
    return torch.cat([low, high], -2)


def box_sizes(boxes: Float[Tensor, "*N columns"]) -> Float[Tensor, "*N 3"]:
    """Sides of boxes; negative ones stay negative."""
    return boxes[..., 3:6] if is_rotated(boxes) else boxes[..., 3:] - boxes[..., :3]


def widen_boxes(boxes: Float[Tensor, "*N columns"], margin: float) -> Float[Tensor, "*N columns"]:
    """Boxes with all faces moved outwards by a margin."""
    if is_rotated(boxes):
        return torch.cat([boxes[..., :3], boxes[..., 3:6] + 2 * margin, boxes[..., 6:]], -1)
    return torch.cat([boxes[..., :3] - margin, boxes[..., 3:] + margin], -1)


def box_volume(boxes: Float[Tensor, "*N columns"]) -> Float[Tensor, "*N"]:
    """Volumes; a box with a negative side is empty."""
    return box_sizes(boxes).clamp(min=0).prod(-1)


def normalize_yaw(yaw: Float[Tensor, "*N"], period: float = math.pi) -> Float[Tensor, "*N"]:
    """Angles brought to [-period / 2, period / 2).

    Args:
        yaw: radians.
        period: half a turn by default, after which a box looks the same.
    """
    wrapped = torch.remainder(yaw + 0.5 * period, period) - 0.5 * period
    # The remainder of a tiny negative number rounds to the period itself.
    return torch.where(wrapped >= 0.5 * period, wrapped - period, wrapped)


def normalize_obb(boxes: Float[Tensor, "*N 7"]) -> Float[Tensor, "*N 7"]:
    """The same boxes with w >= l and a yaw in [-pi / 2, pi / 2)."""
    turned = boxes[..., 3:4] < boxes[..., 4:5]
    sides = torch.where(turned, boxes[..., [4, 3]], boxes[..., 3:5])
    yaw = normalize_yaw(boxes[..., 6:7] + 0.5 * math.pi * turned.to(boxes.dtype))
    return torch.cat([boxes[..., :3], sides, boxes[..., 5:6], yaw], -1)
