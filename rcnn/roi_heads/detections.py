"""From what the box head says about proposals to objects: a class, a score and a box each, without repetitions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from rcnn.backbones import Extent
from rcnn.boxes import batched_nms, clip_and_filter, decode_aabb_deltas, decode_obb_deltas, is_rotated
from rcnn.roi_heads.box_head import BoxOutputs


@dataclass(frozen=True)
class DetectionConfig:
    """Inference of NeRF-RCNN."""

    score_threshold: float = 0.05
    """Objects below are dropped."""
    nms_iou: float = 0.15
    """An object whose box overlaps that of a better one of its class by more is dropped."""
    max_detections: int = 100
    """Best objects of a grid that are kept."""
    min_size: float = 1e-2
    """Boxes with a shorter side, in voxels and after they are clipped, are dropped."""

    def __post_init__(self) -> None:
        if not (0 <= self.score_threshold <= 1 and 0 <= self.nms_iou <= 1 and self.max_detections >= 1):
            raise ValueError("score_threshold and nms_iou must lie in [0, 1], max_detections must be at least 1")


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects of one grid, by descending score."""

    boxes: Float[Tensor, "D columns"]
    """AABBs or OBBs in voxels."""
    scores: Float[Tensor, "D"]
    """Probability of the class, in [0, 1]."""
    labels: Int32[Tensor, "D"]
    """Index of the class."""
    masks: Float[Tensor, "D M M M"] | None = None
    """Probability that the object fills each cell of its mask box; None before the mask head."""
    mask_boxes: Float[Tensor, "D columns"] | None = None
    """What the masks lie over: the boxes, a little wider; None before the mask head."""

    def __len__(self) -> int:
        return len(self.boxes)

    def rescored(self, scores: Float[Tensor, "D"]) -> tuple[Detections, Int64[Tensor, "D"]]:
        """The objects with other scores, in their new order, which is returned too."""
        order = scores.argsort(descending=True, stable=True)
        masks = None if self.masks is None else self.masks[order]
        mask_boxes = None if self.mask_boxes is None else self.mask_boxes[order]
        return Detections(self.boxes[order], scores[order], self.labels[order], masks, mask_boxes), order


@torch.no_grad()
def select_detections(
    config: DetectionConfig, proposals: Float[Tensor, "P columns"], outputs: BoxOutputs, extent: Extent
) -> Detections:
    """Each proposal is an object of every class that it may be; the best ones that don't repeat each other are kept.

    Args:
        config: thresholds.
        proposals: of one grid, in voxels.
        outputs: what the head says about them.
        extent: voxels of the grid, to which boxes are cut.
    """
    scores = outputs.logits.float().softmax(1)[:, 1:]
    classes = scores.shape[1]
    # Suppression leaves out scores that are NaN without a selection of its own.
    scores = torch.where(scores >= config.score_threshold, scores, float("nan")).reshape(-1)
    decode = decode_obb_deltas if is_rotated(proposals) else decode_aabb_deltas
    boxes = decode(outputs.deltas.float(), proposals[:, None].float())
    boxes = boxes.expand(-1, classes, -1).flatten(0, 1)
    labels = torch.arange(classes, dtype=torch.int32, device=scores.device).repeat(len(proposals))
    boxes, scores, labels = clip_and_filter(boxes, extent, scores, labels, min_size=config.min_size)
    kept = batched_nms(boxes, scores, labels, config.nms_iou)[: config.max_detections]
    return Detections(boxes[kept], scores[kept], labels[kept])


def score_masks(found: Detections, threshold: float) -> Detections:
    """Scores times the mean probability of the cells that a mask fills, and the objects in their new order.

    Args:
        found: with masks.
        threshold: a cell is filled with more probability than this; a mask without such a cell gets the score 0.
    """
    assert found.masks is not None
    cells = found.masks.flatten(1)
    filled = cells > threshold
    scores = found.scores * (cells * filled).sum(1) / filled.sum(1).clamp(min=1)
    return found.rescored(scores)[0]
