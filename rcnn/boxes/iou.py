"""Intersection over union of boxes in 3D: all pairs, in chunks that bound the memory, or row by row."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rcnn.boxes.conversions import box_volume, ground_half_extents, is_rotated
from rcnn.boxes.rectangle_overlap import rectangle_overlap

PAIRS_PER_CHUNK = 2**20
"""Pairs that are worked on at once, which bounds the temporaries."""


def box_iou(
    first: Float[Tensor, "*B N columns"],
    second: Float[Tensor, "*B M columns"],
    pairs_per_chunk: int = PAIRS_PER_CHUNK,
) -> Float[Tensor, "*B N M"]:
    """IoU of every box of one set with every box of another.

    Exact for AABBs and for boxes turned about z, whose footprints are intersected as polygons. Differentiable; with
    gradients, the temporaries of all overlapping pairs are kept.

    Args:
        first: AABBs `[..., N, 6]` or OBBs `[..., N, 7]`.
        second: boxes of the same kind, with the same leading dimensions.
        pairs_per_chunk: bound on the pairs worked on at once.

    Returns:
        IoU in [0, 1], float32 for half-precision boxes; 0 for two empty boxes.

    Raises:
        ValueError: boxes of different kinds, or neither 6 nor 7 columns.
    """
    first, second = _check(first, second)
    if first.shape[:-2] != second.shape[:-2] or first.dim() < 2:
        raise ValueError(f"boxes must be [..., N, columns], not {list(first.shape)} and {list(second.shape)}")
    if first.dim() > 2:
        flat = [a.reshape(-1, *a.shape[-2:]) for a in (first, second)]
        ious = [box_iou(a, b, pairs_per_chunk) for a, b in zip(*flat, strict=True)]
        shape = (*first.shape[:-1], second.shape[-2])
        return torch.stack(ious).reshape(shape) if ious else first.new_zeros(shape)
    return masked_box_iou(first, second, None, pairs_per_chunk)


def masked_box_iou(
    first: Float[Tensor, "N columns"],
    second: Float[Tensor, "M columns"],
    groups: tuple[Tensor, Tensor] | None,
    pairs_per_chunk: int = PAIRS_PER_CHUNK,
) -> Float[Tensor, "N M"]:
    """:func:`box_iou` of float32 or float64 boxes, 0 for pairs of different groups.

    Args:
        first: boxes.
        second: boxes.
        groups: group of each box of the two sets; None for one group.
        pairs_per_chunk: as there.
    """
    rows = max(1, pairs_per_chunk // max(len(second), 1))
    chunks = []
    for start in range(0, len(first), rows):
        some = first[start : start + rows]
        same = None if groups is None else groups[0][start : start + rows, None] == groups[1][None]
        if is_rotated(first):
            chunks.append(_rotated_pairs(some, second, same))
        else:
            ious = _ratio(
                _aabb_intersection(some[:, None], second[None]), box_volume(some)[:, None], box_volume(second)[None]
            )
            chunks.append(ious if same is None else torch.where(same, ious, 0))
    return torch.cat(chunks) if chunks else first.new_zeros(0, len(second))


def paired_box_iou(
    first: Float[Tensor, "*N columns"], second: Float[Tensor, "*N columns"], pairs_per_chunk: int = PAIRS_PER_CHUNK
) -> Float[Tensor, "*N"]:
    """IoU of the first box of one set with the first of another, and so on; see :func:`box_iou`."""
    first, second = _check(first, second)
    if first.shape != second.shape:
        raise ValueError(f"boxes to compare row by row have the shapes {list(first.shape)} and {list(second.shape)}")
    rows = [boxes.reshape(-1, boxes.shape[-1]).split(max(1, pairs_per_chunk)) for boxes in (first, second)]
    ious = [_ratio(box_intersection(a, b), box_volume(a), box_volume(b)) for a, b in zip(*rows, strict=True)]
    return torch.cat(ious).reshape(first.shape[:-1])


def box_intersection(first: Float[Tensor, "*#N columns"], second: Float[Tensor, "*#N columns"]) -> Float[Tensor, "*N"]:
    """Volume shared by boxes, element by element, with broadcasting; differentiable.

    Args:
        first: AABBs or OBBs, float32 or float64.
        second: boxes of the same kind.
    """
    if not is_rotated(first):
        return _aabb_intersection(first, second)
    return rectangle_overlap(first, second) * _height_overlap(first, second)


def _check(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if is_rotated(first) != is_rotated(second):
        raise ValueError(
            f"AABBs and OBBs cannot be compared ({first.shape[-1]} and {second.shape[-1]} columns): use aabb_to_obb"
        )
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return first.to(dtype), second.to(dtype)


def _ratio(intersection: Tensor, volume1: Tensor, volume2: Tensor) -> Tensor:
    union = volume1 + volume2 - intersection
    empty = union == 0
    # Division by a harmless number where there is none, so that gradients stay finite.
    return torch.where(empty, 0, intersection / torch.where(empty, 1, union)).clamp(max=1)


def _aabb_intersection(first: Tensor, second: Tensor) -> Tensor:
    high = torch.minimum(first[..., 3:], second[..., 3:])
    return (high - torch.maximum(first[..., :3], second[..., :3])).clamp(min=0).prod(-1)


def _height_overlap(first: Tensor, second: Tensor) -> Tensor:
    apart = second[..., 2] - first[..., 2]
    half1, half2 = (0.5 * boxes[..., 5].clamp(min=0) for boxes in (first, second))
    return (torch.minimum(half1, apart + half2) - torch.maximum(-half1, apart - half2)).clamp(min=0)


def _rotated_pairs(
    first: Float[Tensor, "N 7"], second: Float[Tensor, "M 7"], same: Bool[Tensor, "N M"] | None
) -> Float[Tensor, "N M"]:
    """Most pairs of a scene are apart: only those whose enclosing AABBs meet are worked out."""
    with torch.no_grad():
        # What is not finite is worked out with all the others, and gives NaN.
        reach = [torch.cat([ground_half_extents(b), 0.5 * b[:, 5:6]], 1) + 0 * b.sum(1, True) for b in (first, second)]
        # Half extents are rounded; a pair must not be lost by that.
        meet = ~((first[:, None, :3] - second[None, :, :3]).abs() > (reach[0][:, None] + reach[1]) * (1 + 1e-5)).any(-1)
        row, column = (meet if same is None else meet & same).nonzero(as_tuple=True)
    some, others = first[row], second[column]
    ious = _ratio(box_intersection(some, others), box_volume(some), box_volume(others))
    return first.new_zeros(len(first), len(second)).index_put((row, column), ious)
