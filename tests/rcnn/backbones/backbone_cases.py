"""Backbones narrow enough for tests, and random grids."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rcnn.backbones import BackboneConfig, GridBatch, ResNetConfig, SwinConfig, VGGConfig

NARROW: dict[str, BackboneConfig] = {
    "bottleneck": ResNetConfig(blocks=(1, 2, 1, 1), width=4, out_channels=8),
    "basic": ResNetConfig(blocks=(1, 1, 1, 1), block="basic", width=8, out_channels=8, norm="group", norm_groups=4),
    "vgg": VGGConfig(stages=((4, 8), (8,), (8,), (8,)), stem_width=4, out_channels=8),
    "vgg_group": VGGConfig(stages=((4,), (8,), (8,), (8,)), stem_width=4, out_channels=8, norm="group", norm_groups=2),
    "swin": SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), out_channels=8),
}

SIZES = ((37, 20, 13), (40, 33, 9), (12, 36, 21))
"""Voxels of three grids: odd sides, sides within one window of Swin at some stride, none the longest in all axes."""


def random_grids(sizes: Sequence[tuple[int, int, int]] = SIZES, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(4, *size, generator=generator) for size in sizes]


def spoil_padding(batch: GridBatch) -> GridBatch:
    """The same batch with NaN where it is padded."""
    return GridBatch(batch.features.masked_fill(~batch.inside_at(1), float("nan")), batch.extents)


def sum_of_squares(levels: Sequence[Tensor]) -> Tensor:
    return torch.stack([level.square().sum() for level in levels]).sum()


def randomize_norms(module: torch.nn.Module) -> None:
    """Scales, shifts and running statistics as after training: fresh ones would hide what padding does to them."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if "norm" in name and tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5, generator=generator)
