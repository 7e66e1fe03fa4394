"""RoIAlign of boxes turned about z."""

import math

import pytest
import torch
from roi_cases import make_case

from roi_align3d import RoIAlignRotated3D, roi_align_3d, roi_align_rotated_3d


@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_without_yaw_it_is_roi_align(sampling_ratio: int) -> None:
    case = make_case(levels=1, dtype=torch.float64)
    low, high = case.rois[:, 1:4], case.rois[:, 4:7]
    rotated = torch.cat([case.rois[:, :1], (low + high) / 2, high - low, torch.zeros(len(low), 1)], dim=1)
    expected = roi_align_3d(case.features[0], case.rois, (2, 3, 2), 0.8, sampling_ratio)
    pooled = roi_align_rotated_3d(case.features[0], rotated, (2, 3, 2), 0.8, sampling_ratio)
    torch.testing.assert_close(pooled, expected)


def test_quarter_turn_is_counter_clockwise_from_above() -> None:
    grid = torch.randn(1, 2, 6, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[0, 3.0, 3, 3, 4, 2, 2]], dtype=torch.float64)
    turned = torch.cat([box, torch.full((1, 1), math.pi / 2, dtype=torch.float64)], dim=1)
    pooled = roi_align_rotated_3d(grid, turned, (4, 2, 2))[0]
    # The box's x runs along the grid's y, and the box's y against the grid's x.
    wanted = grid[0, :, 2:4, 1:5, 2:4].flip(1).transpose(1, 2)
    torch.testing.assert_close(pooled, wanted)


def test_follows_a_slanted_ridge() -> None:
    # The value is the distance along the direction of 30 degrees, so it grows along the box's x only.
    yaw = math.radians(30)
    x, y = torch.meshgrid(torch.arange(12.0) + 0.5, torch.arange(12.0) + 0.5, indexing="ij")
    along = ((x - 6) * math.cos(yaw) + (y - 6) * math.sin(yaw))[None, None, :, :, None].expand(1, 1, 12, 12, 3)
    box = torch.tensor([[0, 6.0, 6, 1.5, 6, 3, 2, yaw]])
    pooled = roi_align_rotated_3d(along, box, (3, 2, 1), sampling_ratio=2).squeeze()
    torch.testing.assert_close(pooled, torch.tensor([[-2.0, -2], [0, 0], [2, 2]]), atol=1e-4, rtol=0)


def test_small_unaligned_box_grows_about_its_centre() -> None:
    ramp = torch.arange(6.0)[None, None, :, None, None].expand(1, 1, 6, 6, 6)
    box = torch.tensor([[0, 2.25, 3, 3, 0.1, 2, 2, 0.0]])
    pooled = roi_align_rotated_3d(ramp, box, (2, 1, 1), sampling_ratio=1, aligned=False)
    assert pooled.flatten().tolist() == pytest.approx([2.0, 2.5])


def test_list_and_module() -> None:
    case = make_case(levels=1, grids=1, rotated=True)
    expected = roi_align_rotated_3d(case.features[0], case.rois, 2, 0.9, 1, False)
    assert torch.equal(RoIAlignRotated3D(2, 0.9, 1, False)(case.features[0], [case.rois[:, 1:]]), expected)
