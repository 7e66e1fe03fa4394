"""Losses of the anchor-based head: objectness of sampled anchors, boxes of those that learn one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rcnn.backbones import Extent
from rcnn.boxes import (
    MatchingConfig,
    decode_aabb_deltas,
    decode_midpoint_offsets,
    encode_aabb_deltas,
    encode_midpoint_offsets,
    iou_loss,
    match_boxes,
    sample_matches,
    smooth_l1_box_loss,
)
from rcnn.boxes.iou_losses import IoULossKind
from rcnn.rpn.process_average import average_over_processes
from rcnn.rpn.projection_loss import projection_loss


@dataclass(frozen=True)
class AnchorLossConfig:
    """Losses of NeRF-RPN's anchor-based head."""

    matching: MatchingConfig = field(default_factory=MatchingConfig)
    """Which anchors learn which box, and how many enter the loss."""
    box: Literal["smooth_l1"] | IoULossKind = "smooth_l1"
    """On the deltas, or on the overlap of the boxes in voxels."""
    box_weight: float = 5.0
    projection_weight: float = 0.0
    """Of the 2D loss, in pixels."""


def anchor_losses(
    config: AnchorLossConfig,
    objectness: Float[Tensor, "N K"],
    deltas: Float[Tensor, "N K outputs"],
    anchors: Float[Tensor, "K 6"],
    valid: Bool[Tensor, "N K"],
    boxes: Sequence[Float[Tensor, "_ columns"]],
    extents: Sequence[Extent],
) -> dict[str, Float[Tensor, ""]]:
    """Losses of a batch; all are 0 with gradients of 0 where there is nothing to learn from.

    Args:
        config: thresholds, kinds and weights.
        objectness: logits of all levels.
        deltas: regressed numbers of all levels.
        anchors: of all levels.
        valid: anchors of padding are False: they are never matched or sampled.
        boxes: ground truth of each grid in voxels, AABBs or, if 8 numbers are regressed, OBBs; may have no rows.
        extents: voxels of each grid.

    Returns:
        Weighted terms whose sum is the objective: `objectness`, binary cross-entropy, and `box`, both over the number
        of sampled anchors; `projection`, over the number of sampled anchors with a box, if it has a weight.
    """
    encode, decode = (
        (encode_midpoint_offsets, decode_midpoint_offsets)
        if deltas.shape[2] == 8
        else (encode_aabb_deltas, decode_aabb_deltas)
    )
    logits, labels, regressed, references, targets, sides = [], [], [], [], [], []
    for n, (truth, extent) in enumerate(zip(boxes, extents, strict=True)):
        matches = match_boxes(config.matching, anchors, truth, valid[n])
        positive, negative = sample_matches(config.matching, matches.labels)
        logits += [objectness[n, positive], objectness[n, negative]]
        labels += [torch.ones_like(logits[-2]), torch.zeros_like(logits[-1])]
        regressed.append(deltas[n, positive])
        references.append(anchors[positive])
        targets.append(truth[matches.boxes[positive].long()].to(deltas.dtype))
        sides.append(deltas.new_full((len(positive),), max(extent)))
    logit, predicted, reference, target = map(torch.cat, (logits, regressed, references, targets))

    samples = average_over_processes(logit.new_full((), len(logit))).clamp(min=1)
    if config.box == "smooth_l1":
        of_boxes = smooth_l1_box_loss(predicted, encode(target, reference))
    else:
        of_boxes = iou_loss(decode(predicted, reference), target, config.box)
    cross_entropy = F.binary_cross_entropy_with_logits(logit, torch.cat(labels), reduction="sum")
    losses = {
        "objectness": cross_entropy / samples,
        "box": config.box_weight * of_boxes.sum() / samples,
    }
    if config.projection_weight > 0:
        positives = average_over_processes(logit.new_full((), len(predicted))).clamp(min=1)
        seen = projection_loss(decode(predicted, reference), target, torch.cat(sides))
        losses["projection"] = config.projection_weight * seen.sum() / positives
    return losses
