"""VGG in 3D with a feature pyramid."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones.conv_norm import ConvNorm, Stem, init_convolutions
from rcnn.backbones.feature_pyramid import STRIDES, FeaturePyramid
from rcnn.backbones.grid_batch import GridBatch
from rcnn.backbones.norms import NormKind
from rcnn.backbones.recompute import run_block


@dataclass(frozen=True)
class VGGConfig:
    """VGG-19 of NeRF-RPN, its layout `EF`."""

    stages: tuple[tuple[int, ...], ...] = ((64, 64, 128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
    """Channels of the 3³ convolutions of each stage; all but the first stage halve the cells at their end."""
    stem_width: int = 64
    """Channels of the 7³ convolution."""
    in_channels: int = 4
    """Of the grids."""
    out_channels: int = 256
    """Of every level of the pyramid."""
    norm: NormKind = "batch"
    """`group` does not depend on what else is in the batch."""
    norm_groups: int = 32
    """Groups of GroupNorm, fewer where they don't divide the channels."""
    channels_last: bool = True
    """Whether weights and feature maps lie in memory as `torch.channels_last_3d`. The results are the same."""
    checkpointing: bool = False
    """Whether the backward pass computes each convolution again: less memory, about a third more time."""

    def __post_init__(self) -> None:
        if len(self.stages) != len(STRIDES) or not all(self.stages):
            raise ValueError(f"VGG needs {len(STRIDES)} stages of at least one convolution, they are {self.stages}")


class VGGFPN(nn.Module):
    """Levels of strides 4, 8, 16, 32, with ceil(n / stride) cells for n voxels, for grids of any size.

    Padding is treated as in `ResNetFPN`. The published code leaves out the stem's strides for grids below 160 voxels,
    whereas its heads count on them; here they are always taken.
    """

    strides = STRIDES

    def __init__(self, config: VGGConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = config.out_channels
        self.stem = Stem(config.in_channels, config.stem_width, config.norm, config.norm_groups, bias=True)
        channels, stages = config.stem_width, []
        for widths in config.stages:
            convs = []
            for width in widths:
                convs.append(ConvNorm(channels, width, 3, 1, config.norm, config.norm_groups, bias=True))
                channels = width
            stages.append(nn.ModuleList(convs))
        self.stages = nn.ModuleList(stages)
        init_convolutions(self)
        self.fpn = FeaturePyramid([widths[-1] for widths in config.stages], config.out_channels)
        if config.channels_last:
            self.to(memory_format=torch.channels_last_3d)

    def forward(self, batch: GridBatch) -> list[Float[Tensor, "N C _ _ _"]]:
        """
        Returns:
            One map per stride, finest first, zero in the padding.

        Raises:
            ValueError: grids of other channels; BatchNorm in training on a single cell.
        """
        config = self.config
        x = batch.network_input(self.stem.conv.weight, config.channels_last)
        x = run_block(self.stem, x, batch.padding_at(2), checkpointing=config.checkpointing)
        maps, paddings = [], [batch.padding_at(stride) for stride in STRIDES]
        for level, stage in enumerate(self.stages):
            for conv in stage:  # type: ignore[attr-defined]
                # A stage has the cells of the one before until its end.
                x = run_block(conv, x, paddings[max(level - 1, 0)], checkpointing=config.checkpointing)
            if level > 0:
                x = F.max_pool3d(x, 2, ceil_mode=True)
            maps.append(x)
        return self.fpn(maps, paddings)
