"""Masks over boxes laid into the grid."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rcnn.backbones import Extent
from rcnn.boxes import enclosing_aabb, to_box_frame
from rcnn.instances.voxel_masks import VoxelMasks

# Voxels of boxes that are looked at together, if one box has not more.
_VOXELS = 2**20


@torch.no_grad()
def paste_masks(
    masks: Float[Tensor, "D M M M"], boxes: Float[Tensor, "D columns"], shape: Extent, threshold: float = 0.5
) -> VoxelMasks:
    """The voxels whose centres lie in a box, where its mask exceeds a threshold there.

    Between the centres of a mask's cells it is interpolated, and from the outer ones to the faces of the box it stays
    the same. `rcnn.roi_heads.mask_targets` is the way back.

    Args:
        masks: probabilities.
        boxes: AABBs or OBBs in voxels.
        shape: voxels of the grid.
        threshold: to be exceeded.
    """
    return paste_channels(masks.float()[..., None], boxes, shape, threshold)[0]


@torch.no_grad()
def paste_channels(
    masks: Float[Tensor, "D M M M C"],
    boxes: Float[Tensor, "D columns"],
    shape: Extent,
    threshold: float,
    judge: Callable[[Float[Tensor, "V C"], Int64[Tensor, "V"]], Float[Tensor, "V"]] | None = None,
) -> tuple[VoxelMasks, Float[Tensor, "D"]]:
    """`paste_masks` of masks with several numbers a cell.

    Args:
        masks: float32; anything about the cells.
        boxes: AABBs or OBBs in voxels.
        shape: voxels of the grid.
        threshold: to be exceeded.
        judge: makes the probability of a voxel of the numbers there and of its index, (x * Y + y) * Z + z; the first
            number is the probability when None.

    Returns:
        The masks, and the mean probability of the voxels in each, 0 of those without any.
    """
    boxes = boxes.float()
    aabbs = enclosing_aabb(boxes)
    limit = aabbs.new_tensor(shape)
    # Of the voxels with their centres inside, the first and the one behind the last.
    first = (aabbs[:, :3] - 0.5).ceil().clamp(min=0)
    behind = (aabbs[:, 3:] - 0.5).floor().add(1).minimum(limit)
    sides = (behind - first).clamp(min=0).long()
    volumes = sides.prod(1)
    parts, counts, totals = [volumes[:0]], [volumes[:0]], [boxes[:0, 0]]
    start, sizes = 0, volumes.tolist()
    while start < len(sizes):
        end, total = start + 1, sizes[start]
        while end < len(sizes) and total + sizes[end] <= _VOXELS:
            total += sizes[end]
            end += 1
        some = slice(start, end)
        voxels, owners, sure = _paste(
            masks[some], boxes[some], first[some].long(), sides[some], total, shape, threshold, judge
        )
        parts.append(voxels)
        counts.append(torch.bincount(owners, minlength=end - start))
        totals.append(sure.new_zeros(end - start).index_add(0, owners, sure))
        start = end
    count = torch.cat(counts)
    return VoxelMasks(torch.cat(parts), count, shape), torch.cat(totals) / count.clamp(min=1)


def _paste(
    masks: Tensor,
    boxes: Tensor,
    first: Tensor,
    sides: Tensor,
    total: int,
    shape: Extent,
    threshold: float,
    judge: Callable[[Tensor, Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels of the masks, the mask of each, and its probability."""
    volumes = sides.prod(1)
    owners = torch.arange(len(boxes), device=boxes.device).repeat_interleave(volumes, output_size=total)
    place = torch.arange(total, device=boxes.device) - (volumes.cumsum(0) - volumes)[owners]
    side = sides[owners]
    voxel = torch.stack([place // (side[:, 1] * side[:, 2]), place // side[:, 2] % side[:, 1], place % side[:, 2]], 1)
    voxel += first[owners]
    fractions = to_box_frame(voxel + 0.5, boxes[owners])
    found = _interpolated(masks, owners, fractions)
    x, y, z = voxel.unbind(1)
    voxels = (x * shape[1] + y) * shape[2] + z
    sure = found[:, 0] if judge is None else judge(found, voxels)
    # What encloses an OBB has voxels outside of it.
    chosen = ((sure > threshold) & ((fractions >= 0) & (fractions <= 1)).all(1)).nonzero()[:, 0]
    return voxels[chosen], owners[chosen], sure[chosen]


def _interpolated(masks: Tensor, owners: Tensor, fractions: Tensor) -> Tensor:
    """All corners at once: on a GPU, objects have so few voxels that what counts is the number of kernels."""
    cells = masks.shape[1]
    places = (fractions * cells - 0.5).clamp(0, cells - 1)
    low = places.floor().clamp(max=max(cells - 2, 0))
    after = places - low
    x, y, z = torch.stack([1 - after, after], 2).unbind(1)  # weights of the lower and of the upper cell
    weights = x[:, :, None, None] * y[:, None, :, None] * z[:, None, None]
    low = low.long()
    x, y, z = torch.stack([low, (low + 1).clamp(max=cells - 1)], 2).unbind(1)
    rows = (owners[:, None] * cells + x) * cells  # of the masks' cells, line by line
    cell = (rows[:, :, None, None] + y[:, None, :, None]) * cells + z[:, None, None]
    corners = masks.flatten(0, 3)[cell.flatten(1)]
    return (corners * weights.flatten(1)[:, :, None]).sum(1)
