"""NeRF-RCNN (Liu et al., ICCV 2023): boxes, classes and 3D masks of the objects in density grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor, nn

from rcnn.backbones import GridBatch, ResNetConfig
from rcnn.grids import DensityGrid
from rcnn.instances import REFINEMENT_WEIGHTS, SceneInstances, VoxelMasks, mask_nms, paste_masks, paste_refined_masks
from rcnn.roi_heads.box_head import BoxHeadConfig
from rcnn.roi_heads.detections import Detections, score_masks
from rcnn.roi_heads.mask_head import MaskHeadConfig
from rcnn.roi_heads.roi_heads import RoIHeads, RoIHeadsConfig
from rcnn.rpn import AnchorHeadConfig, FCOSHeadConfig, NeRFRPN, NeRFRPNConfig

FrozenPart = Literal["none", "head", "rpn"]
"""What training leaves as it is: nothing; the RPN's head, as NeRF-RCNN was trained; or all of the RPN."""


@dataclass(frozen=True)
class NeRFRCNNConfig:
    """A detector of instances."""

    rpn: NeRFRPNConfig = field(default_factory=NeRFRPNConfig)
    """Features, proposals and the kind of boxes."""
    heads: RoIHeadsConfig = field(default_factory=RoIHeadsConfig)
    """What is said about each proposal."""
    categories: tuple[str, ...] = ("object",)
    """Names of the classes, in the order of the labels."""
    training_proposals: int = 1000
    """Best proposals of a grid among which the heads' samples are chosen."""
    proposals: int = 300
    """Best proposals of a grid that are looked at in inference."""
    mask_threshold: float = 0.4
    """A voxel belongs to an instance with more probability than this. 0.5 as published; objects are often as thin as a
    voxel, and what is a little blurred then falls below."""
    mask_scoring: bool = True
    """Whether an instance's score is the probability of its class times how sure its mask is of its cells ("maskness",
    Wang et al., SOLO, ECCV 2020), or the former alone, as published."""
    mask_refinement: tuple[float, ...] = ()
    """Weights by which masks are judged anew voxel by voxel, with the grid's opacity
    (`rcnn.instances.paste_refined_masks`; `tests/benchmarks/fit_mask_refinement.py` finds them for a trained detector).
    None: masks as the head draws them, as published."""
    mask_nms_iou: float = 0.5
    """An instance whose mask overlaps a better one's by more, of any class, is dropped."""
    resolution: int = 160
    """Voxels along the longest side of the grids that it was trained on."""

    def __post_init__(self) -> None:
        if not self.categories or len(set(self.categories)) < len(self.categories):
            raise ValueError("categories must be different names, one at least")
        if min(self.training_proposals, self.proposals, self.resolution) < 1:
            raise ValueError("training_proposals, proposals and resolution must be at least 1")
        if not (0 < self.mask_threshold < 1 and 0 < self.mask_nms_iou <= 1):
            raise ValueError("mask_threshold and mask_nms_iou must lie between 0 and 1")
        if len(self.mask_refinement) not in (0, REFINEMENT_WEIGHTS):
            raise ValueError(f"mask_refinement must have {REFINEMENT_WEIGHTS} weights, or none")


