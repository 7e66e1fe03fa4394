"""The second stage of NeRF-RCNN: what the proposals of a region proposal network are."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor, nn

from rcnn.backbones import GridBatch
from rcnn.backbones.half_precision import in_full_precision
from rcnn.boxes import MatchingConfig, widen_boxes
from rcnn.roi_heads.box_head import BoxHead, BoxHeadConfig, BoxOutputs
from rcnn.roi_heads.detections import DetectionConfig, Detections, select_detections
from rcnn.roi_heads.mask_head import MaskHead, MaskHeadConfig
from rcnn.roi_heads.mask_targets import mask_targets
from rcnn.roi_heads.roi_losses import RoILossConfig, box_loss, class_loss, dice_loss, mask_loss
from rcnn.roi_heads.roi_pooling import RoIPoolingConfig, extend_edges, pool_rois
from rcnn.roi_heads.roi_targets import make_roi_targets


@dataclass(frozen=True)
class RoIHeadsConfig:
    """Heads of NeRF-RCNN."""

    pooling: RoIPoolingConfig = field(default_factory=RoIPoolingConfig)
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask: MaskHeadConfig = field(default_factory=MaskHeadConfig)
    matching: MatchingConfig = field(default_factory=lambda: MatchingConfig(0.25, 0.25, True, 512, 0.25))
    """Which proposals learn which object, and how many enter the losses."""
    loss: RoILossConfig = field(default_factory=RoILossConfig)
    detections: DetectionConfig = field(default_factory=DetectionConfig)
    """Thresholds of inference; training doesn't use them."""


class RoIHeads(nn.Module):
    """Box head and mask head over the features of proposals.

    Under autocast the heads run in half precision, and losses, boxes and masks in float32.
    """

    def __init__(
        self, config: RoIHeadsConfig, channels: int, strides: Sequence[int], classes: int, rotated: bool
    ) -> None:
        """
        Args:
            config: layers, losses and thresholds.
            channels: of every level of the backbone.
            strides: voxels per cell of each level.
            classes: without the background.
            rotated: whether boxes are OBBs.

        Raises:
            ValueError: a sampling that OBBs don't have.
        """
        super().__init__()
        if rotated and config.pooling.mode != "roi_align":
            raise ValueError(f"OBBs have no {config.pooling.mode}; use roi_align")
        self.config = config
        self.strides = tuple(strides)
        self.box = BoxHead(config.box, channels, classes, rotated)
        self.mask = MaskHead(config.mask, channels, classes)

    def losses(
        self,
        features: Sequence[Float[Tensor, "N C _ _ _"]],
        batch: GridBatch,
        proposals: Sequence[Float[Tensor, "_ columns"]],
        boxes: Sequence[Float[Tensor, "_ columns"]],
        labels: Sequence[Int[Tensor, "_"]],
        instances: Sequence[Int32[Tensor, "_ _ _"] | None] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms by name; all are 0 with gradients of 0 where there is nothing to learn from.

        Args:
            features: one map per stride.
            batch: what they were computed from.
            proposals: of each grid in voxels.
            boxes: of the objects of each grid in voxels, possibly none.
            labels: index of each object's class.
            instances: row + 1 of the object that a voxel belongs to, 0 where none; None for grids without masks.

        Returns:
            `class`, `box`, `mask` (binary cross entropy) and `dice`.
        """
        config, weights = self.config, self.config.loss
        targets = [
            make_roi_targets(config.matching, found, truth.to(found), label)
            for found, truth, label in zip(proposals, boxes, labels, strict=True)
        ]
        features = self._extended(features, batch)
        rois, learnt = torch.cat([t.boxes for t in targets]), torch.cat([t.labels for t in targets])
        outputs = self._box_outputs(features, [t.boxes for t in targets], batch)
        # A row of zeros stands for the box of background.
        truth = torch.cat([torch.cat([b.to(rois), rois.new_zeros(1, rois.shape[1])])[t.matched] for b, t in zip(
            boxes, targets, strict=True)])  # fmt: skip

        learns_mask = [None] * len(targets) if instances is None else instances
        chosen, classes, taught = [], [], []
        for target, ids in zip(targets, learns_mask, strict=True):
            count = 0 if ids is None else target.positives
            chosen.append(widen_boxes(target.boxes[:count], self.config.mask.margin))
            classes.append(target.labels[:count] - 1)
            if ids is not None:
                taught.append((ids, target.matched[:count], chosen[-1]))
        logits = self._mask_logits(features, chosen, torch.cat(classes), batch)
        masks = torch.zeros_like(logits)
        if taught:
            maps, rows, taught_boxes = zip(*taught, strict=True)
            masks = mask_targets(maps, rows, taught_boxes, self.mask.cells)
        with torch.autocast(logits.device.type, enabled=False):
            return {
                "class": weights.class_weight * class_loss(outputs.logits, learnt),
                "box": weights.box_weight * box_loss(outputs.deltas, learnt, rois, truth, weights.box_beta),
                "mask": weights.mask_weight * mask_loss(logits, masks),
                "dice": weights.dice_weight * dice_loss(logits, masks),
            }

    @torch.no_grad()
    def detect(
        self,
        features: Sequence[Float[Tensor, "N C _ _ _"]],
        batch: GridBatch,
        proposals: Sequence[Float[Tensor, "_ columns"]],
    ) -> list[Detections]:
        """Objects of each grid; masks are those of the corrected boxes.

        Args:
            features: one map per stride.
            batch: what they were computed from.
            proposals: of each grid in voxels, possibly none.
        """
        features = self._extended(features, batch)
        outputs = self._box_outputs(features, proposals, batch)
        counts = [len(found) for found in proposals]
        found = [
            select_detections(self.config.detections, boxes, BoxOutputs(logits, deltas), extent)
            for boxes, logits, deltas, extent in zip(
                proposals, outputs.logits.split(counts), outputs.deltas.split(counts), batch.extents, strict=True
            )
        ]
        labels = torch.cat([d.labels for d in found])
        mask_boxes = [widen_boxes(d.boxes, self.config.mask.margin) for d in found]
        logits = self._mask_logits(features, mask_boxes, labels, batch)
        masks = logits.sigmoid().split([len(d) for d in found])
        return [
            replace(d, masks=mask, mask_boxes=boxes) for d, mask, boxes in zip(found, masks, mask_boxes, strict=True)
        ]

    def _box_outputs(self, features: Sequence[Tensor], boxes: Sequence[Tensor], batch: GridBatch) -> BoxOutputs:
        outputs = self.box(self._pool(features, boxes, self.config.box.bins, batch))
        return BoxOutputs(*(in_full_precision(part) for part in outputs))

    def _mask_logits(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor, batch: GridBatch
    ) -> Tensor:
        pooled, grid = self._pool(features, boxes, self.config.mask.bins, batch), None
        if self.mask.detail is not None:
            # As fine as the mask: one sample of a cell is enough.
            pooling = replace(self.config.pooling, sampling_ratio=1)
            walls = extend_edges(batch.features, batch.padding_at(1))
            grid = pool_rois(pooling, [walls], boxes, self.mask.cells, batch, [1])
        return in_full_precision(self.mask(pooled, labels, grid))

    def _pool(self, features: Sequence[Tensor], boxes: Sequence[Tensor], bins: int, batch: GridBatch) -> Tensor:
        return pool_rois(self.config.pooling, features, boxes, bins, batch, self.strides)

    def _extended(self, features: Sequence[Tensor], batch: GridBatch) -> list[Tensor]:
        levels = zip(features, self.strides, strict=True)
        return [extend_edges(level, batch.padding_at(stride)) for level, stride in levels]
