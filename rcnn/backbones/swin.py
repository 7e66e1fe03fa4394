"""Swin transformer in 3D with a feature pyramid."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones.feature_pyramid import STRIDES, FeaturePyramid
from rcnn.backbones.grid_batch import GridBatch
from rcnn.backbones.half_precision import autocast_dtype
from rcnn.backbones.padding import coarser_extent, pack_cells, unpack_cells
from rcnn.backbones.recompute import run_block
from rcnn.backbones.stochastic_depth import draw_factors, factors_of_rows
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
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"stochastic_depth must lie in [0, 1), it is {self.stochastic_depth}")
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
    keep: Tensor

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = config.out_channels
        self.patch_embed = PatchEmbedding(config.in_channels, config.embed_dim, STRIDES[0])
        dims = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        # As in the published weights, a stage's merging is the first module of its list.
        stages: list[nn.ModuleList] = []
        for stage, (dim, depth, heads) in enumerate(zip(dims, config.depths, config.heads, strict=True)):
            modules: list[nn.Module] = [PatchMerging(dims[stage - 1])] if stage > 0 else []
            for _ in range(depth):
                modules.append(SwinBlock(dim, heads, config.window, config.mlp_ratio))
            stages.append(nn.ModuleList(modules))
        self.stages = nn.ModuleList(stages)
        # Both residuals of a block have the same chance.
        keep = 1 - torch.linspace(0, config.stochastic_depth, sum(config.depths)).repeat_interleave(2)
        self.register_buffer("keep", keep, persistent=False)
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
        drops = self.training and config.stochastic_depth > 0
        # For all blocks in one draw, by stage.
        residuals = [2 * depth for depth in config.depths]
        factors = draw_factors(self.keep, len(batch)).split(residuals) if drops else [None] * len(residuals)
        maps = []
        for stage, stride, of_grids in zip(self.stages, STRIDES, factors, strict=True):
            extents = batch.extents_at(stride)
            modules: list[nn.Module] = list(stage)  # type: ignore[arg-type]
            if maps:
                tokens = modules.pop(0)(tokens, merge_map(batch.extents_at(stride // 2), tokens.device))
            dtype = autocast_dtype(tokens)
            windows = [window_map(extents, config.window, shifted, tokens.device, dtype) for shifted in (False, True)]
            of_rows = None if of_grids is None else factors_of_rows(of_grids, extents)
            for index, block in enumerate(modules):
                of_block = None if of_rows is None else of_rows[2 * index : 2 * index + 2]
                tokens = run_block(block, tokens, windows[index % 2], of_block, checkpointing=config.checkpointing)
            level = unpack_cells(tokens, extents, coarser_extent(batch.shape, stride))
            maps.append(level if config.channels_last else level.contiguous())
        return self.fpn(maps, paddings)
