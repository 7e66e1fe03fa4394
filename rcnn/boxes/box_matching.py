"""Which anchor or proposal learns what: matching with ground truth and balanced sampling, by torchvision's code."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.boxes.conversions import enclosing_aabb, is_rotated
from rcnn.boxes.iou import box_iou


@dataclass(frozen=True)
class MatchingConfig:
    """Thresholds; the defaults are those of NeRF-RPN's anchors."""

    foreground_iou: float = 0.35
    """A candidate with this IoU with a box or more learns that box."""
    background_iou: float = 0.2
    """A candidate with less IoU than this with all boxes is background; between the two it is ignored."""
    match_every_box: bool = True
    """The best candidates of a box learn it whatever their IoU, if they overlap it at all."""
    samples: int = 256
    """Candidates of a grid that enter the loss."""
    positive_fraction: float = 0.5
    """Of the samples, at most."""


class BoxMatches(NamedTuple):
    """What each candidate of one grid learns."""

    labels: Int[Tensor, "K"]
    """int32: 1 object, 0 background, -1 ignored."""
    boxes: Int[Tensor, "K"]
    """int32: row of the box to regress, -1 without."""


@torch.no_grad()
def match_boxes(
    config: MatchingConfig,
    candidates: Float[Tensor, "K columns"],
    boxes: Float[Tensor, "G columns"],
    valid: Bool[Tensor, "K"] | None = None,
) -> BoxMatches:
    """Matches the anchors or proposals of one grid with its ground truth.

    Args:
        config: thresholds.
        candidates: AABBs or OBBs.
        boxes: of the same kind; OBBs match AABBs by what encloses them. A grid without objects has none, and every
            candidate is background.
        valid: candidates outside the unpadded grid are False: they are ignored and no box's best.

    Raises:
        ValueError: OBBs for AABBs.
    """
    # Importing torchvision takes as long as importing torch, and suppression and IoU do without.
    from torchvision.models.detection._utils import Matcher

    if not is_rotated(candidates):
        boxes = enclosing_aabb(boxes)
    elif not is_rotated(boxes):
        raise ValueError("OBBs cannot learn AABBs")
    device = candidates.device
    labels = torch.zeros(len(candidates), dtype=torch.int32, device=device)
    matched = torch.full_like(labels, -1)
    if len(boxes) > 0 and len(candidates) > 0:
        quality = box_iou(boxes.to(candidates.dtype), candidates)
        if valid is not None:
            quality = torch.where(valid, quality, -1)
        # The best of a box that no candidate overlaps would be all of them, with an IoU of 0.
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
    return BoxMatches(labels, matched)


def sample_matches(config: MatchingConfig, labels: Int[Tensor, "K"]) -> tuple[Int[Tensor, "P"], Int[Tensor, "M"]]:
    """A random balanced choice among the candidates of one grid, by torch's global generator.

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
