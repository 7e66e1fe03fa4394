"""Masks over a density grid, each as the voxels in it: a hundred dense ones of 160³ voxels would take 400 MB."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64
from torch import Tensor

from rcnn.backbones import Extent

# Numbers of the matrices of masks and voxels that are multiplied at a time.
_MATRIX_NUMBERS = 2**25


@dataclass(frozen=True, eq=False)
class VoxelMasks:
    """K masks over one grid; they may overlap and be empty.

    Raises:
        ValueError: counts that are none of the voxels'.
    """

    voxels: Int64[Tensor, "V"]
    """Indices (x * Y + y) * Z + z, mask after mask, ascending in each."""
    counts: Int64[Tensor, "K"]
    """Voxels of each mask."""
    shape: Extent
    """Voxels of the grid along x, y and z."""

    @staticmethod
    def of(dense: Bool[Tensor, "K X Y Z"]) -> VoxelMasks:
        """From a mask for each."""
        x, y, z = dense.shape[1:]
        flat = dense.flatten(1)
        return VoxelMasks(flat.nonzero()[:, 1], flat.sum(1), (x, y, z))

    @staticmethod
    def of_ids(ids: Int[Tensor, "X Y Z"], count: int) -> VoxelMasks:
        """From an instance map: mask k has the voxels of id k + 1."""
        x, y, z = ids.shape
        flat = ids.reshape(-1)
        voxels = ((flat > 0) & (flat <= count)).nonzero()[:, 0]
        owners = flat[voxels].long() - 1
        order = owners.argsort(stable=True)
        return VoxelMasks(voxels[order], torch.bincount(owners, minlength=count), (x, y, z))

    @staticmethod
    def from_owners(voxels: Int64[Tensor, "V"], owners: Int64[Tensor, "V"], count: int, shape: Extent) -> VoxelMasks:
        """From pairs of a voxel and its mask, in any order; pairs that come twice count once."""
        keys = torch.unique(owners * prod(shape) + voxels)
        owners = keys // prod(shape)
        return VoxelMasks(keys - owners * prod(shape), torch.bincount(owners, minlength=count), shape)

    def __len__(self) -> int:
        return len(self.counts)

    def owners(self) -> Int64[Tensor, "V"]:
        """The mask of each of `voxels`."""
        rows = torch.arange(len(self), device=self.counts.device)
        return rows.repeat_interleave(self.counts, output_size=len(self.voxels))

    def dense(self) -> Bool[Tensor, "K X Y Z"]:
        """A mask for each."""
        result = torch.zeros(len(self), prod(self.shape), dtype=torch.bool, device=self.voxels.device)
        result[self.owners(), self.voxels] = True
        return result.view(len(self), *self.shape)

    def select(self, rows: Bool[Tensor, "K"] | Int[Tensor, "L"]) -> VoxelMasks:
        """Some of the masks, in any order."""
        if rows.dtype == torch.bool:
            rows = rows.nonzero()[:, 0]
        rows = rows.long()
        counts = self.counts[rows]
        ends = counts.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        first = (self.counts.cumsum(0) - self.counts)[rows] - (ends - counts)
        places = torch.arange(total, device=rows.device) + first.repeat_interleave(counts, output_size=total)
        return VoxelMasks(self.voxels[places], counts, self.shape)

    def to(self, device: torch.device | str) -> VoxelMasks:
        """The masks on another device."""
        return VoxelMasks(self.voxels.to(device), self.counts.to(device), self.shape)

    def intersections(self, other: VoxelMasks) -> Float64[Tensor, "K M"]:
        """Voxels that masks have in common with masks of the same grid; exact.

        Raises:
            ValueError: masks over another grid.
        """
        if self.shape != other.shape:
            raise ValueError(f"masks over {self.shape} and over {other.shape} voxels have nothing in common")
        result = self.counts.new_zeros((len(self), len(other)), dtype=torch.float64)
        used = [torch.zeros(prod(self.shape), dtype=torch.bool, device=self.voxels.device) for _ in range(2)]
        for marks, masks in zip(used, (self, other), strict=True):
            marks[masks.voxels] = True
        common = used[0] & used[1]
        column = common.cumsum(0) - 1
        columns = int(column[-1]) + 1 if len(column) else 0
        pairs = []
        for masks in (self, other):
            kept = common[masks.voxels]
            pairs.append((masks.owners()[kept], column[masks.voxels[kept]]))
        at_once = max(1, _MATRIX_NUMBERS // max(1, len(self) + len(other)))
        for start in range(0, columns, at_once):
            width = min(at_once, columns - start)
            parts = []
            for (owner, place), masks in zip(pairs, (self, other), strict=True):
                # Products of zeros and ones, and their sums up to 2^24, are exact in every precision of float32.
                matrix = torch.zeros(len(masks), width, device=place.device)
                inside = (place >= start) & (place < start + width)
                matrix[owner[inside], place[inside] - start] = 1
                parts.append(matrix)
            with torch.autocast(result.device.type, enabled=False):
                result += (parts[0] @ parts[1].T).double()
        return result

    def iou(self, other: VoxelMasks) -> Float[Tensor, "K M"]:
        """Intersection over union with masks of the same grid, float32; 0 for two empty masks."""
        both = self.intersections(other)
        union = self.counts[:, None] + other.counts - both
        return (both / union.clamp(min=1)).float()


def resample_masks(masks: VoxelMasks, shape: Extent) -> VoxelMasks:
    """The masks over other voxels of the same space: a voxel belongs to a mask if its centre does."""
    places = [
        ((torch.arange(after, device=masks.voxels.device) + 0.5) * (before / after)).long().clamp(max=before - 1)
        for before, after in zip(masks.shape, shape, strict=True)
    ]
    # One by one: all of them would be large.
    parts = []
    for row in range(len(masks)):
        dense = masks.select(torch.tensor([row], device=masks.counts.device)).dense()[0]
        for axis, place in enumerate(places):
            dense = dense.index_select(axis, place)
        parts.append(dense.reshape(-1).nonzero()[:, 0])
    counts = torch.tensor([len(part) for part in parts], dtype=torch.int64, device=masks.counts.device)
    return VoxelMasks(torch.cat([masks.voxels[:0], *parts]), counts, shape)


def instance_map(masks: VoxelMasks, scores: Float[Tensor, "K"]) -> Int32[Tensor, "X Y Z"]:
    """Row + 1 of the mask that a voxel belongs to, 0 where none.

    Of several masks the one with the highest score has the voxel, of equal scores the first (Instance-NeRF's rule).
    """
    order = scores.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    best = torch.full((prod(masks.shape),), len(order), dtype=torch.int64, device=order.device)
    best.scatter_reduce_(0, masks.voxels, rank[masks.owners()], "amin")
    ids = torch.cat([order.int() + 1, order.new_zeros(1, dtype=torch.int32)])
    return ids[best].view(masks.shape)


def without_overlaps(masks: VoxelMasks, scores: Float[Tensor, "K"]) -> VoxelMasks:
    """The masks with every voxel in one of them at most, by the rule of `instance_map`."""
    return VoxelMasks.of_ids(instance_map(masks, scores), len(masks))
