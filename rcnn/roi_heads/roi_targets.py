"""What the heads learn: proposals matched with objects, and a balanced choice of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from rcnn.boxes import MatchingConfig, is_rotated, match_boxes, sample_matches


@dataclass(frozen=True, eq=False)
class RoITargets:
    """The samples of one grid, those with an object first."""

    boxes: Float[Tensor, "K columns"]
    """Proposals, in voxels."""
    labels: Int64[Tensor, "K"]
    """0 background, 1 + index of the class."""
    matched: Int64[Tensor, "K"]
    """Row of the object, -1 for background."""
    positives: int
    """Samples with an object."""


@torch.no_grad()
def make_roi_targets(
    config: MatchingConfig,
    proposals: Float[Tensor, "P columns"],
    boxes: Float[Tensor, "G columns"],
    labels: Int[Tensor, "G"],
) -> RoITargets:
    """Samples of one grid, by torch's global generator.

    Args:
        config: thresholds and numbers.
        proposals: in voxels. The boxes of the objects are proposals too, so that there always are some good ones.
        boxes: of the objects, AABBs or OBBs as the proposals.
        labels: index of each object's class.

    Raises:
        ValueError: boxes of another kind than the proposals.
    """
    if is_rotated(proposals) != is_rotated(boxes):
        found, wanted = ("OBBs", "AABBs") if is_rotated(proposals) else ("AABBs", "OBBs")
        raise ValueError(f"proposals that are {found} cannot learn {wanted}")
    candidates = torch.cat([proposals.detach(), boxes.to(proposals)])
    matches = match_boxes(config, candidates, boxes)
    positive, negative = sample_matches(config, matches.labels)
    matched = torch.cat([matches.boxes[positive].long(), torch.full_like(negative, -1)])
    learnt = torch.cat([labels.long()[matched[: len(positive)]] + 1, torch.zeros_like(negative)])
    return RoITargets(candidates[torch.cat([positive, negative])], learnt, matched, len(positive))
