"""Masks over boxes: what training reads from the voxels, inference writes back."""

import math
import sys

import numpy as np
import pytest
import torch

from rcnn.boxes import aabb_to_obb, widen_boxes
from rcnn.data import GridFrame
from rcnn.instances import VoxelMasks, paste_masks
from rcnn.roi_heads import mask_targets
from roi_align3d import roi_align_3d, roi_align_rotated_3d

SHAPE = (14, 12, 10)


def ids() -> torch.Tensor:
    """Two objects, the second of one voxel in the corner of the grid."""
    result = torch.zeros(SHAPE, dtype=torch.int32)
    result[3:9, 2:8, 1:7] = 1
    result[6:9, 5:8, 4:7] = 0
    result[13, 11, 9] = 2
    return result


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
def test_targets_are_roi_align_of_the_masks(rotated: bool, samples: int) -> None:
    """Over voxels next to which there are none, RoIAlign repeats those, so that the grid is padded for it."""
    boxes = torch.tensor([[2.3, 1.8, 0.4, 9.1, 8.2, 7.7], [3, 2, 1, 9, 8, 7]])
    if rotated:
        boxes = torch.tensor([[6.0, 5, 4, 5, 7, 4, 0.4], [6, 5, 4, 6, 6, 6, math.pi / 2]])
    mask = (ids() == 1).float()[None, None]
    align = roi_align_rotated_3d if rotated else roi_align_3d
    expected = align(mask, [boxes], 5, sampling_ratio=samples)[:, 0]
    found = mask_targets([ids()], [torch.zeros(2, dtype=torch.int64)], [boxes], 5, samples)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_objects_survive_the_way_there_and_back() -> None:
    truth = VoxelMasks.of_ids(ids(), 2)
    boxes = torch.tensor([[3.0, 2, 1, 9, 8, 7], [13, 11, 9, 14, 12, 10]])
    for cells in (4, 20):
        masks = mask_targets([ids()], [torch.arange(2)], [boxes], cells)
        assert torch.equal(paste_masks(masks, boxes, SHAPE).dense()[1], truth.dense()[1]), "the one voxel"
    assert (
        float(paste_masks(mask_targets([ids()], [torch.arange(2)], [boxes], 20), boxes, SHAPE).iou(truth)[0, 0]) > 0.95
    )


def test_one_voxel_survives_from_the_world_to_the_world() -> None:
    """World -> grid -> RoI -> mask -> grid -> world."""
    frame = GridFrame(np.array([-1.0, 2.0, 0.5]), np.array([0.05, 0.05, 0.05]), np.eye(4))
    point = np.array([-1 + 0.05 * 7.3, 2 + 0.05 * 4.6, 0.5 + 0.05 * 8.9])
    voxel = np.floor((point - frame.box_min) / frame.voxel_size).astype(int)
    instances = torch.zeros(SHAPE, dtype=torch.int32)
    instances[tuple(voxel)] = 1
    box = torch.tensor([[*voxel, *(voxel + 1)]], dtype=torch.float32)
    masks = paste_masks(mask_targets([instances], [torch.zeros(1).long()], [box], 20), box, SHAPE)
    (found,) = masks.dense()[0].nonzero().tolist()
    assert found == voxel.tolist()
    low, high = frame.boxes_to_world(box)[0].reshape(2, 3)
    assert ((low <= point) & (point <= high)).all()
    np.testing.assert_allclose(high - low, frame.voxel_size)


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.2])
def test_turned_masks_are_pasted_where_their_boxes_are(angle: float) -> None:
    """The half of a box along its own x."""
    box = torch.tensor([[10.0, 10, 5, 12, 6, 6, angle]])
    masks = torch.zeros(1, 8, 8, 8)
    masks[:, 4:] = 1
    found = paste_masks(masks, box, (20, 20, 10)).dense()[0].nonzero() + 0.5
    centre = torch.tensor([10 + 3 * math.cos(angle), 10 + 3 * math.sin(angle), 5])
    torch.testing.assert_close(found.mean(0), centre, atol=0.2, rtol=0)
    assert len(found) == pytest.approx(6 * 6 * 6, rel=0.1)


def test_boxes_over_walls_and_without_voxels() -> None:
    masks = torch.ones(3, 4, 4, 4)
    boxes = torch.tensor([[-3.0, -3, -3, 2, 2, 2], [5.6, 5.6, 5.6, 6.4, 6.4, 6.4], [40, 40, 40, 50, 50, 50]])
    found = paste_masks(masks, boxes, (10, 10, 10))
    assert found.counts.tolist() == [8, 0, 0]
    assert paste_masks(masks[:0], boxes[:0], (10, 10, 10)).dense().shape == (0, 10, 10, 10)


def test_parts_of_the_work_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    low = 8 * torch.rand(12, 3, generator=generator)
    boxes = torch.cat([low, low + 1 + 6 * torch.rand(12, 3, generator=generator)], 1)
    masks = torch.rand(12, 5, 5, 5, generator=generator)
    whole = paste_masks(masks, boxes, SHAPE)
    targets = mask_targets([ids()], [torch.arange(12) % 2], [boxes], 4)
    monkeypatch.setattr(sys.modules["rcnn.instances.paste_masks"], "_VOXELS", 50)
    monkeypatch.setattr(sys.modules["rcnn.roi_heads.mask_targets"], "_POINTS", 1100)
    parts = paste_masks(masks, boxes, SHAPE)
    assert torch.equal(parts.voxels, whole.voxels)
    assert torch.equal(parts.counts, whole.counts)
    assert torch.equal(mask_targets([ids()], [torch.arange(12) % 2], [boxes], 4), targets)


@pytest.mark.parametrize("rotated", [False, True])
def test_voxels_that_an_object_touches_survive(rotated: bool) -> None:
    """Their centres may lie outside of its box: a rug of a quarter of a voxel, a board of one and a half."""
    instances = torch.zeros(SHAPE, dtype=torch.int32)
    instances[2:9, 3:10, 0] = 1
    instances[11:13, 2:9, 3:8] = 2
    boxes = torch.tensor([[2.2, 3.1, 0.0, 8.9, 9.7, 0.25], [11.3, 2.0, 3.6, 12.8, 9.0, 7.9]])
    wide = widen_boxes(aabb_to_obb(boxes) if rotated else boxes, 0.5)
    masks = paste_masks(mask_targets([instances], [torch.arange(2)], [wide], 20), wide, SHAPE)
    assert torch.equal(masks.dense(), torch.stack([instances == 1, instances == 2]))
