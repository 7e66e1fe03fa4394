"""Greedy suppression in plain PyTorch, a block of boxes at a time."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.boxes.iou import masked_box_iou


def suppress_in_blocks(
    boxes: Float[Tensor, "N columns"], groups: Int[Tensor, "N"] | None, threshold: float, block: int = 256
) -> Bool[Tensor, "N"]:
    """Which boxes a greedy sweep keeps.

    Args:
        boxes: finite, in the order of the sweep, float32 or float64.
        groups: boxes of different groups do not suppress each other.
        threshold: on the IoU.
        block: boxes resolved at once. Only those that are kept are then compared with the boxes after them.
    """
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)

    def suppresses(first: Tensor, second: Tensor) -> Bool[Tensor, "n m"]:
        of_pairs = None if groups is None else (groups[first], groups[second])
        return masked_box_iou(boxes[first], boxes[second], of_pairs) > threshold

    for start in range(0, len(boxes), block):
        rows = start + alive[start : start + block].nonzero().squeeze(1)
        kept = resolve(suppresses(rows, rows).triu(1))
        alive[rows[~kept]] = False
        later = start + block + alive[start + block :].nonzero().squeeze(1)
        alive[later[suppresses(rows[kept], later).any(0)]] = False
    return alive


def resolve(suppresses: Bool[Tensor, "n n"]) -> Bool[Tensor, "n"]:
    """Greedy choice among a few boxes, given which would suppress which later one.

    Repeats "kept is who no kept one suppresses" until nothing changes. Each round settles at least one more box from
    the front, so the only fixed point is the greedy choice.
    """
    kept = torch.ones(len(suppresses), dtype=torch.bool, device=suppresses.device)
    while True:
        again = ~(suppresses & kept[:, None]).any(0)
        if torch.equal(again, kept):
            return kept
        kept = again
