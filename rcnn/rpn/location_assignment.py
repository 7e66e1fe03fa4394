"""Which location of a feature pyramid learns which box (Tian et al., "FCOS", ICCV 2019, section 3.2, in 3D)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rcnn.boxes import box_volume, enclosing_aabb
from rcnn.rpn.host_numbers import numbers_on_device

# Of locations and boxes, that are worked on at a time, if one grid has not more.
_PAIRS = 2**25


@dataclass(frozen=True)
class LocationAssignmentConfig:
    """Rules of NeRF-RPN."""

    size_limits: tuple[float, ...] = (16.0, 32.0, 64.0)
    """A level learns boxes whose farthest face is this many voxels away at most, and at least the limit of the level
    before; the last one has no limit."""
    center_radius: float = 1.5
    """Locations learn a box within this many strides of its centre along each axis; 0: anywhere in the box."""
    match_every_box: bool = True
    """A long thin box can pass between all locations of the levels that its size assigns it to. It is then learnt at
    the coarsest level with locations in it. NeRF-RPN leaves such boxes out."""


def level_locations(shape: Sequence[int], stride: int, like: Tensor) -> Float[Tensor, "K 3"]:
    """Centres of the cells of a level in voxels, in the order (x, y, z).

    Args:
        shape: cells along x, y, z.
        stride: voxels per cell.
        like: tensor of the wanted dtype and device.
    """
    axes = [(torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) * stride for cells in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def pad_boxes(boxes: Sequence[Float[Tensor, "_ columns"]]) -> Float[Tensor, "N G columns"]:
    """Boxes of several grids as one tensor; rows that a grid has not are NaN."""
    return pad_sequence(list(boxes), batch_first=True, padding_value=float("nan"))


def level_numbers(
    locations: Sequence[Float[Tensor, "_ 3"]], numbers: Sequence[Sequence[float]]
) -> Float[Tensor, "numbers K"]:
    """Numbers of each level for all its locations."""
    table = numbers_on_device(numbers, locations[0])
    return torch.cat([row[:, None].expand(-1, len(l)) for row, l in zip(table, locations, strict=True)], 1)


@torch.no_grad()
def assign_locations(
    config: LocationAssignmentConfig,
    locations: Sequence[Float[Tensor, "_ 3"]],
    strides: Sequence[int],
    boxes: Float[Tensor, "N G columns"],
    valid: Bool[Tensor, "N K"] | None = None,
) -> Int[Tensor, "N K"]:
    """The box that each location of each grid learns.

    A location is inside a box, near its centre, and its level is that of the distance to the farthest face; of several
    such boxes it learns the smallest. OBBs count as their enclosing AABBs.

    Args:
        config: limits.
        locations: of each level, in voxels.
        strides: voxels per cell of each level.
        boxes: AABBs or OBBs, as `pad_boxes` makes them: rows of NaN are none.
        valid: locations of padding are False: they learn nothing, even if a box reaches over the edge of its grid.

    Returns:
        int32 rows of the boxes for the locations of all levels, -1 for background.

    Raises:
        ValueError: limits for another number of levels.
    """
    if not len(locations) == len(strides) == len(config.size_limits) + 1:
        raise ValueError(f"{len(config.size_limits)} size limits do not part {len(locations)} levels")
    counts = [len(points) for points in locations]
    if boxes.shape[1] == 0:
        return torch.full((len(boxes), sum(counts)), -1, dtype=torch.int32, device=boxes.device)
    smallest, largest = (-1.0, *config.size_limits), (*config.size_limits, float("inf"))
    reaches = [config.center_radius * stride if config.center_radius > 0 else float("inf") for stride in strides]
    numbers = [(level, *of_level) for level, of_level in enumerate(zip(reaches, smallest, largest, strict=True))]
    rules = level_numbers(locations, numbers).to(boxes.dtype)
    points = torch.cat(list(locations)).to(boxes.dtype)
    at_once = max(1, _PAIRS // (sum(counts) * boxes.shape[1]))
    masks = [None] * len(boxes) if valid is None else valid.split(at_once)
    parts = [
        _assign(config.match_every_box, points, counts, rules, some, mask)
        for some, mask in zip(boxes.split(at_once), masks, strict=False)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _assign(
    match_every_box: bool,
    points: Float[Tensor, "K 3"],
    counts: Sequence[int],
    rules: Float[Tensor, "4 K"],
    boxes: Float[Tensor, "N G columns"],
    valid: Bool[Tensor, "N K"] | None,
) -> Int[Tensor, "N K"]:
    """Rules are the number of a location's level, its reach and the limits of its distances."""
    aabbs = enclosing_aabb(boxes)[:, None]
    level, reach, smallest, largest = rules[:, :, None].unbind(0)
    near = True if valid is None else valid[:, :, None]
    farthest = None
    # Axis by axis: tensors of all pairs are large.
    for axis in range(3):
        place, low, high = points[:, axis, None], aabbs[..., axis], aabbs[..., axis + 3]
        center = 0.5 * (low + high)
        near = near & (place > torch.maximum(low, center - reach)) & (place < torch.minimum(high, center + reach))
        of_axis = torch.maximum(place - low, high - place)
        farthest = of_axis if farthest is None else torch.maximum(farthest, of_axis)
    assert isinstance(near, Tensor)
    assert farthest is not None
    learns = near & (farthest >= smallest) & (farthest <= largest)
    if match_every_box:
        # The coarsest level with locations in a box that none learns; levels count from 1.
        seen = torch.stack([of_level.any(1) for of_level in near.split(list(counts), 1)], 1)
        levels = torch.arange(1, len(counts) + 1, device=boxes.device)[:, None]
        coarsest = torch.where(learns.any(1), 0, (seen * levels).amax(1))
        learns |= near & (level + 1 == coarsest[:, None])
    volumes = torch.where(learns, box_volume(aabbs), float("inf"))
    return torch.where(learns.any(2), volumes.argmin(2), -1).int()
