"""Box regression losses on overlap, one number per pair of boxes, for AABBs and OBBs alike.

The logarithmic and the linear IoU loss smooth the ratio by one unit of volume, as NeRF-RPN (Hu et al., CVPR 2023) does:
boxes of a fraction of a voxel then have finite losses. The others are those of Rezatofighi et al., "Generalized
Intersection over Union" (CVPR 2019), and Zheng et al., "Distance-IoU Loss" (AAAI 2020), in 3D. For OBBs what encloses
both boxes is the smallest rectangle in the ground plane, turned as it needs, times the common height.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.boxes.conversions import box_volume, ground_corners, is_rotated
from rcnn.boxes.iou import box_intersection, paired_box_iou

IoULossKind = Literal["log_iou", "linear_iou", "giou", "diou"]


def smoothed_iou(
    predicted: Float[Tensor, "N columns"], target: Float[Tensor, "N columns"], smoothing: float = 1.0
) -> Float[Tensor, "N"]:
    """(intersection + smoothing) / (union + smoothing).

    Args:
        predicted: AABBs or OBBs.
        target: boxes of the same kind.
        smoothing: volume in cubed units of the boxes.
    """
    predicted, target = _at_least_single(predicted, target)
    shared = box_intersection(predicted, target)
    union = box_volume(predicted) + box_volume(target) - shared
    return (shared + smoothing) / (union + smoothing)


def log_iou_loss(
    predicted: Float[Tensor, "N columns"], target: Float[Tensor, "N columns"], smoothing: float = 1.0
) -> Float[Tensor, "N"]:
    """-ln of :func:`smoothed_iou`."""
    return -smoothed_iou(predicted, target, smoothing).log()


def linear_iou_loss(
    predicted: Float[Tensor, "N columns"], target: Float[Tensor, "N columns"], smoothing: float = 1.0
) -> Float[Tensor, "N"]:
    """1 - :func:`smoothed_iou`."""
    return 1 - smoothed_iou(predicted, target, smoothing)


def giou_loss(predicted: Float[Tensor, "N columns"], target: Float[Tensor, "N columns"]) -> Float[Tensor, "N"]:
    """1 - IoU + (enclosing volume - union) / enclosing volume."""
    predicted, target = _at_least_single(predicted, target)
    enclosing = enclosing_sizes(predicted, target).prod(-1)
    union = box_volume(predicted) + box_volume(target) - box_intersection(predicted, target)
    empty = enclosing == 0
    waste = torch.where(empty, 0, (enclosing - union) / torch.where(empty, 1, enclosing))
    return 1 - paired_box_iou(predicted, target) + waste


def diou_loss(predicted: Float[Tensor, "N columns"], target: Float[Tensor, "N columns"]) -> Float[Tensor, "N"]:
    """1 - IoU + (distance of the centres / diagonal of the enclosing box)²."""
    predicted, target = _at_least_single(predicted, target)
    diagonal = enclosing_sizes(predicted, target).square().sum(-1)
    distance = (_centers(predicted) - _centers(target)).square().sum(-1)
    empty = diagonal == 0
    apart = torch.where(empty, 0, distance / torch.where(empty, 1, diagonal))
    return 1 - paired_box_iou(predicted, target) + apart


def iou_loss(
    predicted: Float[Tensor, "N columns"], target: Float[Tensor, "N columns"], kind: IoULossKind
) -> Float[Tensor, "N"]:
    """The loss of that name.

    Args:
        predicted: AABBs or OBBs; differentiable.
        target: boxes of the same kind, in the same units.
        kind: `log_iou`, `linear_iou`, `giou` or `diou`.

    Returns:
        One loss per row, which callers weight and sum; none for no rows.

    Raises:
        ValueError: an unknown name, or boxes of different kinds.
    """
    if is_rotated(predicted) != is_rotated(target) or predicted.shape != target.shape:
        raise ValueError(f"predicted and target boxes have the shapes {list(predicted.shape)} and {list(target.shape)}")
    losses = {"log_iou": log_iou_loss, "linear_iou": linear_iou_loss, "giou": giou_loss, "diou": diou_loss}
    if kind not in losses:
        raise ValueError(f"kind must be one of {tuple(losses)}, not {kind!r}")
    return losses[kind](predicted, target)


class IoULoss(nn.Module):
    """See :func:`iou_loss`."""

    def __init__(self, kind: IoULossKind) -> None:
        super().__init__()
        self.kind: IoULossKind = kind

    def forward(self, predicted: Float[Tensor, "N columns"], target: Float[Tensor, "N columns"]) -> Float[Tensor, "N"]:
        return iou_loss(predicted, target, self.kind)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}"


def enclosing_sizes(first: Float[Tensor, "N columns"], second: Float[Tensor, "N columns"]) -> Float[Tensor, "N 3"]:
    """Sides of the smallest box about two boxes: axis-aligned for AABBs, turned freely about z for OBBs."""
    if not is_rotated(first):
        return torch.maximum(first[:, 3:], second[:, 3:]) - torch.minimum(first[:, :3], second[:, :3])
    # Near the origin, so that large coordinates cost no digits.
    offset = torch.cat([first[:, :3].detach(), torch.zeros_like(first[:, :4])], 1)
    first, second = first - offset, second - offset
    high = torch.maximum(first[:, 2] + 0.5 * first[:, 5], second[:, 2] + 0.5 * second[:, 5])
    low = torch.minimum(first[:, 2] - 0.5 * first[:, 5], second[:, 2] - 0.5 * second[:, 5])
    corners = torch.cat([ground_corners(first), ground_corners(second)], 1)
    return torch.cat([_smallest_rectangle(corners), (high - low)[:, None]], 1)


def _smallest_rectangle(points: Float[Tensor, "N P 2"]) -> Float[Tensor, "N 2"]:
    """Sides of the enclosing rectangle of least area.

    One of its sides lies along an edge of the convex hull, which joins two of the points: the best of all joining
    directions needs no hull.
    """
    i, j = torch.triu_indices(points.shape[1], points.shape[1], 1, device=points.device)
    joins = points[:, j] - points[:, i]
    squared = joins.square().sum(-1, keepdim=True)
    scale = squared.detach().amax(1, keepdim=True)
    short = squared <= 1e-10 * scale
    directions = joins / torch.where(short, 1, squared).sqrt()
    # All points in one place have no direction; any will do.
    directions = torch.where(short, directions.new_tensor([1.0, 0.0]), directions)
    along = torch.einsum("nds,nps->ndp", directions, points)
    normals = torch.stack([-directions[..., 1], directions[..., 0]], -1)
    across = torch.einsum("nds,nps->ndp", normals, points)
    sides = torch.stack([along.amax(-1) - along.amin(-1), across.amax(-1) - across.amin(-1)], -1)
    best = sides.detach().prod(-1).argmin(1)
    return sides[torch.arange(len(points), device=points.device), best]


def _centers(boxes: Float[Tensor, "N columns"]) -> Float[Tensor, "N 3"]:
    return boxes[:, :3] if is_rotated(boxes) else 0.5 * (boxes[:, :3] + boxes[:, 3:])


def _at_least_single(*boxes: Tensor) -> list[Tensor]:
    """Products of three sizes overflow half precision."""
    return [b.to(torch.promote_types(b.dtype, torch.float32)) for b in boxes]