class NeRFRCNN(nn.Module):
    """A region proposal network, and heads that classify its proposals, correct their boxes and fill them with masks.

    Under autocast the networks run in half precision, and losses, boxes and masks in float32.
    """

    def __init__(self, config: NeRFRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.rpn = NeRFRPN(config.rpn)
        backbone = self.rpn.backbone
        self.heads = RoIHeads(
            config.heads, backbone.out_channels, backbone.strides, len(config.categories), config.rpn.rotated
        )
        if config.rpn.backbone.channels_last:
            self.heads.to(memory_format=torch.channels_last_3d)
        self.frozen: FrozenPart = "none"

    @staticmethod
    def from_pretrained(path: Path | str | None = None, device: torch.device | str | None = None) -> NeRFRCNN:
        """A trained detector, ready to be called with density grids.

        Args:
            path: its `.safetensors` file; the detector that comes with this package when None.
            device: the GPU, where there is one, when None.

        Raises:
            InputError: a file is missing or damaged, or holds another kind of detector.
        """
        from rcnn.weights import load_instance_detector  # which knows this class

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return load_instance_detector(None if path is None else Path(path), device)[0]

    def freeze(self, part: FrozenPart) -> NeRFRCNN:
        """Chooses what training leaves as it is, statistics of norms as well."""
        if part not in get_args(FrozenPart):
            raise ValueError(f"freeze one of {', '.join(get_args(FrozenPart))}, not {part!r}")
        self.frozen = part
        for module, frozen in ((self.rpn.head, part != "none"), (self.rpn.backbone, part == "rpn")):
            module.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> NeRFRCNN:
        super().train(mode)
        if self.frozen != "none":
            (self.rpn if self.frozen == "rpn" else self.rpn.head).eval()
        return self

    def forward(
        self,
        grids: GridBatch | DensityGrid,
        boxes: Sequence[Float[Tensor, "_ columns"]] | None = None,
        labels: Sequence[Int[Tensor, "_"]] | None = None,
        instances: Sequence[Int32[Tensor, "_ _ _"] | None] | None = None,
        proposals: Sequence[Float[Tensor, "_ columns"]] | None = None,
    ) -> dict[str, Float[Tensor, ""]] | list[SceneInstances] | SceneInstances:
        """In training :meth:`losses`; else :meth:`instances` of a batch, or `rcnn.detecting.find_instances` of one grid
        as it is in a file, at whatever resolution.

        Raises:
            ValueError: no truth in training, or truth of another kind or for other grids.
        """
        if isinstance(grids, DensityGrid):
            from rcnn.detecting import find_instances  # which calls this class

            return find_instances(self, grids).instances
        if self.training:
            if boxes is None or labels is None:
                raise ValueError("training needs the boxes and labels of every grid; a grid without objects has none")
            return self.losses(grids, boxes, labels, instances, proposals)
        return self.instances(grids, proposals)

    def losses(
        self,
        batch: GridBatch,
        boxes: Sequence[Float[Tensor, "_ columns"]],
        labels: Sequence[Int[Tensor, "_"]],
        instances: Sequence[Int32[Tensor, "_ _ _"] | None] | None = None,
        proposals: Sequence[Float[Tensor, "_ columns"]] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms by name, whose sum is the objective.

        Args:
            batch: density grids.
            boxes: ground truth of each grid in voxels, AABBs or OBBs as the RPN proposes them.
            labels: index of each box's category.
            instances: row + 1 of the box whose object a voxel belongs to, 0 where none; None for grids without masks.
            proposals: of each grid in voxels, in place of those of the RPN, whose head then doesn't learn.

        Returns:
            `class`, `box`, `mask` and `dice` of the heads, and those of the RPN with `rpn_` before their names, if
            its head learns.
        """
        self.rpn.check(batch, boxes)
        learns = self.frozen == "none" and proposals is None
        with torch.set_grad_enabled(self.frozen != "rpn" and torch.is_grad_enabled()):
            features = self.rpn.backbone(batch)
        losses: dict[str, Float[Tensor, ""]] = {}
        if proposals is None:
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                outputs = self.rpn.head(features, batch)
            if learns:
                of_rpn = self.rpn.losses(outputs, batch, boxes)
                losses = {f"rpn_{name}": value for name, value in of_rpn.items()}
            proposals = [found.top(self.config.training_proposals).boxes for found in self.rpn.propose(outputs, batch)]
        losses |= self.heads.losses(features, batch, proposals, boxes, labels, instances)
        return losses

    def detect(
        self, batch: GridBatch, proposals: Sequence[Float[Tensor, "_ columns"]] | None = None
    ) -> list[Detections]:
        """Boxes, classes and masks over boxes, of each grid; `proposals` as in :meth:`losses`."""
        with torch.no_grad():
            features = self.rpn.backbone(batch)
            if proposals is None:
                found = self.rpn.propose(self.rpn.head(features, batch), batch)
                proposals = [each.top(self.config.proposals).boxes for each in found]
            return self.heads.detect(features, batch, proposals)

    def instances(
        self, batch: GridBatch, proposals: Sequence[Float[Tensor, "_ columns"]] | None = None
    ) -> list[SceneInstances]:
        """:meth:`detect`, with masks pasted into each grid and without instances that repeat better ones."""
        results = []
        for found, features, extent in zip(self.detect(batch, proposals), batch.features, batch.extents, strict=True):
            x, y, z = extent
            found, masks = self._pasted(found, features[3, :x, :y, :z])
            whole = SceneInstances(found.boxes, found.scores, found.labels, masks, self.config.categories)
            kept = mask_nms(masks, found.scores, None, self.config.mask_nms_iou)
            results.append(whole.select(kept[masks.counts[kept] > 0]))
        return results

    def _pasted(self, found: Detections, opacity: Float[Tensor, "X Y Z"]) -> tuple[Detections, VoxelMasks]:
        """Objects by descending score, and their masks in the grid."""
        config, (x, y, z) = self.config, opacity.shape
        assert found.masks is not None
        assert found.mask_boxes is not None
        if config.mask_refinement:
            masks, sure = paste_refined_masks(
                found.masks, found.mask_boxes, opacity, config.mask_refinement, config.mask_threshold
            )
            if not config.mask_scoring:
                return found, masks
            found, order = found.rescored(found.scores * sure)
            return found, masks.select(order)
        if config.mask_scoring:
            found = score_masks(found, config.mask_threshold)
            assert found.masks is not None
            assert found.mask_boxes is not None
        return found, paste_masks(found.masks, found.mask_boxes, (x, y, z), config.mask_threshold)


def compact_config(
    categories: tuple[str, ...], head: AnchorHeadConfig | FCOSHeadConfig | None = None, rotated: bool = False
) -> NeRFRCNNConfig:
    """A detector small enough to ship, and for CPUs: a ResNet-18 of half the width, and narrow heads.

    Args:
        categories: names of the classes.
        head: of the RPN; an anchor-free one with two convolutions when None.
        rotated: whether boxes are OBBs.
    """
    channels = 96
    backbone = ResNetConfig(blocks=(2, 2, 2, 2), block="basic", width=32, out_channels=channels)
    return NeRFRCNNConfig(
        NeRFRPNConfig(backbone, head or FCOSHeadConfig(convs=2), rotated),
        RoIHeadsConfig(box=BoxHeadConfig(hidden=256), mask=MaskHeadConfig(convs=3, channels=channels)),
        categories,
    )
