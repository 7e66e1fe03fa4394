"""From what a head says about every cell to the boxes that it proposes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rcnn.backbones import Extent
from rcnn.boxes import batched_nms, clip_and_filter
from rcnn.rpn.candidates import Candidates


@dataclass(frozen=True)
class ProposalConfig:
    """Inference of NeRF-RPN."""

    score_threshold: float = 0.0
    """Boxes below are dropped."""
    pre_nms_top_k: int = 2500
    """Best boxes of each level that enter suppression."""
    nms_iou: float = 0.3
    """A box that overlaps a better one by more is dropped."""
    post_nms_top_k: int = 2500
    """Best boxes of a grid that are proposed."""
    min_size: float = 1e-3
    """Boxes with a shorter side, in voxels and after they are clipped, are dropped."""

    def __post_init__(self) -> None:
        if min(self.pre_nms_top_k, self.post_nms_top_k) < 1:
            raise ValueError("pre_nms_top_k and post_nms_top_k must be at least 1")
        if not (0 <= self.score_threshold <= 1 and 0 <= self.nms_iou <= 1):
            raise ValueError("score_threshold and nms_iou must lie in [0, 1]")


@dataclass(frozen=True, eq=False)
class Proposals:
    """Boxes of one grid, by descending score."""

    boxes: Float[Tensor, "P columns"]
    """AABBs or OBBs in voxels, inside the grid; OBBs may reach over its walls."""
    scores: Float[Tensor, "P"]
    """In [0, 1]."""
    levels: Int[Tensor, "P"]
    """int32: which level of the pyramid each comes from, 0 the finest."""

    def __len__(self) -> int:
        return len(self.boxes)

    def top(self, count: int) -> "Proposals":
        """The best ones."""
        return Proposals(self.boxes[:count], self.scores[:count], self.levels[:count])


@torch.no_grad()
def select_proposals(
    config: ProposalConfig,
    levels: Sequence[Candidates],
    decode: Callable[[Tensor, Tensor], Tensor],
    extents: Sequence[Extent],
    nms_per_level: bool,
) -> list[Proposals]:
    """Best candidates of each level, decoded, clipped to their grid and without overlaps.

    A grid's proposals do not depend on what else is in the batch, nor on its padding.

    Args:
        config: thresholds and counts.
        levels: candidates of the batch, finest level first.
        decode: from regressed numbers `[N, k, outputs]` and references `[N, k, numbers]` to boxes `[N, k, columns]`.
        extents: voxels of each grid.
        nms_per_level: whether boxes suppress those of their own level only.

    Returns:
        One set per grid, possibly empty.
    """
    scores, boxes, of_level = [], [], []
    for level, candidates in enumerate(levels):
        best, rows = candidates.scores.topk(min(config.pre_nms_top_k, candidates.scores.shape[1]))
        regressed = candidates.regressed.gather(1, rows[..., None].expand(-1, -1, candidates.regressed.shape[2]))
        scores.append(best)
        boxes.append(decode(regressed, candidates.references[rows]))
        of_level.append(torch.full_like(rows[0], level, dtype=torch.int32))
    all_scores, all_boxes, all_levels = torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(of_level)
    # Suppression leaves out scores that are NaN, and thereby padding, without a selection of its own.
    all_scores = torch.where(all_scores >= config.score_threshold, all_scores, float("nan"))

    proposals = []
    for n, extent in enumerate(extents):
        clipped, score, level = clip_and_filter(
            all_boxes[n], extent, all_scores[n], all_levels, min_size=config.min_size
        )
        kept = batched_nms(clipped, score, level if nms_per_level else None, config.nms_iou)[: config.post_nms_top_k]
        proposals.append(Proposals(clipped[kept], score[kept], level[kept]))
    return proposals
