"""Anchors: boxes of fixed shapes about every cell of every level of a feature pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SHAPES = (
    (1, 1, 1),
    (1, 2, 1), (2, 1, 1), (1, 1, 2),
    (1, 2, 2), (2, 1, 2), (2, 2, 1),
    (1, 1, 3), (1, 3, 1), (3, 1, 1),
    (3, 1, 3), (3, 3, 1), (1, 3, 3),
)  # fmt: skip
"""Relative sides along x, y, z of NeRF-RPN's 13 anchors, in the order that the published weights expect."""


@dataclass(frozen=True)
class AnchorConfig:
    """Anchors of NeRF-RPN."""

    sizes: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0)
    """Shortest side at each level, in voxels of the grid."""
    strides: tuple[int, ...] = (4, 8, 16, 32)
    """Voxels per cell of each level."""
    shapes: tuple[tuple[float, float, float], ...] = SHAPES
    """Sides of the anchors of a cell, relative to its level's size."""
    offset: float = 0.5
    """Where in its cell an anchor is centred: 0.5 is the middle; the published weights expect the lower corner, 0."""

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.strides):
            raise ValueError(f"{len(self.sizes)} anchor sizes for {len(self.strides)} strides")


def make_anchors(
    config: AnchorConfig, level_shapes: Sequence[Sequence[int]], like: Tensor
) -> list[Float[Tensor, "K 6"]]:
    """Anchors of each level, those of one cell next to each other, cells in the order (x, y, z).

    A cell's place follows from the stride of its level. It does not follow from the size of the grid over that of the
    level, which is less than the stride unless the stride divides the grid.

    Args:
        config: sizes, shapes and strides.
        level_shapes: cells along x, y, z of each level.
        like: tensor of the wanted dtype and device.

    Returns:
        For each level AABBs in voxels, `[X * Y * Z * len(config.shapes), 6]`.

    Raises:
        ValueError: other levels than the config has.
    """
    if len(level_shapes) != len(config.strides):
        raise ValueError(f"{len(level_shapes)} feature levels for anchors of {len(config.strides)} levels")
    anchors = []
    for shape, stride, size in zip(level_shapes, config.strides, config.sizes, strict=True):
        axes = [(torch.arange(cells, device=like.device) + config.offset) * stride for cells in shape]
        centers = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 3).to(like.dtype)
        half = 0.5 * size * like.new_tensor(config.shapes)
        anchors.append(torch.cat([centers - half, centers + half], -1).reshape(-1, 6))
    return anchors
