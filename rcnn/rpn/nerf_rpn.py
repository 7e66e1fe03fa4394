"""NeRF-RPN (Hu et al., CVPR 2023): object boxes straight from density grids."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones import BackboneConfig, GridBatch, SwinConfig, build_backbone
from rcnn.rpn.anchor_head import AnchorHead, AnchorHeadConfig, AnchorOutputs
from rcnn.rpn.fcos_head import FCOSHead, FCOSHeadConfig, FCOSOutputs
from rcnn.rpn.heatmap import objectness_heatmap
from rcnn.rpn.proposals import ProposalConfig, Proposals, select_proposals


@dataclass(frozen=True)
class NeRFRPNConfig:
    """A detector: what its features, heads and boxes are."""

    backbone: BackboneConfig = field(default_factory=SwinConfig)
    head: AnchorHeadConfig | FCOSHeadConfig = field(default_factory=FCOSHeadConfig)
    rotated: bool = False
    """Whether boxes are OBBs `(cx, cy, cz, w, l, h, yaw)`, or else AABBs `(x1, y1, z1, x2, y2, z2)`."""
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    """Thresholds of inference; training doesn't use them."""


class NeRFRPN(nn.Module):
    """Backbone and head. In training it gives losses, otherwise proposals.

    What a grid gets does not depend on its padding. Under autocast the networks run in half precision, and losses and
    boxes in float32. The only randomness in training beside that of the backbone is the choice of anchors, by torch's
    global generator.
    """

    def __init__(self, config: NeRFRPNConfig) -> None:
        """
        Raises:
            ValueError: a head for other strides than the backbone's.
        """
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        build_head = AnchorHead if isinstance(config.head, AnchorHeadConfig) else FCOSHead
        self.head = build_head(config.head, config.backbone.out_channels, config.rotated)  # type: ignore[arg-type]
        if self.head.strides != self.backbone.strides:
            raise ValueError(f"a head of strides {self.head.strides}, the backbone's are {self.backbone.strides}")
        if config.backbone.channels_last:
            self.head.to(memory_format=torch.channels_last_3d)

    def forward(
        self, batch: GridBatch, boxes: Sequence[Float[Tensor, "_ columns"]] | None = None
    ) -> dict[str, Float[Tensor, ""]] | list[Proposals]:
        """
        Args:
            batch: density grids.
            boxes: ground truth of each grid in voxels, needed in training: `[G, 6]` or, for OBBs, `[G, 7]`, with no
                rows for a grid without objects.

        Returns:
            In training :meth:`losses`, otherwise :meth:`propose`.

        Raises:
            ValueError: no boxes in training, or boxes of another kind or for other grids.
        """
        if self.training:
            if boxes is None:
                raise ValueError("training needs the boxes of every grid; a grid without objects has none: zeros(0, 6)")
            self.check(batch, boxes)
        outputs = self.outputs(batch)
        if self.training and boxes is not None:
            return self.losses(outputs, batch, boxes)
        return self.propose(outputs, batch)

    def outputs(self, batch: GridBatch) -> AnchorOutputs | FCOSOutputs:
        """What the head says about every cell of every level, for the methods below."""
        return self.head(self.backbone(batch), batch)

    def losses(
        self, outputs: AnchorOutputs | FCOSOutputs, batch: GridBatch, boxes: Sequence[Float[Tensor, "_ columns"]]
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted terms by name, whose sum is the objective; see `anchor_losses` and `fcos_losses`.

        Raises:
            ValueError: boxes of another kind or for other grids.
        """
        self.check(batch, boxes)
        device = batch.features.device
        with torch.autocast(device.type, enabled=False):
            like = outputs[0][0]
            return self.head.losses(outputs, batch, [truth.to(like) for truth in boxes])  # type: ignore[arg-type]

    def propose(self, outputs: AnchorOutputs | FCOSOutputs, batch: GridBatch) -> list[Proposals]:
        """Boxes of each grid, by descending score; see `select_proposals`."""
        with torch.no_grad(), torch.autocast(batch.features.device.type, enabled=False):
            candidates = self.head.candidates(outputs, batch)  # type: ignore[arg-type]
            per_level = self.config.head.nms_per_level
            return select_proposals(self.config.proposals, candidates, self.head.decode, batch.extents, per_level)

    def heatmap(
        self, outputs: AnchorOutputs | FCOSOutputs, batch: GridBatch, stride: int = 1
    ) -> list[Float[Tensor, "x y z"]]:
        """Best score at each place of each grid, at the grids' resolution or that of a stride that divides 4."""
        with torch.no_grad():
            candidates = self.head.candidates(outputs, batch)  # type: ignore[arg-type]
            return objectness_heatmap(candidates, self.backbone.strides, batch.extents, stride)

    def check(self, batch: GridBatch, boxes: Sequence[Float[Tensor, "_ columns"]]) -> None:
        """
        Raises:
            ValueError: boxes of another kind or for other grids.
        """
        if len(boxes) != len(batch):
            raise ValueError(f"boxes of {len(boxes)} grids for a batch of {len(batch)}")
        columns = 7 if self.config.rotated else 6
        for truth in boxes:
            if truth.ndim != 2 or truth.shape[1] != columns:
                kind = "OBBs" if self.config.rotated else "AABBs"
                raise ValueError(f"this detector learns {kind}, [G, {columns}]; the boxes are {list(truth.shape)}")
