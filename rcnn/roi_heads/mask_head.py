"""Which part of a box its object fills: the mask head of NeRF-RCNN."""

from dataclasses import dataclass
from math import gcd

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class MaskHeadConfig:
    """Mask head of NeRF-RCNN."""

    bins: int = 10
    """Of a box along each side; its mask has twice as many cells."""
    convs: int = 4
    """3³ convolutions before the mask is refined."""
    channels: int = 256
    """Of each of them."""
    norm_groups: int = 0
    """Groups of GroupNorm after each, fewer where they don't divide the channels; 0 for no norm, as published."""
    class_agnostic: bool = False
    """Whether a box has one mask, or one for each class."""
    margin: float = 1.5
    """Voxels by which boxes are widened on each side before they are filled: an object owns the voxels that its surface
    touches, and what a box that is a little too small leaves out, its mask can still reach. 0 as published."""
    detail_channels: int = 32
    """Of the two 3³ convolutions that see the mask's features and the grid itself, colour and opacity, in the mask's
    cells: even the finest level of features has cells of 4 voxels, and much furniture is thinner. 0 for none, as
    published."""


class MaskHead(nn.Module):
    """Convolutions, a transposed one that doubles the resolution, a look at the grid itself, and a mask for each class
    (Mask R-CNN, in 3D)."""

    def __init__(self, config: MaskHeadConfig, channels: int, classes: int, grid_channels: int = 4) -> None:
        """
        Args:
            config: of the layers.
            channels: of the features.
            classes: without the background.
            grid_channels: of the grids.
        """
        super().__init__()
        self.cells = 2 * config.bins
        self.class_agnostic = config.class_agnostic
        layers: list[nn.Module] = []
        for n in range(config.convs):
            layers.append(nn.Conv3d(config.channels if n else channels, config.channels, 3, padding=1))
            if config.norm_groups:
                layers.append(nn.GroupNorm(gcd(config.norm_groups, config.channels), config.channels))
            layers.append(nn.ReLU(inplace=True))
        self.tower = nn.Sequential(*layers)
        self.upsample = nn.ConvTranspose3d(config.channels if config.convs else channels, config.channels, 2, 2)
        width = config.detail_channels
        self.detail: nn.Sequential | None = None
        if width:
            self.narrow = nn.Conv3d(config.channels, width, 1)
            self.detail = nn.Sequential(
                nn.Conv3d(width + grid_channels, width, 3, padding=1), nn.ReLU(inplace=True),
                nn.Conv3d(width, width, 3, padding=1), nn.ReLU(inplace=True),
            )  # fmt: skip
        self.logits = nn.Conv3d(width or config.channels, 1 if config.class_agnostic else classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.logits.weight, std=0.001)  # every cell begins undecided

    def forward(
        self,
        pooled: Float[Tensor, "K C bins bins bins"],
        labels: Int[Tensor, "K"],
        grid: Float[Tensor, "K 4 cells cells cells"] | None = None,
    ) -> Float[Tensor, "K cells cells cells"]:
        """Logits of each box's own class; those of others are not computed.

        Args:
            pooled: features of boxes.
            labels: index of each box's class.
            grid: colour and opacity in the boxes, which a head with `detail_channels` needs.
        """
        x = F.relu(self.upsample(self.tower(pooled)))
        if self.detail is not None:
            assert grid is not None
            x = self.detail(torch.cat([F.relu(self.narrow(x)), grid.to(x.dtype)], 1))
        rows = torch.zeros_like(labels) if self.class_agnostic else labels
        assert self.logits.bias is not None
        weight, bias = self.logits.weight[:, :, 0, 0, 0][rows.long()], self.logits.bias[rows.long()]
        cells = x.permute(0, 2, 3, 4, 1).flatten(1, 3)
        # A product of matrices, so that autocast chooses its precision.
        return torch.bmm(cells, weight[:, :, None])[..., 0].unflatten(1, x.shape[2:]) + bias[:, None, None, None]
