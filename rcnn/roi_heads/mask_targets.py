"""Masks of boxes for training, read from the instance map."""

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rcnn.boxes import from_box_frame

# Of all boxes, that are read at a time: 8 voxels each.
_CELLS = 2**20


@torch.no_grad()
def mask_targets(
    instances: Int32[Tensor, "X Y Z"],
    rows: Int[Tensor, "P"],
    boxes: Float[Tensor, "P columns"],
    cells: int,
    samples: int = 2,
) -> Float[Tensor, "P cells cells cells"]:
    """How much of each cell of a box its object fills, in [0, 1].

    A cell's value is the mean over regular points in it of the object's mask, interpolated between the centres of
    voxels, and 0 outside of the grid: RoIAlign of the mask, as the features have it.

    Args:
        instances: row + 1 of the object that a voxel belongs to, 0 where none.
        rows: the object of each box.
        boxes: AABBs or OBBs in voxels.
        cells: of a box along each side.
        samples: points of a cell along each axis.
    """
    result = boxes.new_zeros((len(boxes), cells**3), dtype=torch.float32)
    corners = _lattice(cells, boxes)
    offsets = (_lattice(samples, boxes) + 0.5) / samples
    ids = rows.to(instances.dtype)[:, None] + 1
    at_once = max(1, _CELLS // cells**3)
    for start in range(0, len(boxes), at_once):
        part = slice(start, start + at_once)
        for offset in offsets:
            points = from_box_frame((corners + offset) / cells, boxes[part, None].float())
            result[part] += _interpolated(instances, ids[part], points)
    return (result / samples**3).view(-1, cells, cells, cells)


def _lattice(size: int, boxes: Tensor) -> Float[Tensor, "V 3"]:
    """Triples of numbers below a size, in the order of voxels; made on the device, which nobody waits for."""
    steps = torch.arange(size, device=boxes.device, dtype=torch.float32)
    return torch.cartesian_prod(steps, steps, steps)


def _interpolated(
    instances: Int32[Tensor, "X Y Z"], ids: Int32[Tensor, "P 1"], points: Float[Tensor, "P V 3"]
) -> Float[Tensor, "P V"]:
    """The masks of instances between the centres of voxels."""
    points = points - 0.5
    low = points.floor()
    after = points - low
    index, weight = [], []
    for axis, size in enumerate(instances.shape):
        place = torch.stack([low[..., axis], low[..., axis] + 1], -1)
        share = torch.stack([1 - after[..., axis], after[..., axis]], -1)
        inside = (place >= 0) & (place < size)
        index.append(place.clamp(0, size - 1).long())
        weight.append(torch.where(inside, share, 0))
    x, y, z = index
    _, size_y, size_z = instances.shape
    voxels = ((x[..., :, None] * size_y + y[..., None, :]) * size_z)[..., None] + z[..., None, None, :]
    of_object = instances.reshape(-1)[voxels] == ids[..., None, None, None]
    weights = (weight[0][..., :, None] * weight[1][..., None, :])[..., None] * weight[2][..., None, None, :]
    return (weights * of_object).sum((-3, -2, -1))
