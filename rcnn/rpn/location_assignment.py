"""Which location of a feature pyramid learns which box (Tian et al., "FCOS", ICCV 2019, section 3.2, in 3D)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.boxes import box_volume, enclosing_aabb


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


@torch.no_grad()
def assign_locations(
    config: LocationAssignmentConfig,
    locations: Sequence[Float[Tensor, "_ 3"]],
    strides: Sequence[int],
    boxes: Float[Tensor, "G columns"],
    valid: Bool[Tensor, "K"] | None = None,
) -> Int[Tensor, "K"]:
    """The box that each location of one grid learns.

    A location is inside a box, near its centre, and its level is that of the distance to the farthest face; of several
    such boxes it learns the smallest. OBBs count as their enclosing AABBs.

    Args:
        config: limits.
        locations: of each level, in voxels.
        strides: voxels per cell of each level.
        boxes: AABBs or OBBs.
        valid: locations of padding are False: they learn nothing, even if a box reaches over the edge of its grid.

    Returns:
        int32 rows of the boxes for the locations of all levels, -1 for background.

    Raises:
        ValueError: limits for another number of levels.
    """
    if not len(locations) == len(strides) == len(config.size_limits) + 1:
        raise ValueError(f"{len(config.size_limits)} size limits do not part {len(locations)} levels")
    aabbs = enclosing_aabb(boxes)
    low, high = aabbs[:, :3], aabbs[:, 3:]
    center, volume = 0.5 * (low + high), box_volume(aabbs)
    smallest, largest = (-1.0, *config.size_limits), (*config.size_limits, float("inf"))
    counts = [len(points) for points in locations]
    if len(boxes) == 0:
        return torch.full((sum(counts),), -1, dtype=torch.int32, device=boxes.device)
    near, learns = [], []
    masks = [True] * len(counts) if valid is None else valid[:, None].split(counts)
    for level, (points, stride) in enumerate(zip(locations, strides, strict=True)):
        points = points[:, None].to(aabbs.dtype)
        farthest = torch.maximum(points - low, high - points).amax(-1)
        reach = config.center_radius * stride if config.center_radius > 0 else float("inf")
        inner = (points > torch.maximum(low, center - reach)) & (points < torch.minimum(high, center + reach))
        near.append(inner.all(-1) & masks[level])
        learns.append(near[level] & (farthest >= smallest[level]) & (farthest <= largest[level]))
    if config.match_every_box:
        missed = ~torch.stack([of_level.any(0) for of_level in learns]).any(0)
        for level in reversed(range(len(strides))):
            learns[level] |= near[level] & missed
            missed &= ~near[level].any(0)
    every = torch.cat(learns)
    row = torch.where(every, volume, float("inf")).argmin(1)
    return torch.where(every.any(1), row, -1).int()
