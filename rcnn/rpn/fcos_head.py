"""The anchor-free head: objectness, distances to the faces of a box and centerness of every cell (FCOS, in 3D)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones import STRIDES, Extent, GridBatch
from rcnn.backbones.conv_norm import ConvNorm
from rcnn.backbones.half_precision import autocast_dtype
from rcnn.backbones.padding import Padding
from rcnn.boxes import decode_location_distances
from rcnn.rpn.candidates import Candidates, cells_as_rows
from rcnn.rpn.fcos_losses import FCOSLossConfig, fcos_losses, scale_distances
from rcnn.rpn.location_assignment import level_locations


@dataclass(frozen=True)
class FCOSHeadConfig:
    """Anchor-free head of NeRF-RPN."""

    convs: int = 4
    """3³ convolutions with GroupNorm in each of the two towers."""
    norm_groups: int = 32
    """Groups of GroupNorm, fewer where they don't divide the channels."""
    strides: tuple[int, ...] = STRIDES
    """Voxels per cell of each level."""
    norm_reg_targets: bool = True
    """Whether distances are regressed in strides, through ReLU, or else in voxels, through the exponential."""
    centerness_on_reg: bool = True
    """Whether centerness comes from the tower of the boxes, or else from that of objectness."""
    prior: float = 0.01
    """Objectness of every cell before training."""
    loss: FCOSLossConfig = field(default_factory=FCOSLossConfig)
    nms_per_level: bool = False
    """Whether boxes suppress those of their own level only."""


class FCOSOutputs(NamedTuple):
    """For each level, finest first."""

    objectness: list[Float[Tensor, "N K"]]
    """Logits."""
    distances: list[Float[Tensor, "N K outputs"]]
    """6 distances in units of the level, and 2 midpoint offsets of OBBs; see `rcnn.boxes.encode_location_distances`."""
    centerness: list[Float[Tensor, "N K"]]
    """Logits."""
    shapes: list[Extent]
    """Cells along x, y, z."""


