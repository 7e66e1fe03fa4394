"""Masks as lists of voxels do what dense masks do."""

import sys

import pytest
import torch

from rcnn.instances import VoxelMasks, instance_map, mask_nms, resample_masks, without_overlaps

SHAPE = (7, 6, 5)


def dense(count: int = 6, seed: int = 0) -> torch.Tensor:
    """Random masks; the third is empty."""
    masks = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) < 0.4
    masks[2] = False
    return masks


def test_there_and_back() -> None:
    masks = VoxelMasks.of(dense())
    assert torch.equal(masks.dense(), dense())
    assert masks.counts.tolist() == dense().flatten(1).sum(1).tolist()
    for rows in (
        torch.tensor([4, 2, 0, 0]),
        torch.tensor([True, False, True, True, False, False]),
        torch.zeros(0).int(),
    ):
        assert torch.equal(masks.select(rows).dense(), dense()[rows])
    shuffled = torch.randperm(len(masks.voxels))
    pairs = torch.cat([shuffled, shuffled[:9]])  # some twice
    again = VoxelMasks.from_owners(masks.voxels[pairs], masks.owners()[pairs], len(masks), SHAPE)
    assert torch.equal(again.voxels, masks.voxels)
    assert torch.equal(again.counts, masks.counts)
    ids = torch.randint(-1, 5, SHAPE, dtype=torch.int32)
    found = VoxelMasks.of_ids(ids, 3)
    assert torch.equal(found.dense(), torch.stack([ids == n for n in (1, 2, 3)]))


@pytest.mark.parametrize("numbers", [2**25, 100])
def test_intersections(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["rcnn.instances.voxel_masks"], "_MATRIX_NUMBERS", numbers)
    a, b = dense(), dense(4, seed=1)
    both = (a[:, None] & b).flatten(2).sum(2)
    union = (a[:, None] | b).flatten(2).sum(2)
    found = VoxelMasks.of(a)
    assert torch.equal(found.intersections(VoxelMasks.of(b)), both.double())
    torch.testing.assert_close(found.iou(VoxelMasks.of(b)), both / union.clamp(min=1))
    none = VoxelMasks.of(a[:0])
    assert none.iou(found).shape == (0, 6)
    assert found.iou(none).shape == (6, 0)
    with pytest.raises(ValueError, match="nothing in common"):
        found.iou(VoxelMasks(none.voxels, none.counts, (7, 5, 6)))


def test_the_best_of_overlapping_masks_has_the_voxel() -> None:
    masks = torch.zeros(4, 1, 1, 6, dtype=torch.bool)
    masks[0, ..., :3] = masks[1, ..., 2:5] = masks[2, ..., 4:] = masks[3, ..., 4:] = True
    scores = torch.tensor([0.5, 0.9, 0.7, 0.7])
    ids = instance_map(VoxelMasks.of(masks), scores)
    assert ids.dtype == torch.int32
    assert ids.flatten().tolist() == [1, 1, 2, 2, 2, 3], "of equal scores the first"
    parts = without_overlaps(VoxelMasks.of(masks), scores)
    assert parts.counts.tolist() == [2, 3, 1, 0]
    empty = VoxelMasks.of(masks[:0])
    assert instance_map(empty, scores[:0]).unique().tolist() == [0]


def test_suppression_by_masks() -> None:
    masks = torch.zeros(5, 1, 1, 20, dtype=torch.bool)
    masks[0, ..., :10] = masks[1, ..., :9] = masks[2, ..., 8:18] = masks[3, ..., 9:19] = True
    scores = torch.tensor([0.6, 0.8, 0.5, 0.9, 0.1])
    labels = torch.tensor([0, 1, 0, 0, 0])
    assert mask_nms(VoxelMasks.of(masks), scores, None, 0.5).tolist() == [3, 1, 4]
    # 0 and 1 are of different classes.
    assert mask_nms(VoxelMasks.of(masks), scores, labels, 0.5).tolist() == [3, 1, 0, 4]
    # An IoU of 9 / 10 is not more than 0.9.
    assert mask_nms(VoxelMasks.of(masks), scores, None, 0.9).tolist() == [3, 1, 0, 2, 4]
    assert mask_nms(VoxelMasks.of(masks[:0]), scores[:0], None, 0.5).tolist() == []


def test_masks_over_other_voxels() -> None:
    masks = torch.zeros(2, 4, 4, 2, dtype=torch.bool)
    masks[0, :2, 1:3] = True
    fine = resample_masks(VoxelMasks.of(masks), (8, 12, 2)).dense()
    expected = masks.repeat_interleave(2, 1).repeat_interleave(3, 2)
    assert torch.equal(fine, expected)
    assert torch.equal(resample_masks(VoxelMasks.of(fine), (4, 4, 2)).dense(), masks)
