"""Rotated boxes as midpoint offsets: the enclosing AABB and where two vertices touch its sides.

After Xie et al., "Oriented R-CNN for Object Detection" (ICCV 2021), section 3.1, as NeRF-RPN uses it in 3D. With W and
H the sides of the enclosing rectangle, the vertex of largest y is αW from the centre in x, and the vertex of largest x
is βH from the centre in y. A regressed pair is no rectangle's in general: the shorter of the two half diagonals is
stretched to the longer.

Published NeRF-RPN weights of the anchor head regress -β, since their code mirrors boxes; those of the anchor-free head
regress β.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.boxes.conversions import normalize_yaw, obb_to_aabb

LARGEST_RATIO = 1000 / 16
"""Of a decoded side of the enclosing AABB to the anchor's, either way."""


def encode_midpoints(
    boxes: Float[Tensor, "*N 7"], tolerance: float = 0.1
) -> tuple[Float[Tensor, "*N 6"], Float[Tensor, "*N 2"]]:
    """Enclosing AABBs of OBBs, and (α, β) in [-0.5, 0.5].

    Args:
        boxes: OBBs with any yaw.
        tolerance: (α, β) jump from (0.5, -0.5) to (-0.5, 0.5) where a box is aligned with the grid, and the average of
            the two is a box at 45°. A box that is turned so little past that point that no vertex is farther than this
            from its enclosing AABB is encoded as that AABB. In units of the boxes; 0 encodes every box exactly.
    """
    quarter = 0.5 * math.pi
    # A quarter turn swaps the sides; what is left is a yaw in [0, pi / 2) whose corner (+w, +l) has the largest y.
    turns = torch.floor(boxes[..., 6] / quarter)
    yaw = (boxes[..., 6] - turns * quarter).clamp(0, quarter)
    swapped = torch.remainder(turns, 2) == 1
    w = torch.where(swapped, boxes[..., 4], boxes[..., 3])
    l = torch.where(swapped, boxes[..., 3], boxes[..., 4])
    cos, sin = yaw.cos(), yaw.sin()
    wide, deep = w * cos + l * sin, w * sin + l * cos
    alpha = 0.5 * (w * cos - l * sin) / torch.where(wide == 0, 1, wide)
    beta = 0.5 * (w * sin - l * cos) / torch.where(deep == 0, 1, deep)
    aligned = (torch.maximum(w, l) * cos <= tolerance) & (cos < sin)
    midpoints = torch.stack([torch.where(aligned, 0.5, alpha), torch.where(aligned, -0.5, beta)], -1)
    return obb_to_aabb(boxes), midpoints


def decode_midpoints(enclosing: Float[Tensor, "*N 6"], midpoints: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 7"]:
    """Inverse of :func:`encode_midpoints`, with a yaw in [-pi / 2, pi / 2); differentiable everywhere.

    Args:
        enclosing: AABBs.
        midpoints: any (α, β), clamped to [-0.5, 0.5].
    """
    center, sides = 0.5 * (enclosing[..., :3] + enclosing[..., 3:]), enclosing[..., 3:] - enclosing[..., :3]
    wide, deep = sides[..., 0], sides[..., 1]
    alpha, beta = midpoints.clamp(-0.5, 0.5).unbind(-1)
    top = torch.stack([alpha * wide, 0.5 * deep], -1)
    right = torch.stack([0.5 * wide, beta * deep], -1)
    length_top, length_right = _length(top), _length(right)
    longest = torch.maximum(length_top, length_right)
    top = top * (longest / torch.where(length_top == 0, 1, length_top))[..., None]
    right = right * (longest / torch.where(length_right == 0, 1, length_right))[..., None]
    middle = 0.5 * (top + right)
    w, l = 2 * _length(middle), _length(top - right)
    # Opposite vertices leave nothing that points along the box: its other side does.
    flat = w <= 1e-6 * l
    x = torch.where(flat, top[..., 1] - right[..., 1], middle[..., 0])
    y = torch.where(flat, right[..., 0] - top[..., 0], middle[..., 1])
    nowhere = (x == 0) & (y == 0)
    yaw = normalize_yaw(torch.atan2(torch.where(nowhere, 0, y), torch.where(nowhere, 1, x)))
    return torch.cat([center, torch.stack([w, l, sides[..., 2], yaw], -1)], -1)


def _length(vectors: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N"]:
    """Norm with a gradient of 0 at 0."""
    squared = vectors.square().sum(-1)
    zero = squared == 0
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


def encode_midpoint_offsets(
    boxes: Float[Tensor, "*N 7"], anchors: Float[Tensor, "*N 6"], tolerance: float = 0.1
) -> Float[Tensor, "*N 8"]:
    """OBBs as offsets from AABB anchors.

    Returns:
        (Δx, Δy, Δz) of the centres in units of the anchor's sides, the logarithms of the ratios of the enclosing AABB's
        sides to the anchor's, clamped as when they are decoded, and (α, β).
    """
    enclosing, midpoints = encode_midpoints(boxes, tolerance)
    sides = anchors[..., 3:] - anchors[..., :3]
    apart = boxes[..., :3] - 0.5 * (anchors[..., :3] + anchors[..., 3:])
    ratio = (enclosing[..., 3:] - enclosing[..., :3]) / sides
    return torch.cat([apart / sides, ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO).log(), midpoints], -1)


def decode_midpoint_offsets(deltas: Float[Tensor, "*N 8"], anchors: Float[Tensor, "*N 6"]) -> Float[Tensor, "*N 7"]:
    """Inverse of :func:`encode_midpoint_offsets`; sides change by a factor of 62.5 at most."""
    sides = anchors[..., 3:] - anchors[..., :3]
    center = 0.5 * (anchors[..., :3] + anchors[..., 3:]) + deltas[..., :3] * sides
    limit = math.log(LARGEST_RATIO)
    half = 0.5 * sides * deltas[..., 3:6].clamp(-limit, limit).exp()
    return decode_midpoints(torch.cat([center - half, center + half], -1), deltas[..., 6:])


def encode_location_distances(
    boxes: Float[Tensor, "*N columns"], locations: Float[Tensor, "*N 3"], tolerance: float = 0.1
) -> Float[Tensor, "*N outputs"]:
    """Boxes as seen from a location, the targets of an anchor-free head (Tian et al., "FCOS", ICCV 2019).

    Args:
        boxes: AABBs or OBBs.
        locations: points, usually inside.
        tolerance: of :func:`encode_midpoints`.

    Returns:
        Distances to the lower faces of the (enclosing) AABB along x, y, z and to the upper faces, negative for a
        location outside, `[..., 6]`; with (α, β) for OBBs, `[..., 8]`.
    """
    if boxes.shape[-1] == 6:
        return torch.cat([locations - boxes[..., :3], boxes[..., 3:] - locations], -1)
    enclosing, midpoints = encode_midpoints(boxes, tolerance)
    return torch.cat([encode_location_distances(enclosing, locations), midpoints], -1)


def decode_location_distances(
    distances: Float[Tensor, "*N outputs"], locations: Float[Tensor, "*N 3"]
) -> Float[Tensor, "*N columns"]:
    """Inverse of :func:`encode_location_distances`."""
    aabbs = torch.cat([locations - distances[..., :3], locations + distances[..., 3:6]], -1)
    return aabbs if distances.shape[-1] == 6 else decode_midpoints(aabbs, distances[..., 6:])
