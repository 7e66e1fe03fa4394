"""Swin transformer in 3D with a feature pyramid."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones.feature_pyramid import STRIDES, FeaturePyramid
from rcnn.backbones.grid_batch import GridBatch
from rcnn.backbones.padding import coarser_extent, pack_cells, unpack_cells
from rcnn.backbones.recompute import run_block
from rcnn.backbones.swin_blocks import PatchEmbedding, PatchMerging, SwinBlock
from rcnn.backbones.token_rows import merge_map, window_map


@dataclass(frozen=True)
class SwinConfig:
    """Swin-S of NeRF-RPN."""

    embed_dim: int = 96
    """Channels of the first stage; doubled at each further stage."""
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    """Blocks of each stage; every second one has shifted windows."""
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    """Attention heads of each stage; they must divide its channels."""
    window: int = 4
    """Side of a window in tokens."""
    mlp_ratio: float = 4.0
    """Channels within a perceptron over those of its stage."""
    stochastic_depth: float = 0.1
    """Probability that training leaves out a residual of the last block, rising linearly from 0 at the first."""
    in_channels: int = 4
    """Of the grids."""
    out_channels: int = 256
    """Of every level of the pyramid."""
    channels_last: bool = True
    """Whether the pyramid's weights and maps lie in memory as `torch.channels_last_3d`. The results are the same."""
    checkpointing: bool = False
    """Whether the backward pass computes each block again: less memory, about a third more time."""

    def __post_init__(self) -> None:
        for stage, heads in enumerate(self.heads):
            if self.embed_dim * 2**stage % heads:
                raise ValueError(
                    f"{heads} heads don't divide the {self.embed_dim * 2**stage} channels of stage {stage}"
                )


class SwinFPN(nn.Module):
    """Levels of strides 4, 8, 16, 32, with ceil(n / stride) cells for n voxels.

    Tokens are computed without the padding of the batch (`rcnn.backbones.token_rows`): each grid has windows of its
    own, shifted or, where one window spans an axis, not, and gets what it gets alone, up to rounding. Voxels beyond the
    last whole patch are kept, unlike in the published code. `rcnn.backbones.published_names` says which weights of
    NeRF-RPN's checkpoints are which here.
    """

    strides = STRIDES

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = config.out_channels
        self.patch_embed = PatchEmbedding(config.in_channels, config.embed_dim, STRIDES[0])
        dims = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        # As in the published weights, a stage's merging is the first module of its list.
        stages, last, index = [], max(sum(config.depths) - 1, 1), 0
        for stage, (dim, depth, heads) in enumerate(zip(dims, config.depths, config.heads, strict=True)):
            modules: list[nn.Module] = [PatchMerging(dims[stage - 1])] if stage > 0 else []
            for _ in range(depth):
                drop = config.stochastic_depth * index / last
                modules.append(SwinBlock(dim, heads, config.window, config.mlp_ratio, drop))
                index += 1
            stages.append(nn.ModuleList(modules))
        self.stages = nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.fpn = FeaturePyramid(dims, config.out_channels)
        if config.channels_last:
            self.to(memory_format=torch.channels_last_3d)

    def forward(self, batch: GridBatch) -> list[Float[Tensor, "N C _ _ _"]]:
        """
        Returns:
            One map per stride, finest first, zero in the padding.

        Raises:
            ValueError: grids of other channels.
        """
        weight, config = self.patch_embed.conv.weight, self.config
        tokens = self.patch_embed(batch.network_input(weight, config.channels_last)).permute(0, 4, 1, 2, 3)
        paddings = [batch.padding_at(stride) for stride in STRIDES]
        tokens = pack_cells(tokens, paddings[0])
        maps = []
        for stage, stride in zip(self.stages, STRIDES, strict=True):
            extents = batch.extents_at(stride)
            modules: list[nn.Module] = list(stage)  # type: ignore[arg-type]
            if maps:
                tokens = modules.pop(0)(tokens, merge_map(batch.extents_at(stride // 2), tokens.device))
            windows = [window_map(extents, config.window, shifted, tokens.device) for shifted in (False, True)]
            for index, block in enumerate(modules):
                tokens = run_block(block, tokens, windows[index % 2], checkpointing=config.checkpointing)
            level = unpack_cells(tokens, extents, coarser_extent(batch.shape, stride))
            maps.append(level if config.channels_last else level.contiguous())
        return self.fpn(maps, paddings)
