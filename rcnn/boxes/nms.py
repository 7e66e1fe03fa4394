"""Non-maximum suppression of boxes in 3D: greedy, exact, per group without moving boxes apart."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rcnn.boxes.conversions import is_rotated
from rcnn.boxes.nms_blocks import suppress_in_blocks


def nms(boxes: Float[Tensor, "N columns"], scores: Float[Tensor, "N"], iou_threshold: float) -> Int[Tensor, "K"]:
    """:func:`batched_nms` with all boxes in one group."""
    return batched_nms(boxes, scores, None, iou_threshold)


@torch.no_grad()
def batched_nms(
    boxes: Float[Tensor, "N columns"],
    scores: Float[Tensor, "N"],
    groups: Int[Tensor, "N"] | None,
    iou_threshold: float,
) -> Int[Tensor, "K"]:
    """Drops each box that overlaps a kept box of its group and of a higher score by more than a threshold.

    Groups are compared as numbers; coordinates are not shifted per group, which would cost them precision. On CUDA the
    sweep over boxes runs on the device.

    Args:
        boxes: AABBs `[N, 6]` or OBBs `[N, 7]`.
        scores: of two equal ones the first counts as the higher.
        groups: class, level or scene of each box; None for one group.
        iou_threshold: in [0, 1]; an IoU equal to it suppresses nothing.

    Returns:
        int64 rows of the boxes kept, by descending score. Rows whose box is not finite or whose score is NaN are never
        among them and suppress nothing.

    Raises:
        ValueError: shapes or devices that do not agree, or a threshold outside [0, 1].
    """
    rotated = is_rotated(boxes)
    if boxes.dim() != 2:
        raise ValueError(f"boxes must be [N, 6] or [N, 7], not {list(boxes.shape)}")
    for name, values in (("scores", scores), ("groups", groups)):
        if values is not None and (values.shape != boxes.shape[:1] or values.device != boxes.device):
            raise ValueError(
                f"{name} {list(values.shape)} on {values.device} do not fit boxes {list(boxes.shape)} on {boxes.device}"
            )
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must lie in [0, 1], not {iou_threshold}")
    rows = (boxes.isfinite().all(1) & ~scores.isnan()).nonzero().squeeze(1)
    rows = rows[scores[rows].argsort(descending=True, stable=True)]
    if len(rows) == 0:
        return rows
    ordered = boxes[rows].to(torch.promote_types(boxes.dtype, torch.float32))
    ordered_groups = None if groups is None else groups[rows]
    if boxes.is_cuda and ordered.dtype == torch.float32 and _kernels() is not None:
        kept = _kernels().suppress(ordered, ordered_groups, iou_threshold, rotated)
    else:
        kept = suppress_in_blocks(ordered, ordered_groups, iou_threshold)
    return rows[kept]


@cache
def _kernels() -> Any:
    """The Triton kernels, imported with the first CUDA tensor; None where there is no Triton."""
    if find_spec("triton") is None:
        return None
    from rcnn.boxes import nms_kernels

    return nms_kernels
