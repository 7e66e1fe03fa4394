"""The anchor-based head: objectness and box deltas of 13 anchors per cell (Ren et al., "Faster R-CNN", in 3D)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rcnn.backbones import Extent, GridBatch
from rcnn.backbones.padding import zero_padding_
from rcnn.boxes import AnchorConfig, decode_aabb_deltas, decode_midpoint_offsets, make_anchors
from rcnn.rpn.anchor_losses import AnchorLossConfig, anchor_losses
from rcnn.rpn.candidates import Candidates, cells_as_rows


@dataclass(frozen=True)
class AnchorHeadConfig:
    """Anchor-based head of NeRF-RPN."""

    convs: int = 4
    """3³ convolutions before the two predictions."""
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    """The published weights go with an `offset` of 0."""
    loss: AnchorLossConfig = field(default_factory=AnchorLossConfig)
    nms_per_level: bool = True
    """Whether boxes suppress those of their own level only."""


class AnchorOutputs(NamedTuple):
    """For each level, finest first."""

    objectness: list[Float[Tensor, "N K"]]
    """Logits."""
    deltas: list[Float[Tensor, "N K outputs"]]
    """6 numbers of `decode_aabb_deltas`, or 8 of `decode_midpoint_offsets` for OBBs."""
    shapes: list[Extent]
    """Cells along x, y, z."""


class AnchorHead(nn.Module):
    """Convolutions shared by objectness and deltas, and by all levels.

    Cells of padding are zeroed after each convolution, so that a grid gets what it gets without padding.
    """

    def __init__(self, config: AnchorHeadConfig, channels: int, rotated: bool) -> None:
        """
        Args:
            config: layers, anchors and losses.
            channels: of every level of the backbone.
            rotated: whether boxes are OBBs.
        """
        super().__init__()
        self.config = config
        self.strides = tuple(config.anchors.strides)
        self.rotated = rotated
        self.outputs = 8 if rotated else 6
        anchors = len(config.anchors.shapes)
        self.tower = nn.ModuleList(nn.Conv3d(channels, channels, 3, padding=1) for _ in range(config.convs))
        self.objectness = nn.Conv3d(channels, anchors, 1)
        self.box = nn.Conv3d(channels, anchors * self.outputs, 1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv3d) and conv.bias is not None:
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Float[Tensor, "N C _ _ _"]], batch: GridBatch) -> AnchorOutputs:
        """
        Args:
            maps: one per stride of the anchors, zero in the padding.
            batch: what they were computed from.
        """
        outputs = AnchorOutputs([], [], [])
        for x, stride in zip(maps, self.strides, strict=True):
            padding = batch.padding_at(stride)
            for conv in self.tower:
                x = zero_padding_(conv(x), padding).relu_()
            outputs.objectness.append(cells_as_rows(self.objectness(x), 1).squeeze(2))
            outputs.deltas.append(cells_as_rows(self.box(x), self.outputs))
            outputs.shapes.append((x.shape[2], x.shape[3], x.shape[4]))
        return outputs

    def losses(
        self, outputs: AnchorOutputs, batch: GridBatch, boxes: Sequence[Float[Tensor, "_ columns"]]
    ) -> dict[str, Float[Tensor, ""]]:
        """See :func:`rcnn.rpn.anchor_losses.anchor_losses`."""
        anchors, valid = self._anchors(outputs, batch)
        return anchor_losses(
            self.config.loss,
            torch.cat(outputs.objectness, 1),
            torch.cat(outputs.deltas, 1),
            torch.cat(anchors),
            torch.cat(valid, 1),
            boxes,
            batch.extents,
        )

    def candidates(self, outputs: AnchorOutputs, batch: GridBatch) -> list[Candidates]:
        """Scores are sigmoids of the logits."""
        levels = zip(*self._anchors(outputs, batch), *outputs, strict=True)
        return [
            Candidates(torch.where(valid, objectness.sigmoid(), -1), deltas, anchors, shape)
            for anchors, valid, objectness, deltas, shape in levels
        ]

    def decode(
        self, regressed: Float[Tensor, "*K outputs"], references: Float[Tensor, "*K 6"]
    ) -> Float[Tensor, "*K columns"]:
        """Deltas and anchors to boxes in voxels."""
        return (decode_midpoint_offsets if self.rotated else decode_aabb_deltas)(regressed, references)

    def _anchors(
        self, outputs: AnchorOutputs, batch: GridBatch
    ) -> tuple[list[Float[Tensor, "K 6"]], list[Bool[Tensor, "N K"]]]:
        config = self.config.anchors
        anchors = make_anchors(config, outputs.shapes, outputs.deltas[0])
        inside = (batch.inside_at(stride).flatten(1) for stride in self.strides)
        return anchors, [cells.repeat_interleave(len(config.shapes), 1) for cells in inside]
