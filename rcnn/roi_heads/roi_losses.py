"""Losses of the heads: classes, corrections of boxes, and masks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rcnn.boxes import encode_aabb_deltas, encode_obb_deltas, is_rotated, smooth_l1_box_loss
from rcnn.rpn.process_average import average_over_processes


@dataclass(frozen=True)
class RoILossConfig:
    """Weights; those of NeRF-RCNN are 1, and it has no Dice term."""

    class_weight: float = 1.0
    box_weight: float = 1.0
    mask_weight: float = 1.0
    dice_weight: float = 1.0
    box_beta: float = 1 / 9
    """Where the loss of boxes turns from quadratic to linear."""


def class_loss(logits: Float[Tensor, "K 1+classes"], labels: Int64[Tensor, "K"]) -> Float[Tensor, ""]:
    """Cross entropy, the mean over all samples of all processes.

    Args:
        logits: background first.
        labels: 0 background, 1 + index of the class.
    """
    count = average_over_processes(logits.new_full((), len(logits))).clamp(min=1)
    return F.cross_entropy(logits, labels, reduction="sum") / count


def box_loss(
    deltas: Float[Tensor, "K groups columns"],
    labels: Int64[Tensor, "K"],
    proposals: Float[Tensor, "K columns"],
    boxes: Float[Tensor, "K columns"],
    beta: float = 1 / 9,
) -> Float[Tensor, ""]:
    """Smooth L1 of the corrections of samples with an object, over the number of all samples.

    Args:
        deltas: of each class, or of all.
        labels: 0 background, 1 + index of the class.
        proposals: the samples.
        boxes: of their objects; rows of background don't matter.
        beta: where it turns from quadratic to linear.
    """
    count = average_over_processes(deltas.new_full((), len(deltas))).clamp(min=1)
    positive = (labels > 0).nonzero()[:, 0]
    group = labels[positive] - 1 if deltas.shape[1] > 1 else torch.zeros_like(positive)
    encode = encode_obb_deltas if is_rotated(proposals) else encode_aabb_deltas
    target = encode(boxes[positive], proposals[positive])
    return smooth_l1_box_loss(deltas[positive, group], target, beta).sum() / count


def mask_loss(logits: Float[Tensor, "P M M M"], targets: Float[Tensor, "P M M M"]) -> Float[Tensor, ""]:
    """Binary cross entropy, the mean over all cells of all boxes with an object.

    Args:
        logits: of each box's own class.
        targets: in [0, 1].
    """
    count = average_over_processes(logits.new_full((), logits.numel())).clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / count


def dice_loss(logits: Float[Tensor, "P M M M"], targets: Float[Tensor, "P M M M"]) -> Float[Tensor, ""]:
    """One minus the Dice coefficient of each box (Milletari et al., 3DV 2016, with one added to both parts), the mean.

    Args:
        logits: of each box's own class.
        targets: in [0, 1].
    """
    count = average_over_processes(logits.new_full((), len(logits))).clamp(min=1)
    masks, targets = logits.sigmoid().flatten(1), targets.flatten(1)
    both = (masks * targets).sum(1)
    total = masks.square().sum(1) + targets.square().sum(1)
    return (1 - (2 * both + 1) / (total + 1)).sum() / count
