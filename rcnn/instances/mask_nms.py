"""Non-maximum suppression by masks: of two instances with nearly the same voxels the better one stays."""

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from rcnn.instances.voxel_masks import VoxelMasks


@torch.no_grad()
def mask_nms(
    masks: VoxelMasks, scores: Float[Tensor, "K"], labels: Int[Tensor, "K"] | None, iou_threshold: float
) -> Int64[Tensor, "L"]:
    """Drops each mask that overlaps a kept mask of its class and of a higher score by more than a threshold.

    Args:
        masks: of one grid, a few hundred.
        scores: of two equal ones the first counts as the higher.
        labels: class of each mask; None for one class.
        iou_threshold: an IoU equal to it suppresses nothing.

    Returns:
        Rows of the masks kept, by descending score.
    """
    order = scores.argsort(descending=True, stable=True)
    ordered = masks.select(order)
    suppresses = ordered.iou(ordered) > iou_threshold
    if labels is not None:
        names = labels[order]
        suppresses &= names[:, None] == names
    table = suppresses.cpu().numpy()
    kept: list[int] = []
    for row in range(len(table)):
        if not table[kept, row].any():
            kept.append(row)
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