class FCOSHead(nn.Module):
    """Two towers shared by all levels, with a learnt scale of the distances for each.

    Cells of padding are zeroed after each convolution and left out of GroupNorm's statistics, so that a grid gets what
    it gets without padding.
    """

    def __init__(self, config: FCOSHeadConfig, channels: int, rotated: bool) -> None:
        """
        Args:
            config: layers and losses.
            channels: of every level of the backbone.
            rotated: whether boxes are OBBs.
        """
        super().__init__()
        self.config = config
        self.strides = tuple(config.strides)
        self.outputs = 8 if rotated else 6
        self.objectness_tower = Tower(channels, config.convs, config.norm_groups)
        self.box_tower = Tower(channels, config.convs, config.norm_groups)
        self.objectness = nn.Conv3d(channels, 1, 3, padding=1)
        self.box = nn.Conv3d(channels, self.outputs, 3, padding=1)
        self.centerness = nn.Conv3d(channels, 1, 3, padding=1)
        self.scales = nn.ParameterList(torch.ones(1) for _ in config.strides)
        self.units = [float(stride) if config.norm_reg_targets else 1.0 for stride in config.strides]
        for conv in self.modules():
            if isinstance(conv, nn.Conv3d) and conv.bias is not None:
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.bias)
        assert self.objectness.bias is not None
        nn.init.constant_(self.objectness.bias, math.log(config.prior / (1 - config.prior)))
        if config.norm_reg_targets:
            assert self.box.bias is not None
            # A stride to each face: what starts below 0 gets no gradient through ReLU.
            nn.init.constant_(self.box.bias[:6], 1.0)

    def forward(self, maps: Sequence[Float[Tensor, "N C _ _ _"]], batch: GridBatch) -> FCOSOutputs:
        """
        Args:
            maps: one per stride, zero in the padding.
            batch: what they were computed from.
        """
        outputs = FCOSOutputs([], [], [], [])
        # Two convolutions of one map are one convolution, which reads the map, and writes its gradient, once.
        joint = (self.box if self.config.centerness_on_reg else self.objectness, self.centerness)
        weight, bias = _joined([conv.weight for conv in joint]), _joined([conv.bias for conv in joint])
        for x, stride, scale in zip(maps, self.strides, self.scales, strict=True):
            padding = batch.padding_at(stride)
            of_objectness, of_boxes = self.objectness_tower(x, padding), self.box_tower(x, padding)
            if self.config.centerness_on_reg:
                both = cells_as_rows(F.conv3d(of_boxes, weight, bias, padding=1), self.outputs + 1)
                regressed, centerness = both.split([self.outputs, 1], -1)
                objectness = cells_as_rows(self.objectness(of_objectness), 1)
            else:
                both = cells_as_rows(F.conv3d(of_objectness, weight, bias, padding=1), 2)
                objectness, centerness = both.split(1, -1)
                regressed = cells_as_rows(self.box(of_boxes), self.outputs)
            regressed = regressed * scale
            distances = regressed[..., :6].relu() if self.config.norm_reg_targets else regressed[..., :6].exp()
            if self.outputs > 6:
                distances = torch.cat([distances, regressed[..., 6:]], -1)
            outputs.objectness.append(objectness.squeeze(2))
            outputs.distances.append(distances)
            outputs.centerness.append(centerness.squeeze(2))
            outputs.shapes.append((x.shape[2], x.shape[3], x.shape[4]))
        return outputs

    def losses(
        self, outputs: FCOSOutputs, batch: GridBatch, boxes: Sequence[Float[Tensor, "_ columns"]]
    ) -> dict[str, Float[Tensor, ""]]:
        """See :func:`rcnn.rpn.fcos_losses.fcos_losses`."""
        return fcos_losses(
            self.config.loss,
            torch.cat(outputs.objectness, 1),
            torch.cat(outputs.distances, 1),
            torch.cat(outputs.centerness, 1),
            self._locations(outputs),
            torch.cat([batch.inside_at(stride).flatten(1) for stride in self.strides], 1),
            self.strides,
            self.units,
            boxes,
            batch.extents,
        )

    def candidates(self, outputs: FCOSOutputs, batch: GridBatch) -> list[Candidates]:
        """Scores are the geometric mean of objectness and centerness."""
        found = []
        levels = zip(self._locations(outputs), self.strides, self.units, *outputs, strict=True)
        for locations, stride, unit, objectness, distances, centerness, shape in levels:
            scores = (objectness.sigmoid() * centerness.sigmoid()).sqrt()
            scores = torch.where(batch.inside_at(stride).flatten(1), scores, -1)
            found.append(Candidates(scores, scale_distances(distances, unit), locations, shape))
        return found

    def decode(
        self, regressed: Float[Tensor, "*K outputs"], references: Float[Tensor, "*K 3"]
    ) -> Float[Tensor, "*K columns"]:
        """Distances in voxels and locations to boxes in voxels."""
        return decode_location_distances(regressed, references)

    def _locations(self, outputs: FCOSOutputs) -> list[Float[Tensor, "K 3"]]:
        levels = zip(outputs.shapes, self.strides, outputs.distances, strict=True)
        return [level_locations(shape, stride, like) for shape, stride, like in levels]


def _joined(parameters: Sequence[Tensor | None]) -> Float[Tensor, "outputs *sizes"]:
    """Parameters of several convolutions as those of one, in autocast's dtype: it would cast them for every level."""
    joined = torch.cat([parameter for parameter in parameters if parameter is not None])
    return joined.to(autocast_dtype(joined))


class Tower(nn.ModuleList):
    """3³ convolutions, each with GroupNorm and ReLU."""

    def __init__(self, channels: int, convs: int, groups: int) -> None:
        super().__init__(ConvNorm(channels, channels, 3, 1, "group", groups, bias=True) for _ in range(convs))

    def forward(self, x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "N C X Y Z"]:
        for layer in self:
            x = layer(x, padding)
        return x
