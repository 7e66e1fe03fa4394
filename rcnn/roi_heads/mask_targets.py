"""Masks of boxes for training, read from the instance map."""

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rcnn.boxes import from_box_frame

# Of boxes and cells, that are read at a time.
_CELLS = 2**22


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
    steps = torch.arange(cells, device=boxes.device)
    corners = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    ids = rows.to(instances.dtype) + 1
    at_once = max(1, _CELLS // cells**3)
    for start in range(0, len(boxes), at_once):
        part = slice(start, start + at_once)
        for sample in range(samples**3):
            offset = torch.tensor([sample // samples**2, sample // samples % samples, sample % samples])
            fractions = (corners + ((offset + 0.5) / samples).to(boxes)) / cells
            points = from_box_frame(fractions, boxes[part, None].float())
            result[part] += _interpolated(instances, ids[part, None], points)
    return (result / samples**3).view(-1, cells, cells, cells)


def _interpolated(
    instances: Int32[Tensor, "X Y Z"], ids: Int32[Tensor, "P 1"], points: Float[Tensor, "P V 3"]
) -> Float[Tensor, "P V"]:
    """The masks of instances between the centres of voxels."""
    points = points - 0.5
    first = points.floor()
    after = points - first
    first = first.long()
    x, y, z = instances.shape
    flat = instances.reshape(-1)
    result = torch.zeros_like(points[..., 0])
    for corner in range(8):
        shift = (corner >> 2, corner >> 1 & 1, corner & 1)
        weight, index, inside = None, None, None
        for axis, (size, step) in enumerate(zip((x, y, z), shift, strict=True)):
            place = first[..., axis] + step
            share = after[..., axis] if step else 1 - after[..., axis]
            within = (place >= 0) & (place < size)
            place = place.clamp(0, size - 1)
            weight = share if weight is None else weight * share
            inside = within if inside is None else inside & within
            index = place if index is None else index * size + place
        assert weight is not None
        assert inside is not None
        assert index is not None
        result += weight * (inside & (flat[index] == ids))
    return result
