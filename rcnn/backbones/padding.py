"""Feature maps of grids of several sizes, padded to one shape: which cells are inside, and how they are kept apart.

A grid's cells lie in the lower corner of its map. A level of stride s has ceil(n / s) cells for n voxels, and a cell is
inside when it begins inside. Anchors and locations of the heads count by the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Extent = tuple[int, int, int]
"""Voxels or cells along x, y and z."""


def coarser_extent(extent: Extent, factor: int) -> Extent:
    """Cells that cover an extent, `factor` of its own in each."""
    x, y, z = (-(-cells // factor) for cells in extent)
    return x, y, z


@dataclass(frozen=True, eq=False)
class Padding:
    """What is padding in a batch of feature maps. Batches without any carry None in its place."""

    extents: tuple[Extent, ...]
    """Cells of each grid."""
    outside: Bool[Tensor, "N 1 X Y Z"]
    """True where a cell is padding."""

    @staticmethod
    def of(extents: tuple[Extent, ...], shape: tuple[int, ...], device: torch.device) -> Padding | None:
        """Padding of maps of a shape (X, Y, Z), None where every grid fills it."""
        if all(extent == tuple(shape) for extent in extents):
            return None
        outside = torch.ones(len(extents), 1, *shape, dtype=torch.bool, device=device)
        for grid, (x, y, z) in zip(outside, extents, strict=True):
            grid[:, :x, :y, :z] = False  # a kernel per grid, where a tensor of sizes would make the host wait
        return Padding(extents, outside)

    def coarser(self, factor: int) -> Padding:
        """Padding of the level with cells `factor` times as long."""
        extents = tuple(coarser_extent(extent, factor) for extent in self.extents)
        return Padding(extents, self.outside[..., ::factor, ::factor, ::factor].contiguous())


def zero_padding_(x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "N C X Y Z"]:
    """Zeroes the padding in place, whatever it held. Autograd must not need the values of x.

    Heads do it before every convolution that sees neighbours, as the backbones do.
    """
    return x if padding is None else x.masked_fill_(padding.outside, 0)


def crop_grids(x: Float[Tensor, "N C X Y Z"], padding: Padding) -> list[Float[Tensor, "1 C x y z"]]:
    """Views of the maps of each grid without their padding."""
    return [x[n : n + 1, :, :a, :b, :c] for n, (a, b, c) in enumerate(padding.extents)]


def pack_cells(x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "M C"]:
    """The cells of all grids without the padding as rows, grid after grid, each in the order (x, y, z)."""
    if padding is None:
        return x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])
    return torch.cat([grid.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1]) for grid in crop_grids(x, padding)])


def unpack_cells(
    rows: Float[Tensor, "M C"], extents: tuple[Extent, ...], shape: tuple[int, int, int]
) -> Float[Tensor, "N C X Y Z"]:
    """Undoes `pack_cells`, with zeros for padding and `torch.channels_last_3d` strides."""
    if all(extent == shape for extent in extents):
        return rows.reshape(len(extents), *shape, -1).permute(0, 4, 1, 2, 3)
    grids = rows.split([a * b * c for a, b, c in extents])
    x, y, z = shape
    padded = [
        F.pad(grid.reshape(a, b, c, -1), (0, 0, 0, z - c, 0, y - b, 0, x - a))
        for grid, (a, b, c) in zip(grids, extents, strict=True)
    ]
    return torch.stack(padded).permute(0, 4, 1, 2, 3)
