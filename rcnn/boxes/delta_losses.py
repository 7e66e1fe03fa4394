"""Box regression losses on the regressed numbers and on projections into synthetic views."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rcnn.boxes.conversions import is_rotated

FOCAL_LENGTH = 600.0
"""Pixels, of the synthetic cameras."""


def smooth_l1_box_loss(
    predicted: Float[Tensor, "N columns"], target: Float[Tensor, "N columns"], beta: float = 1 / 9
) -> Float[Tensor, "N"]:
    """Smooth L1 summed over a box's numbers; the default kink is that of Faster R-CNN's box regression."""
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").sum(-1)


def projected_box_loss(
    predicted: Float[Tensor, "N columns"],
    target: Float[Tensor, "N columns"],
    extent: float,
    beta: float = 1 / 9,
) -> Float[Tensor, "N"]:
    """Smooth L1 between projections of two opposite corners into four views, in pixels over the grid's extent.

    The 2D loss of NeRF-RPN (Hu et al., CVPR 2023, section 3.3): cameras at the centre of a cube of `extent` plus
    (±extent, ±extent, +extent) look at that centre with a focal length of 600 pixels.

    Args:
        predicted: AABBs or OBBs in voxels; differentiable. Corners at or behind a camera are taken to be near it.
        target: boxes of the same kind.
        extent: longest side of the grid in voxels.
        beta: where the loss turns from quadratic to linear, in pixels.

    Returns:
        One sum over views and corners per row, over `extent`; callers divide by the number of rows, if there are any.
    """
    views = synthetic_views(extent, predicted)
    seen, wanted = (_project(_opposite_corners(boxes), views, 0.1 * extent) for boxes in (predicted, target))
    return F.smooth_l1_loss(seen, wanted, beta=beta, reduction="none").flatten(1).sum(1) / extent


def synthetic_views(extent: float, like: Tensor) -> Float[Tensor, "4 3 4"]:
    """World-to-camera matrices (OpenGL: x right, y up, looking along -z) of the loss's four cameras."""
    signs = torch.tensor([[1.0, 1, 1], [1, -1, 1], [-1, 1, 1], [-1, -1, 1]], dtype=like.dtype, device=like.device)
    back = signs / math.sqrt(3)
    right = F.normalize(torch.linalg.cross(back.new_tensor([[0.0, 0, 1]]).expand_as(back), back), dim=1)
    rotation = torch.stack([right, torch.linalg.cross(back, right), back], 1)
    position = extent * (signs + 0.5)
    return torch.cat([rotation, -(rotation @ position[:, :, None])], 2)


def _project(points: Float[Tensor, "N P 3"], views: Float[Tensor, "V 3 4"], nearest: float) -> Float[Tensor, "N V P 2"]:
    """Pixels from the image centre, x to the right and y up."""
    seen = torch.einsum("vij,npj->nvpi", views[:, :, :3], points) + views[:, None, :, 3]
    return FOCAL_LENGTH * seen[..., :2] / (-seen[..., 2:]).clamp(min=nearest)


def _opposite_corners(boxes: Float[Tensor, "N columns"]) -> Float[Tensor, "N 2 3"]:
    if not is_rotated(boxes):
        return boxes.reshape(-1, 2, 3)
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    w, l, h = 0.5 * boxes[:, 3], 0.5 * boxes[:, 4], 0.5 * boxes[:, 5]
    to_corner = torch.stack([w * cos - l * sin, w * sin + l * cos, h], 1)
    return torch.stack([boxes[:, :3] - to_corner, boxes[:, :3] + to_corner], 1)
