"""Boxes as frames of thin bars."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8

from rcnn.boxes import aabb_to_obb, box_corners, is_rotated
from rcnn.visualization.voxel_surface import ColouredFaces

# Squares of a bar, corners as `box_corners` numbers them.
_FACES = ((3, 2, 1, 0), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7))


def box_frames(
    boxes: Float[np.ndarray, "K columns"], colours: UInt8[np.ndarray, "K 3"], thickness: float
) -> ColouredFaces:
    """A square bar along each of the twelve edges of AABBs or OBBs, around the edge.

    Args:
        boxes: in any unit, which the result has too.
        colours: sRGB of each box.
        thickness: of a bar, in the same unit.
    """
    given = torch.from_numpy(np.ascontiguousarray(boxes, np.float64))
    bars = _bars(given if is_rotated(given) else aabb_to_obb(given), thickness)
    corners = box_corners(bars).numpy().reshape(-1, 8, 3)
    vertices = corners[:, np.array(_FACES)].reshape(-1, 3)
    first = 4 * np.arange(len(vertices) // 4)[:, None, None]
    return ColouredFaces(
        vertices.astype(np.float32),
        (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3),
        np.repeat(colours, 12 * 24, axis=0),
    )


def _bars(boxes: Float[torch.Tensor, "K 7"], thickness: float) -> Float[torch.Tensor, "K 12 7"]:
    """Bars are OBBs of their box's yaw."""
    sizes = boxes[:, 3:6]
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    bars = []
    for axis in range(3):
        length = torch.full_like(sizes, thickness)
        length[:, axis] += sizes[:, axis]
        for one in (-0.5, 0.5):
            for two in (-0.5, 0.5):
                offset = torch.zeros_like(sizes)
                offset[:, (axis + 1) % 3] = one * sizes[:, (axis + 1) % 3]
                offset[:, (axis + 2) % 3] = two * sizes[:, (axis + 2) % 3]
                x, y, z = offset.unbind(1)
                turned = torch.stack([cos * x - sin * y, sin * x + cos * y, z], 1)
                bars.append(torch.cat([boxes[:, :3] + turned, length, boxes[:, 6:]], 1))
    return torch.stack(bars, 1)
