"""Places in a box's own frame: the one rule by which RoIs, masks and voxels are laid over each other."""

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.boxes.conversions import is_rotated


def to_box_frame(points: Float[Tensor, "*#N 3"], boxes: Float[Tensor, "*#N columns"]) -> Float[Tensor, "*N 3"]:
    """Fractions of a box's sides, along its own axes: 0 at its lower faces, 1 at the upper ones.

    Args:
        points: in the units of the boxes.
        boxes: AABBs or OBBs with positive sides.
    """
    if not is_rotated(boxes):
        return (points - boxes[..., :3]) / (boxes[..., 3:] - boxes[..., :3])
    cos, sin = boxes[..., 6].cos(), boxes[..., 6].sin()
    x, y, z = (points - boxes[..., :3]).unbind(-1)
    return torch.stack([cos * x + sin * y, cos * y - sin * x, z], -1) / boxes[..., 3:6] + 0.5


def from_box_frame(fractions: Float[Tensor, "*#N 3"], boxes: Float[Tensor, "*#N columns"]) -> Float[Tensor, "*N 3"]:
    """Inverse of :func:`to_box_frame`."""
    if not is_rotated(boxes):
        return boxes[..., :3] + fractions * (boxes[..., 3:] - boxes[..., :3])
    cos, sin = boxes[..., 6].cos(), boxes[..., 6].sin()
    x, y, z = ((fractions - 0.5) * boxes[..., 3:6]).unbind(-1)
    return boxes[..., :3] + torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1)
