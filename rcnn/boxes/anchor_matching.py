"""Which anchor learns what: matching with ground truth and balanced sampling, by torchvision's detection code."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.boxes.conversions import enclosing_aabb
from rcnn.boxes.iou import box_iou


@dataclass(frozen=True)
class AnchorMatchingConfig:
    """Thresholds of NeRF-RPN."""

    foreground_iou: float = 0.35
    """An anchor with this IoU with a box or more learns that box."""
    background_iou: float = 0.2
    """An anchor with less IoU than this with all boxes is background; between the two it is ignored."""
    match_every_box: bool = True
    """The best anchors of a box learn it whatever their IoU, if they overlap it at all."""
    samples: int = 256
    """Anchors of a grid that enter the loss."""
    positive_fraction: float = 0.5
    """Of the samples, at most."""


class AnchorMatches(NamedTuple):
    """What each anchor of one grid learns."""

    labels: Int[Tensor, "K"]
    """int32: 1 object, 0 background, -1 ignored."""
    boxes: Int[Tensor, "K"]
    """int32: row of the box to regress, -1 without."""


@torch.no_grad()
def match_anchors(
    config: AnchorMatchingConfig,
    anchors: Float[Tensor, "K 6"],
    boxes: Float[Tensor, "G columns"],
    valid: Bool[Tensor, "K"] | None = None,
) -> AnchorMatches:
    """Matches the anchors of one grid with its ground truth.

    Args:
        config: thresholds.
        anchors: AABBs.
        boxes: AABBs, or OBBs, which match by their enclosing AABBs; a grid without objects has none, and every anchor
            is background.
        valid: anchors outside the unpadded grid are False: they are ignored and no box's best.
    """
    # Importing torchvision takes as long as importing torch, and suppression and IoU do without.
    from torchvision.models.detection._utils import Matcher

    device = anchors.device
    labels = torch.zeros(len(anchors), dtype=torch.int32, device=device)
    matched = torch.full_like(labels, -1)
    if len(boxes) > 0 and len(anchors) > 0:
        quality = box_iou(enclosing_aabb(boxes).to(anchors.dtype), anchors)
        if valid is not None:
            quality = torch.where(valid, quality, -1)
        # The best of a box that no anchor overlaps would be all anchors, with an IoU of 0.
        overlapped = (quality.amax(1) > 0).nonzero().squeeze(1)
        if len(overlapped) > 0:
            matcher = Matcher(config.foreground_iou, config.background_iou, config.match_every_box)
            found = matcher(quality[overlapped])
            labels[found >= 0] = 1
            labels[found == Matcher.BETWEEN_THRESHOLDS] = -1
            matched = torch.where(found >= 0, overlapped[found.clamp(min=0)], -1).int()
    if valid is not None:
        labels[~valid] = -1
        matched[~valid] = -1
    return AnchorMatches(labels, matched)


def sample_anchors(config: AnchorMatchingConfig, labels: Int[Tensor, "K"]) -> tuple[Int[Tensor, "P"], Int[Tensor, "M"]]:
    """A random balanced choice among the anchors of one grid, by torch's global generator.

    Args:
        config: how many.
        labels: 1 object, 0 background, -1 ignored.

    Returns:
        Rows of the chosen objects and of the chosen background, ascending; background fills up what objects leave.
    """
    from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

    sampler = BalancedPositiveNegativeSampler(config.samples, config.positive_fraction)
    positive, negative = sampler([labels])
    return positive[0].nonzero().squeeze(1), negative[0].nonzero().squeeze(1)
