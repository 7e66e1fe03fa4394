"""Conversions between kinds of boxes, and clipping."""

import math

import pytest
import torch
from box_cases import obbs, random_boxes
from hypothesis import given, settings, strategies as st
from torch import Tensor

from rcnn.boxes import (
    aabb_to_obb,
    box_corners,
    box_volume,
    clip_and_filter,
    clip_boxes,
    enclosing_aabb,
    normalize_obb,
    normalize_yaw,
    obb_to_aabb,
    paired_box_iou,
    thicken_boxes,
)

NAN = float("nan")


def test_corners_by_hand() -> None:
    corners = box_corners(torch.tensor([[1.0, 2, 3, 4, 2, 6, math.pi / 2]]))[0]
    # Turned by a quarter, the box's own (+x, +y) corner lies at (-l / 2, w / 2).
    ground = [[0.0, 4], [0, 0], [2, 0], [2, 4]]
    expected = torch.tensor([[*p, z] for z in (0.0, 6.0) for p in ground])
    torch.testing.assert_close(corners, expected, atol=1e-6, rtol=0)
    aabb = torch.tensor([[0.0, 0, 0, 1, 2, 3]])
    expected = torch.tensor(
        [[x, y, z] for z in (0.0, 3.0) for x, y in ((1.0, 2.0), (0.0, 2.0), (0.0, 0.0), (1.0, 0.0))]
    )
    assert torch.equal(box_corners(aabb)[0], expected)


@settings(deadline=None, max_examples=50)
@given(box=obbs())
def test_enclosing_aabb_is_that_of_the_corners(box: Tensor) -> None:
    corners = box_corners(box)
    expected = torch.cat([corners.amin(0), corners.amax(0)])
    torch.testing.assert_close(obb_to_aabb(box), expected, atol=1e-9, rtol=0)
    assert torch.equal(enclosing_aabb(expected), expected)


def test_aabb_round_trip() -> None:
    boxes = random_boxes(20, False)
    torch.testing.assert_close(obb_to_aabb(aabb_to_obb(boxes)), boxes)
    torch.testing.assert_close(box_volume(aabb_to_obb(boxes)), box_volume(boxes))
    assert box_volume(torch.tensor([[0.0, 0, 0, -1, -1, 1]])).item() == 0


@settings(deadline=None, max_examples=80)
@given(yaw=st.floats(-100, 100), period=st.sampled_from([math.pi / 2, math.pi, 2 * math.pi]))
def test_normalized_yaw(yaw: float, period: float) -> None:
    for dtype in (torch.float32, torch.float64):
        wrapped = normalize_yaw(torch.tensor(yaw, dtype=dtype), period)
        assert -period / 2 <= wrapped.item() + 1e-6
        assert wrapped < torch.tensor(period / 2, dtype=dtype)
        turns = (yaw - wrapped.item()) / period
        assert turns == pytest.approx(round(turns), abs=1e-4)


def test_tiny_angles_stay_in_the_range() -> None:
    assert normalize_yaw(torch.tensor([-math.pi / 2 - 1e-9, math.pi / 2])).tolist() == pytest.approx([-math.pi / 2] * 2)


@settings(deadline=None, max_examples=50)
@given(box=obbs(positive=True))
def test_normalized_box_is_the_same(box: Tensor) -> None:
    same = normalize_obb(box)
    assert same[3] >= same[4]
    assert -math.pi / 2 <= same[6] < math.pi / 2
    assert paired_box_iou(same, box).item() == pytest.approx(1, abs=1e-9)


def test_clipping_by_hand() -> None:
    aabbs = torch.tensor([[-1.0, 2, 3, 5, 20, 7], [1, 1, 1, 2, 2, 2], [12, 1, 1, 14, 2, 2]])
    expected = torch.tensor([[0.0, 2, 3, 5, 8, 6], [1, 1, 1, 2, 2, 2], [10, 1, 1, 10, 2, 2]])
    assert torch.equal(clip_boxes(aabbs, (10, 8, 6)), expected)
    obbs = torch.tensor([[5.0, 5, 5, 4, 3, 4, 0.3], [5, 5, 3, 4, 3, 2, 0.3]])
    expected = torch.tensor([[5.0, 5, 4.5, 4, 3, 3, 0.3], [5, 5, 3, 4, 3, 2, 0.3]])
    assert torch.equal(clip_boxes(obbs, (10, 8, 6)), expected)


def test_thin_boxes_get_a_voxel_by_hand() -> None:
    aabbs = torch.tensor([[1.0, 2, 0, 5, 4, 0.25], [3, 1, 5.9, 3.5, 2, 6], [1, 1, 1, 3.5, 2, 2]])
    expected = torch.tensor([[1.0, 2, 0, 5, 4, 1], [2.75, 1, 5, 3.75, 2, 6], [1, 1, 1, 3.5, 2, 2]])
    assert torch.equal(thicken_boxes(aabbs, (10, 8, 6)), expected)
    obbs = torch.tensor([[5.0, 5, 0.125, 4, 0.5, 0.25, 0.3], [5, 5, 3, 4, 3, 2, 0.3]])
    expected = torch.tensor([[5.0, 5, 0.5, 4, 1, 1, 0.3], [5, 5, 3, 4, 3, 2, 0.3]])
    assert torch.equal(thicken_boxes(obbs, (10, 8, 6)), expected)
    assert torch.equal(thicken_boxes(torch.tensor([[0, 0, 0, 0.5, 1, 1]]), (0.5, 4, 4))[0, :3], torch.zeros(3))


@pytest.mark.parametrize("rotated", [False, True])
def test_scores_and_levels_go_with_their_boxes(rotated: bool) -> None:
    boxes = torch.tensor(
        [
            [5.0, 5, 5, 2, 2, 2, 0.3],  # inside
            [50, 5, 5, 2, 2, 2, 0.3],  # outside
            [5, 5, 5, NAN, 2, 2, 0.3],
            [5, 5, 5, 2, 0, 2, 0.3],  # flat
            [5, 5, -9, 2, 2, 2, 0.3],  # below
            [1, 1, 5.5, 2, 2, 2, 0.3],  # inside, in part
        ]
    )
    if not rotated:
        boxes = torch.cat([boxes[:, :3] - boxes[:, 3:6] / 2, boxes[:, :3] + boxes[:, 3:6] / 2], 1)
    scores, levels = torch.arange(6) / 10, torch.arange(12).reshape(6, 2)
    kept, kept_scores, kept_levels = clip_and_filter(boxes, (10, 10, 6), scores, levels)
    assert torch.equal(kept, clip_boxes(boxes, (10, 10, 6))[[0, 5]])
    assert torch.equal(kept_scores, scores[[0, 5]])
    assert torch.equal(kept_levels, levels[[0, 5]])
    with pytest.raises(ValueError, match="does not belong"):
        clip_and_filter(boxes, (10, 10, 6), scores[:3])
    assert [len(rows) for rows in clip_and_filter(boxes[:0], (10, 10, 6), scores[:0])] == [0, 0]
