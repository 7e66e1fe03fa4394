"""Grids of many rooms in overlapping parts, and what was found in the parts as one."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from rcnn.backbones import Extent
from rcnn.boxes import box_corners, box_volume, from_box_frame, is_rotated, to_box_frame
from rcnn.instances.scene_instances import SceneInstances
from rcnn.instances.voxel_masks import VoxelMasks

SAME_OBJECT_IOU = 0.5
"""Masks of two parts that agree better where the parts overlap are of one object."""


def tile_corners(shape: Extent, tile: int, overlap: int) -> list[tuple[Extent, Extent]]:
    """Lower corners and sizes of parts that cover a grid.

    Args:
        shape: voxels of the grid.
        tile: largest side of a part.
        overlap: voxels that neighbours have in common at least.

    Raises:
        ValueError: an overlap that leaves nothing of a part.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"parts of {tile} voxels cannot overlap by {overlap}")
    axes = []
    for side in shape:
        count = 1 if side <= tile else -(-(side - overlap) // (tile - overlap))
        last = max(0, side - tile)
        axes.append([(round(last * n / max(1, count - 1)), min(side, tile)) for n in range(count)])
    return [
        ((x, y, z), (width, depth, height)) for x, width in axes[0] for y, depth in axes[1] for z, height in axes[2]
    ]


def merge_tiles(parts: Sequence[tuple[Extent, SceneInstances]], shape: Extent) -> SceneInstances:
    """What was found in overlapping parts of a grid as instances of the grid, by descending score.

    Instances of one class whose masks agree where their parts overlap become one, with the better score. An AABB
    then holds the AABBs of all; an OBB has the yaw of the largest part and holds the OBBs of all.

    Args:
        parts: lower corner of each part, and what is in it, in its own voxels; one part at least.
        shape: voxels of the grid.
    """
    voxels, owners, boxes, first = [], [], [], 0
    for corner, found in parts:
        voxels.append(_moved(found.masks, corner, shape))
        owners.append(found.masks.owners() + first)
        shift = torch.zeros_like(found.boxes[:1])
        shift[:, :3] = shift.new_tensor(corner)
        if not is_rotated(found.boxes):
            shift[:, 3:] = shift[:, :3]
        boxes.append(found.boxes + shift)
        first += len(found)
    whole = SceneInstances(
        torch.cat(boxes), torch.cat([found.scores for _, found in parts]), torch.cat([f.labels for _, f in parts]),
        VoxelMasks.from_owners(torch.cat(voxels), torch.cat(owners), first, shape), parts[0][1].categories,
    )  # fmt: skip
    groups = _groups(whole, [len(found) for _, found in parts], [(corner, f.masks.shape) for corner, f in parts])
    count = int(groups.max()) + 1 if first else 0
    scores = whole.scores.new_zeros(count).scatter_reduce(0, groups, whole.scores, "amax", include_self=False)
    labels = whole.labels.new_zeros(count).scatter(0, groups, whole.labels)
    masks = VoxelMasks.from_owners(whole.masks.voxels, groups[whole.masks.owners()], count, shape)
    joined = [_around(whole.boxes[groups == group]) for group in range(count)]
    merged = torch.cat([whole.boxes[:0], *joined])
    order = scores.argsort(descending=True, stable=True)
    return SceneInstances(merged, scores, labels, masks, whole.categories).select(order)


def _moved(masks: VoxelMasks, corner: Extent, shape: Extent) -> Tensor:
    """The voxels of a part's masks in the grid."""
    _, depth, height = masks.shape
    x, y, z = masks.voxels // (depth * height), masks.voxels // height % depth, masks.voxels % height
    return ((x + corner[0]) * shape[1] + y + corner[1]) * shape[2] + z + corner[2]


def _groups(whole: SceneInstances, counts: Sequence[int], tiles: Sequence[tuple[Extent, Extent]]) -> Tensor:
    """For each instance of all parts the object that it is."""
    device, links = whole.boxes.device, []
    rows = torch.arange(len(whole), device=device).split(list(counts))
    for a in range(len(tiles)):
        for b in range(a + 1, len(tiles)):
            inside = _common(tiles[a], tiles[b], whole.masks.shape, device)
            if inside is None or not counts[a] or not counts[b]:
                continue
            there, here = (_within(whole.masks.select(rows[n]), inside) for n in (a, b))
            same = there.iou(here) > SAME_OBJECT_IOU
            same &= whole.labels[rows[a], None] == whole.labels[rows[b]]
            pairs = same.nonzero()
            links.append(torch.stack([rows[a][pairs[:, 0]], rows[b][pairs[:, 1]]]))
    ends = torch.cat([torch.zeros(2, 0, dtype=torch.int64, device=device), *links], 1).cpu().numpy()
    graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(len(whole), len(whole)))
    _, groups = connected_components(graph, directed=False)
    return torch.from_numpy(groups.astype(np.int64)).to(device)


def _common(
    a: tuple[Extent, Extent], b: tuple[Extent, Extent], shape: Extent, device: torch.device
) -> Bool[Tensor, "X Y Z"] | None:
    """Voxels of the grid that are in both parts; None if there are none."""
    inside = torch.zeros(shape, dtype=torch.bool, device=device)
    view = inside
    for axis in range(3):
        low = max(a[0][axis], b[0][axis])
        high = min(a[0][axis] + a[1][axis], b[0][axis] + b[1][axis])
        if high <= low:
            return None
        view = view.narrow(axis, low, high - low)
    view.fill_(True)
    return inside


def _within(masks: VoxelMasks, inside: Bool[Tensor, "X Y Z"]) -> VoxelMasks:
    kept = inside.reshape(-1)[masks.voxels]
    counts = torch.bincount(masks.owners()[kept], minlength=len(masks))
    return VoxelMasks(masks.voxels[kept], counts, masks.shape)


def _around(boxes: Tensor) -> Tensor:
    """One box that holds several."""
    if len(boxes) == 1:
        return boxes
    largest = boxes[box_volume(boxes).argmax()]
    corners = to_box_frame(box_corners(boxes).reshape(-1, 3), largest)
    low, high = corners.amin(0), corners.amax(0)
    if not is_rotated(boxes):
        return torch.cat([from_box_frame(low, largest), from_box_frame(high, largest)])[None]
    centre, sides = from_box_frame(0.5 * (low + high), largest), (high - low) * largest[3:6]
    return torch.cat([centre, sides, largest[6:]])[None]
