"""Masks of boxes for training, read from the instance maps."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rcnn.boxes import from_box_frame

# Of all boxes, that are read at a time: 8 voxels each.
_POINTS = 2**22


@torch.no_grad()
def mask_targets(
    instances: Sequence[Int32[Tensor, "_ _ _"]],
    rows: Sequence[Int[Tensor, "_"]],
    boxes: Sequence[Float[Tensor, "_ columns"]],
    cells: int,
    samples: int = 2,
) -> Float[Tensor, "P cells cells cells"]:
    """How much of each cell of a box its object fills, in [0, 1], of the boxes of all grids, grid after grid.

    A cell's value is the mean over regular points in it of the object's mask, interpolated between the centres of
    voxels, and 0 outside of the grid: RoIAlign of the mask, as the features have it.

    Args:
        instances: of each grid, row + 1 of the object that a voxel belongs to, 0 where none.
        rows: the object of each box, of each grid.
        boxes: AABBs or OBBs in voxels, of each grid.
        cells: of a box along each side.
        samples: points of a cell along each axis.
    """
    every, ids = torch.cat(list(boxes)).float(), torch.cat(list(rows)) + 1
    device = every.device
    # All grids at once: their voxels one after another, and for every box the sides and the first voxel of its grid.
    voxels = torch.cat([grid.reshape(-1) for grid in instances])
    places, first = [], 0
    for grid, of_grid in zip(instances, boxes, strict=True):
        places += [(*grid.shape, first)] * len(of_grid)
        first += grid.numel()
    layout = torch.tensor(places, dtype=torch.int64).view(-1, 4).to(device, non_blocking=True)
    # Points of a cell last, so that a mean over them is the cell's.
    corners, offsets = _lattice(cells, device), (_lattice(samples, device) + 0.5) / samples
    fractions = ((corners[:, None] + offsets) / cells).view(1, -1, 3)
    result = every.new_zeros(len(every), cells**3)
    at_once = max(1, _POINTS // fractions.shape[1])
    for start in range(0, len(every), at_once):
        part = slice(start, start + at_once)
        points = from_box_frame(fractions, every[part, None])
        found = _interpolated(voxels, layout[part, None], ids[part, None], points)
        result[part] = found.unflatten(1, (-1, samples**3)).mean(2)
    return result.view(-1, cells, cells, cells)


def _lattice(size: int, device: torch.device) -> Float[Tensor, "V 3"]:
    """Triples of numbers below a size, in the order of voxels; made on the device, which nobody waits for."""
    steps = torch.arange(size, device=device, dtype=torch.float32)
    return torch.cartesian_prod(steps, steps, steps).view(-1, 3)


def _interpolated(
    voxels: Int32[Tensor, "A"],
    layout: Int[Tensor, "P 1 4"],
    ids: Int[Tensor, "P 1"],
    points: Float[Tensor, "P V 3"],
) -> Float[Tensor, "P V"]:
    """The masks of instances between the centres of voxels.

    `layout` holds the voxels of a box's grid along x, y and z, and where they begin in `voxels`.
    """
    points = points - 0.5
    low = points.floor()
    after = points - low
    place = low.long()[..., None, :] + torch.arange(2, device=low.device)[:, None]
    sides = layout[..., None, :3]
    share = torch.stack([1 - after, after], -2)
    weight = torch.where((place >= 0) & (place < sides), share, 0)
    x, y, z = torch.minimum(place.clamp(min=0), sides - 1).unbind(-1)
    wx, wy, wz = weight.unbind(-1)
    _, side_y, side_z, first = (number[..., None] for number in layout.unbind(-1))
    rows = (x * side_y)[..., :, None] + y[..., None, :]
    index = (rows * side_z[..., None] + first[..., None])[..., None] + z[..., None, None, :]
    weights = (wx[..., :, None] * wy[..., None, :])[..., None] * wz[..., None, None, :]
    return (weights * (voxels[index] == ids[..., None, None, None])).sum((-3, -2, -1))
