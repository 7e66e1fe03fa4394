"""Masks over boxes laid into the grid."""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.backbones import Extent
from rcnn.boxes import enclosing_aabb, to_box_frame
from rcnn.instances.voxel_masks import VoxelMasks

# Voxels of boxes that are looked at together, if one box has not more.
_VOXELS = 2**22


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
    boxes, masks = boxes.float(), masks.float()
    aabbs = enclosing_aabb(boxes)
    limit = aabbs.new_tensor(shape)
    # Of the voxels with their centres inside, the first and the one behind the last.
    first = (aabbs[:, :3] - 0.5).ceil().clamp(min=0)
    behind = (aabbs[:, 3:] - 0.5).floor().add(1).minimum(limit)
    sides = (behind - first).clamp(min=0).long()
    volumes = sides.prod(1)
    parts, counts = [volumes[:0]], []
    start, sizes = 0, volumes.tolist()
    while start < len(sizes):
        end, total = start + 1, sizes[start]
        while end < len(sizes) and total + sizes[end] <= _VOXELS:
            total += sizes[end]
            end += 1
        some = slice(start, end)
        voxels, owners = _paste(masks[some], boxes[some], first[some].long(), sides[some], total, shape, threshold)
        parts.append(voxels)
        counts.append(torch.bincount(owners, minlength=end - start))
        start = end
    return VoxelMasks(torch.cat(parts), torch.cat([volumes[:0], *counts]), shape)


def _paste(
    masks: Tensor, boxes: Tensor, first: Tensor, sides: Tensor, total: int, shape: Extent, threshold: float
) -> tuple[Tensor, Tensor]:
    """Voxels of the masks, and the mask of each."""
    volumes = sides.prod(1)
    owners = torch.arange(len(boxes), device=boxes.device).repeat_interleave(volumes, output_size=total)
    place = torch.arange(total, device=boxes.device) - (volumes.cumsum(0) - volumes)[owners]
    side = sides[owners]
    voxel = torch.stack([place // (side[:, 1] * side[:, 2]), place // side[:, 2] % side[:, 1], place % side[:, 2]], 1)
    voxel += first[owners]
    fractions = to_box_frame(voxel + 0.5, boxes[owners])
    chosen = _interpolated(masks, owners, fractions) > threshold
    # What encloses an OBB has voxels outside of it.
    chosen &= ((fractions >= 0) & (fractions <= 1)).all(1)
    chosen = chosen.nonzero()[:, 0]
    x, y, z = voxel[chosen].unbind(1)
    return (x * shape[1] + y) * shape[2] + z, owners[chosen]


def _interpolated(masks: Tensor, owners: Tensor, fractions: Tensor) -> Tensor:
    cells = masks.shape[1]
    places = (fractions * cells - 0.5).clamp(0, cells - 1)
    low = places.floor().clamp(max=max(cells - 2, 0))
    after = places - low
    low = low.long()
    flat, base = masks.reshape(-1), owners * prod(masks.shape[1:])
    result = torch.zeros_like(places[:, 0])
    for corner in range(8):
        steps = (corner >> 2, corner >> 1 & 1, corner & 1)
        weight, index = 1.0, torch.zeros_like(base)
        for axis, step in enumerate(steps):
            weight = weight * (after[:, axis] if step else 1 - after[:, axis])
            index = index * cells + (low[:, axis] + step).clamp(max=cells - 1)
        result += weight * flat[base + index]
    return result
