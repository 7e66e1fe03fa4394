"""A batch of density grids of several sizes, as the detector takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import get_worker_info

from rcnn.backbones.half_precision import autocast_dtype
from rcnn.backbones.padding import Extent, Padding, coarser_extent


@dataclass(frozen=True, eq=False)
class GridBatch:
    """Grids in the lower corners of one common shape. What the padding holds does not matter.

    Raises:
        ValueError: features of another rank, or extents that are none of theirs.
    """

    features: Float[Tensor, "N C X Y Z"]
    """Red, green, blue and opacity in [0, 1], `DensityGrid.rgb_alpha`."""
    extents: tuple[Extent, ...]
    """Voxels of each grid along x, y and z; the rest of its features is padding."""

    def __post_init__(self) -> None:
        if self.features.ndim != 5 or not all(self.features.shape):
            raise ValueError(f"a batch of grids must be (N, C, X, Y, Z), it is {tuple(self.features.shape)}")
        if len(self.extents) != len(self.features):
            raise ValueError(f"{len(self.extents)} extents for {len(self.features)} grids")
        for extent in self.extents:
            fits = zip(extent, self.shape, strict=True) if len(extent) == 3 else [(0, 0)]
            if not all(0 < cells <= size for cells, size in fits):
                raise ValueError(f"a grid of {tuple(extent)} voxels does not fit into {self.shape}")

    @staticmethod
    def collate(
        grids: Sequence[Float[Tensor, "C x y z"]], dtype: torch.dtype | None = None, multiple: int = 1
    ) -> GridBatch:
        """Pads grids with zeros to the longest of their sides.

        In a worker process of a `DataLoader` the batch is made in the memory that it is handed over in.

        Args:
            grids: of any sizes.
            dtype: of the batch; that of the first grid when not given.
            multiple: sides are rounded up to multiples of it.

        Raises:
            ValueError: no grid, or grids of other ranks or channels than the first.
        """
        if len(grids) == 0:
            raise ValueError("a batch needs at least one grid")
        for grid in grids:
            if grid.ndim != 4 or len(grid) != len(grids[0]):
                shapes = ", ".join(str(tuple(other.shape)) for other in grids)
                raise ValueError(f"grids of a batch must be (C, x, y, z) with the same channels, they are {shapes}")
        extents = tuple(_extent(grid.shape[1:]) for grid in grids)
        x, y, z = (-(-max(sides) // multiple) * multiple for sides in zip(*extents, strict=True))
        features = _zeros((len(grids), len(grids[0]), x, y, z), dtype or grids[0].dtype, grids[0].device)
        for padded, grid, (a, b, c) in zip(features, grids, extents, strict=True):
            padded[:, :a, :b, :c] = grid
        return GridBatch(features, extents)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def shape(self) -> Extent:
        """Voxels along x, y and z that all grids are padded to."""
        return _extent(self.features.shape[2:])

    @cached_property
    def _padding(self) -> Padding | None:
        return Padding.of(self.extents, self.shape, self.features.device)

    def padding_at(self, stride: int) -> Padding | None:
        """What is padding in the level of a stride, None where every grid fills the batch's shape."""
        return None if self._padding is None else self._padding.coarser(stride)

    def extents_at(self, stride: int) -> tuple[Extent, ...]:
        """Cells of each grid in the level of a stride."""
        return tuple(coarser_extent(extent, stride) for extent in self.extents)

    def inside_at(self, stride: int) -> Bool[Tensor, "N 1 X Y Z"]:
        """True for the cells of the level of a stride that lie in their grid, for heads and losses."""
        if (padding := self.padding_at(stride)) is not None:
            return ~padding.outside
        shape = coarser_extent(self.shape, stride)
        return torch.ones(len(self), 1, *shape, dtype=torch.bool, device=self.features.device)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GridBatch:
        return replace(self, features=self.features.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> GridBatch:
        return replace(self, features=self.features.pin_memory())

    def network_input(self, weight: Tensor, channels_last: bool) -> Float[Tensor, "N C X Y Z"]:
        """Features with zeros for padding, in the dtype that the first layer computes in and in a memory format.

        Raises:
            ValueError: another number of channels than the weight `[out, in, ...]` takes.
        """
        if self.features.shape[1] != weight.shape[1]:
            raise ValueError(f"the backbone takes {weight.shape[1]} channels, the grids have {self.features.shape[1]}")
        features = self.features if self._padding is None else self.features.masked_fill(self._padding.outside, 0)
        memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        return features.to(autocast_dtype(weight), memory_format=memory_format)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu" or get_worker_info() is None:
        return torch.zeros(shape, dtype=dtype, device=device)
    # New shared memory holds zeros.
    storage = torch.UntypedStorage._new_shared(prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]


def _extent(shape: Sequence[int]) -> Extent:
    x, y, z = shape
    return x, y, z
