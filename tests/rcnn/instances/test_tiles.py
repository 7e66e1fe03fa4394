"""Grids in overlapping parts, and objects that lie in several of them."""

import itertools
import math

import pytest
import torch

from rcnn.boxes import aabb_to_obb, obb_to_aabb
from rcnn.instances import SceneInstances, VoxelMasks, merge_tiles, tile_corners


@pytest.mark.parametrize(
    ("shape", "tile", "overlap"), [((100, 40, 33), 40, 13), ((41, 7, 200), 40, 0), ((9, 9, 9), 9, 3)]
)
def test_parts_cover_the_grid(shape: tuple[int, int, int], tile: int, overlap: int) -> None:
    seen = torch.zeros(shape, dtype=torch.int32)
    parts = tile_corners(shape, tile, overlap)
    for (x, y, z), (w, l, h) in parts:
        assert max(w, l, h) <= tile
        assert all(end <= side for end, side in zip((x + w, y + l, z + h), shape, strict=True))
        seen[x : x + w, y : y + l, z : z + h] += 1
    assert (seen > 0).all()
    for axis in range(3):
        starts = sorted({(corner[axis], extent[axis]) for corner, extent in parts})
        for (a, side), (b, _) in itertools.pairwise(starts):
            assert a + side - b >= overlap
    with pytest.raises(ValueError, match="cannot overlap"):
        tile_corners(shape, 10, 10)


def whole() -> SceneInstances:
    """A thing in one part, one over two, one over all four, and a flat thing of another class on top of that."""
    boxes = torch.tensor([[2.0, 3, 1, 8, 9, 7], [11, 2, 0, 29, 8, 6], [14, 13, 2, 27, 30, 9], [14, 13, 7, 27, 30, 9]])
    ids = torch.zeros(40, 40, 10, dtype=torch.int32)
    masks = []
    for box in boxes.int().tolist():
        mask = torch.zeros_like(ids).bool()
        mask[box[0] : box[3], box[1] : box[4], box[2] : box[5]] = True
        masks.append(mask)
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 1, 0], dtype=torch.int32)
    return SceneInstances(boxes, scores, labels, VoxelMasks.of(torch.stack(masks)), ("chair", "table"))


def cut(scene: SceneInstances, corner: tuple[int, ...], extent: tuple[int, ...], rotated: bool) -> SceneInstances:
    """What a part of the grid shows of it, a little less sure of what is cut off."""
    window = tuple(slice(c, c + e) for c, e in zip(corner, extent, strict=True))
    masks = scene.masks.dense()[(slice(None), *window)]
    boxes, scores = [], []
    for mask, before, score in zip(masks, scene.masks.counts, scene.scores, strict=True):
        places = mask.nonzero()
        if len(places) == 0:
            places = torch.zeros(1, 3)
        boxes.append([*places.amin(0).tolist(), *(places.amax(0) + 1).tolist()])
        scores.append(float(score) * (1 if int(mask.sum()) == int(before) else 0.9))
    aabbs = torch.tensor(boxes, dtype=torch.float32)
    found = SceneInstances(
        aabb_to_obb(aabbs) if rotated else aabbs, torch.tensor(scores), scene.labels, VoxelMasks.of(masks),
        scene.categories,
    )  # fmt: skip
    return found.select(found.masks.counts > 0)


@pytest.mark.parametrize("rotated", [False, True])
def test_objects_in_several_parts_are_one(rotated: bool) -> None:
    scene = whole()
    parts = [(corner, cut(scene, corner, extent, rotated)) for corner, extent in tile_corners((40, 40, 10), 24, 8)]
    assert len(parts) == 4
    assert sum(len(found) for _, found in parts) > 4
    merged = merge_tiles(parts, (40, 40, 10))
    assert len(merged) == 4
    order = [0, 1, 2, 3]  # scores of what no part shows whole are lower, and yet in this order
    assert torch.equal(merged.masks.dense(), scene.masks.dense()[order])
    boxes = obb_to_aabb(merged.boxes) if rotated else merged.boxes
    torch.testing.assert_close(boxes, scene.boxes[order])
    assert merged.labels.tolist() == scene.labels[order].tolist()


def test_joined_boxes_keep_the_turn_of_the_larger_part() -> None:
    """Two parts of a long turned thing, seen in parts that overlap by a half."""
    c, s = math.cos(0.3), math.sin(0.3)
    masks = torch.zeros(1, 30, 20, 4, dtype=torch.bool)
    masks[0, 4:20, 4:12] = True
    label, names = torch.zeros(1, dtype=torch.int32), ("bench",)
    box = torch.tensor([[10.0, 8, 2, 10, 4, 4, 0.3]])
    left = SceneInstances(box, torch.tensor([0.5]), label, VoxelMasks.of(masks[:, :20]), names)
    box = torch.tensor([[8.0 + 4 * c - 4, 8 + 4 * s, 2, 8, 4, 4, 0.3]])
    right = SceneInstances(box, torch.tensor([0.7]), label, VoxelMasks.of(masks[:, 4:]), names)
    merged = merge_tiles([((0, 0, 0), left), ((4, 0, 0), right)], (30, 20, 4))
    assert merged.scores.tolist() == pytest.approx([0.7])
    # From 5 before the first centre to 4 behind the second, which lies 2 before it and 4 along the axis.
    length = max(5.0, -2 * c + 4 + 4) + 5.0
    torch.testing.assert_close(merged.boxes[0, 3], torch.tensor(length), atol=0.7, rtol=0)
    torch.testing.assert_close(merged.boxes[0, 6], torch.tensor(0.3))
    none = merge_tiles([((0, 0, 0), left.select(torch.zeros(0).long()))], (30, 20, 4))
    assert len(none) == 0
    assert none.boxes.shape == (0, 7)
