"""Boxes as offsets from reference boxes of the same kind: what anchor heads and RoI heads regress."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.boxes.conversions import normalize_yaw

LARGEST_RATIO = 2000.0
"""Of a decoded side to the reference's: an untrained head must not overflow the exponential."""


def encode_aabb_deltas(boxes: Float[Tensor, "*N 6"], references: Float[Tensor, "*N 6"]) -> Float[Tensor, "*N 6"]:
    """(Δx, Δy, Δz) of the centres in units of the reference's sides, and the logarithms of the ratios of the sides.

    Args:
        boxes: sides under 1 / 2000 of the reference's are encoded as that.
        references: anchors or proposals, with positive sides.
    """
    sides, of_references = boxes[..., 3:] - boxes[..., :3], references[..., 3:] - references[..., :3]
    apart = 0.5 * ((boxes[..., 3:] - references[..., 3:]) + (boxes[..., :3] - references[..., :3]))
    return torch.cat([apart / of_references, _log_ratio(sides, of_references)], -1)


def decode_aabb_deltas(deltas: Float[Tensor, "*N 6"], references: Float[Tensor, "*N 6"]) -> Float[Tensor, "*N 6"]:
    """Inverse of :func:`encode_aabb_deltas`; sides grow by a factor of 2000 at most."""
    sides = references[..., 3:] - references[..., :3]
    center = 0.5 * (references[..., 3:] + references[..., :3]) + deltas[..., :3] * sides
    half = 0.5 * sides * deltas[..., 3:].clamp(max=math.log(LARGEST_RATIO)).exp()
    return torch.cat([center - half, center + half], -1)


def encode_obb_deltas(boxes: Float[Tensor, "*N 7"], references: Float[Tensor, "*N 7"]) -> Float[Tensor, "*N 7"]:
    """As :func:`encode_aabb_deltas`, in the frame of rotated references, and the difference of the yaws.

    Args:
        boxes: a box turned by half a turn is the same box: the difference encoded lies in [-pi / 2, pi / 2).
        references: proposals, with positive sides.
    """
    cos, sin = references[..., 6].cos(), references[..., 6].sin()
    x, y, z = (boxes[..., :3] - references[..., :3]).unbind(-1)
    apart = torch.stack([cos * x + sin * y, cos * y - sin * x, z], -1) / references[..., 3:6]
    turn = normalize_yaw(boxes[..., 6:] - references[..., 6:])
    return torch.cat([apart, _log_ratio(boxes[..., 3:6], references[..., 3:6]), turn], -1)


def decode_obb_deltas(deltas: Float[Tensor, "*N 7"], references: Float[Tensor, "*N 7"]) -> Float[Tensor, "*N 7"]:
    """Inverse of :func:`encode_obb_deltas`, with a yaw in [-pi / 2, pi / 2)."""
    cos, sin = references[..., 6].cos(), references[..., 6].sin()
    x, y, z = (deltas[..., :3] * references[..., 3:6]).unbind(-1)
    center = references[..., :3] + torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1)
    sides = references[..., 3:6] * deltas[..., 3:6].clamp(max=math.log(LARGEST_RATIO)).exp()
    return torch.cat([center, sides, normalize_yaw(references[..., 6:] + deltas[..., 6:])], -1)


def _log_ratio(sides: Tensor, of_references: Tensor) -> Tensor:
    return (sides / of_references).clamp(min=1 / LARGEST_RATIO).log()
