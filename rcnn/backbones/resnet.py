"""ResNet in 3D with a feature pyramid."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones.conv_norm import ConvNorm, Stem, init_convolutions
from rcnn.backbones.feature_pyramid import STRIDES, FeaturePyramid
from rcnn.backbones.grid_batch import GridBatch
from rcnn.backbones.norms import NormKind
from rcnn.backbones.padding import Padding
from rcnn.backbones.recompute import run_block


@dataclass(frozen=True)
class ResNetConfig:
    """ResNet-50 of NeRF-RPN."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Residual blocks of each stage; (2, 2, 2, 2) basic ones are ResNet-18."""
    block: Literal["bottleneck", "basic"] = "bottleneck"
    """1³, 3³, 1³ convolutions to four times the width, or two 3³ convolutions."""
    width: int = 64
    """Channels of the stem and of the first stage's 3³ convolutions; doubled at each further stage."""
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
    """Whether the backward pass computes each block again: less memory, about a third more time."""


class ResNetFPN(nn.Module):
    """Levels of strides 4, 8, 16, 32, with ceil(n / stride) cells for n voxels.

    The input's padding is zeroed, and that of every convolution's output after its norm, whose statistics leave it out.
    Each grid of a padded batch therefore gets what it gets alone, up to rounding; with BatchNorm in training, what it
    gets in a batch of the same cells without padding. `rcnn.backbones.published_names` says which weights of NeRF-RPN's
    checkpoints are which here. As there, a stage's stride is that of its first convolution, and the coarsest level has
    no 3³ convolution.
    """

    strides = STRIDES

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = config.out_channels
        self.stem = Stem(config.in_channels, config.width, config.norm, config.norm_groups, bias=False)
        make_block, expansion = (Bottleneck, 4) if config.block == "bottleneck" else (BasicBlock, 1)
        channels, stages = config.width, []
        for stage, count in enumerate(config.blocks):
            width = config.width * 2**stage
            blocks = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(make_block(channels, width, width * expansion, stride, config))
                channels = width * expansion
            stages.append(nn.ModuleList(blocks))
        self.stages = nn.ModuleList(stages)
        init_convolutions(self)
        maps = [config.width * expansion * 2**stage for stage in range(4)]
        self.fpn = FeaturePyramid(maps, config.out_channels, smooth_coarsest=False)
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
        for stage, padding in zip(self.stages, paddings, strict=True):
            for block in stage:  # type: ignore[attr-defined]
                x = run_block(block, x, padding, checkpointing=config.checkpointing)
            maps.append(x)
        return self.fpn(maps, paddings)


class _Residual(nn.Module):
    """What both kinds of blocks share: the projection of the input where channels or cells change."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.shortcut = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = _conv(channels_in, channels_out, 1, stride, config, relu=False)

    def add_shortcut(self, residual: Tensor, x: Tensor, padding: Padding | None) -> Tensor:
        residual += x if self.shortcut is None else self.shortcut(x, padding)
        return residual.relu_()


class Bottleneck(_Residual):
    def __init__(self, channels_in: int, width: int, channels_out: int, stride: int, config: ResNetConfig) -> None:
        super().__init__(channels_in, channels_out, stride, config)
        self.conv1 = _conv(channels_in, width, 1, stride, config)
        self.conv2 = _conv(width, width, 3, 1, config)
        self.conv3 = _conv(width, channels_out, 1, 1, config, relu=False)

    def forward(self, x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "N D x y z"]:
        inner = self.conv2(self.conv1(x, padding), padding)
        return self.add_shortcut(self.conv3(inner, padding), x, padding)


class BasicBlock(_Residual):
    def __init__(self, channels_in: int, width: int, channels_out: int, stride: int, config: ResNetConfig) -> None:
        super().__init__(channels_in, channels_out, stride, config)
        self.conv1 = _conv(channels_in, width, 3, stride, config)
        self.conv2 = _conv(width, channels_out, 3, 1, config, relu=False)

    def forward(self, x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "N D x y z"]:
        return self.add_shortcut(self.conv2(self.conv1(x, padding), padding), x, padding)


def _conv(
    channels_in: int, channels_out: int, kernel: int, stride: int, config: ResNetConfig, relu: bool = True
) -> ConvNorm:
    return ConvNorm(channels_in, channels_out, kernel, stride, config.norm, config.norm_groups, bias=False, relu=relu)
