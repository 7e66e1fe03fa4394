"""Places in the frames of boxes."""

import math

import pytest
import torch
from box_cases import random_boxes

from rcnn.boxes import box_corners, from_box_frame, to_box_frame


def test_by_hand() -> None:
    point = torch.tensor([2.0, 3.0, 5.0])
    box = torch.tensor([0.0, 2, 1, 4, 6, 9])
    assert to_box_frame(point, box).tolist() == [0.5, 0.25, 0.5]
    # Turned by a quarter to the left, the box's own x runs along y.
    box = torch.tensor([2.0, 2, 5, 4, 2, 8, math.pi / 2])
    torch.testing.assert_close(to_box_frame(point, box), torch.tensor([0.75, 0.5, 0.5]))


@pytest.mark.parametrize("rotated", [False, True])
def test_there_and_back(rotated: bool) -> None:
    boxes = random_boxes(20, rotated, seed=0).double()
    corners = to_box_frame(box_corners(boxes), boxes[:, None])
    assert torch.minimum(corners.abs(), (corners - 1).abs()).max() < 1e-9
    assert (corners[:, :4, 2].abs() < 1e-9).all(), "the lower ones come first"
    points = 100 * torch.rand(20, 30, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(from_box_frame(to_box_frame(points, boxes[:, None]), boxes[:, None]), points)
