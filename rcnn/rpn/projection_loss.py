"""The 2D loss for boxes of grids of several sizes at once."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.boxes import is_rotated, projected_box_loss


def projection_loss(
    predicted: Float[Tensor, "P columns"], target: Float[Tensor, "P columns"], extents: Float[Tensor, "P"]
) -> Float[Tensor, "P"]:
    """:func:`rcnn.boxes.projected_box_loss` with an extent per row.

    Args:
        predicted: AABBs or OBBs in voxels; differentiable.
        target: boxes of the same kind.
        extents: longest side in voxels of the grid that each row comes from.
    """
    if is_rotated(target):
        target = turn_like(target, predicted.detach())
    # Pixels stay the same when boxes and cameras shrink together.
    shrunk = (_scale(boxes, 1 / extents[:, None]) for boxes in (predicted, target))
    return projected_box_loss(*shrunk, extent=1.0) / extents


def turn_like(boxes: Float[Tensor, "P 7"], others: Float[Tensor, "P 7"]) -> Float[Tensor, "P 7"]:
    """The same OBBs, written with the yaw nearest to that of others.

    A quarter turn with the sides swapped, or half a turn, changes no box, but which corners are opposite to compare.
    """
    quarter = 0.5 * math.pi
    turns = ((boxes[:, 6:] - others[:, 6:]) / quarter).round()
    sides = torch.where(turns.remainder(2) == 1, boxes[:, [4, 3]], boxes[:, 3:5])
    return torch.cat([boxes[:, :3], sides, boxes[:, 5:6], boxes[:, 6:] - quarter * turns], 1)


def _scale(boxes: Float[Tensor, "P columns"], factor: Float[Tensor, "P 1"]) -> Float[Tensor, "P columns"]:
    if not is_rotated(boxes):
        return boxes * factor
    return torch.cat([boxes[:, :6] * factor, boxes[:, 6:]], 1)
