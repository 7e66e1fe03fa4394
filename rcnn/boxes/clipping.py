"""Boxes cut to a grid, and rows dropped together with everything that belongs to them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rcnn.boxes.conversions import box_sizes, is_rotated


def clip_boxes(boxes: Float[Tensor, "N columns"], grid_size: Sequence[float]) -> Float[Tensor, "N columns"]:
    """AABBs cut to a grid; OBBs cut to its height, since what a wall leaves of a rotated box is no box.

    Args:
        boxes: AABBs or OBBs in voxels. A box apart from the grid becomes flat.
        grid_size: voxels along x, y, z, without padding; the grid is [0, X] x [0, Y] x [0, Z].
    """
    limit = boxes.new_tensor(list(grid_size))
    if not is_rotated(boxes):
        return torch.cat([boxes[:, :3].clamp(min=0).minimum(limit), boxes[:, 3:].clamp(min=0).minimum(limit)], 1)
    half = 0.5 * boxes[:, 5]
    low, high = ((boxes[:, 2] + reach).clamp(min=0).minimum(limit[2]) for reach in (-half, half))
    inside = ((low == boxes[:, 2] - half) & (high == boxes[:, 2] + half))[:, None]
    height = torch.stack([0.5 * (low + high), high - low], 1)
    # What is inside keeps its numbers to the last digit.
    height = torch.where(inside, boxes[:, [2, 5]], height)
    return torch.cat([boxes[:, :2], height[:, :1], boxes[:, 3:5], height[:, 1:], boxes[:, 6:]], 1)


def thicken_boxes(boxes: Float[Tensor, "N columns"], grid_size: Sequence[float]) -> Float[Tensor, "N columns"]:
    """Boxes with no side under one voxel, which is the least that an object owns, as far as the grid has room.

    Thin ones grow about their middle, and AABBs, and the height of OBBs, from the walls inwards.

    Args:
        boxes: clipped AABBs or OBBs in voxels.
        grid_size: voxels along x, y, z, without padding.
    """
    limit = boxes.new_tensor(list(grid_size))
    sizes = box_sizes(boxes)
    if is_rotated(boxes):
        wanted = sizes.clamp(min=1)
        half = 0.5 * wanted[:, 2]
        z = torch.where(sizes[:, 2] < 1, boxes[:, 2].maximum(half).minimum(limit[2] - half), boxes[:, 2])
        return torch.cat([boxes[:, :2], z[:, None], wanted, boxes[:, 6:]], 1)
    low = 0.5 * (boxes[:, :3] + boxes[:, 3:]) - 0.5
    low = low.minimum(limit - 1).clamp(min=0)
    thin = sizes < 1
    return torch.cat([torch.where(thin, low, boxes[:, :3]), torch.where(thin, low + 1, boxes[:, 3:])], 1)


def usable_boxes(
    boxes: Float[Tensor, "N columns"], grid_size: Sequence[float], min_size: float = 1e-3
) -> Bool[Tensor, "N"]:
    """Which clipped boxes a detector may propose.

    Finite ones without a side under `min_size`; an OBB's axis must also stand in the grid.
    """
    usable = boxes.isfinite().all(1) & (box_sizes(boxes) >= min_size).all(1)
    if is_rotated(boxes):
        axis = boxes[:, :2]
        usable = usable & ((axis >= 0) & (axis <= boxes.new_tensor(list(grid_size[:2])))).all(1)
    return usable


def clip_and_filter(
    boxes: Float[Tensor, "N columns"], grid_size: Sequence[float], *belonging: Tensor, min_size: float = 1e-3
) -> tuple[Tensor, ...]:
    """:func:`clip_boxes`, then the rows of :func:`usable_boxes`, of the boxes and of all that belongs to them.

    Args:
        boxes: AABBs or OBBs in voxels.
        grid_size: voxels along x, y, z, without padding.
        belonging: scores, levels and so on, a row for each box.
        min_size: in voxels.

    Returns:
        Boxes `[K, columns]`, and each of `belonging` with the same K rows.

    Raises:
        ValueError: something does not have a row for each box.
    """
    for rows in belonging:
        if rows.shape[:1] != boxes.shape[:1]:
            raise ValueError(f"a tensor of shape {list(rows.shape)} does not belong to boxes {list(boxes.shape)}")
    clipped = clip_boxes(boxes, grid_size)
    usable = usable_boxes(clipped, grid_size, min_size)
    return tuple(rows[usable] for rows in (clipped, *belonging))
