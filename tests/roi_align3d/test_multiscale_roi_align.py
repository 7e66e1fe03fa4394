"""Which level a box reads, and that it reads it as if it were alone."""

import math

import pytest
import torch
from roi_cases import make_case

from roi_align3d import MultiScaleRoIAlign3D, multiscale_roi_align_3d, roi_align_3d
from roi_align3d.sampling import assign_levels, make_pyramid

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def cube(*edges: float) -> torch.Tensor:
    return torch.tensor([[0.0, 1, 1, 1, 1 + e, 1 + e, 1 + e] for e in edges])


def test_levels_follow_the_rule() -> None:
    edges = [1.0, 39, 40, 79.9, 80, 81, 159, 160, 161, 319, 320, 640, 5000]
    levels = assign_levels(cube(*edges), make_pyramid(SCALES, 160, 4)).tolist()
    expected = [min(max(math.floor(4 + math.log2(e / 160) + 1e-6), 2), 5) - 2 for e in edges]
    assert levels == expected
    assert set(levels) == {0, 1, 2, 3}


def test_geometric_mean_decides() -> None:
    flat = torch.tensor([[0.0, 0, 0, 0, 320, 320, 40], [0, 0, 0, 0, 320, 320, 39]])
    assert assign_levels(flat, make_pyramid(SCALES, 160, 4)).tolist() == [2, 1]
    rotated = torch.tensor([[0.0, 9, 9, 9, 320, 320, 40, 1], [0, 9, 9, 9, 320, 320, 39, 2]])
    assert assign_levels(rotated, make_pyramid(SCALES, 160, 4)).tolist() == [2, 1]


def test_odd_boxes_have_a_level() -> None:
    odd = torch.tensor([[0.0, 1, 1, 1, 0, 0, 9], [0, float("nan"), 0, 0, 9, 9, 9], [0, 0, 0, 0, 1e30, 1e30, 1e30]])
    assert assign_levels(odd, make_pyramid(SCALES, 160, 4)).tolist() == [0, 0, 3]


@pytest.mark.parametrize("rotated", [False, True])
def test_every_box_reads_its_level(rotated: bool) -> None:
    case = make_case(levels=3, count=20, shape=(8, 6, 9), rotated=rotated, largest=14.0)
    pooled = multiscale_roi_align_3d(
        case.features, case.rois, 2, [1, 0.5, 0.25], 2, canonical_scale=5, canonical_level=1, rotated=rotated
    )
    levels = assign_levels(case.rois, make_pyramid([1, 0.5, 0.25], 5, 1))
    assert levels.unique().tolist() == [0, 1, 2]
    for level in range(3):
        alone = multiscale_roi_align_3d(
            [case.features[level]], case.rois[levels == level], 2, [0.5**level], 2, rotated=rotated
        )
        assert torch.equal(pooled[levels == level], alone)


def test_one_level_is_roi_align() -> None:
    case = make_case(levels=1)
    pooled = multiscale_roi_align_3d(case.features, case.rois, 2, [0.5], mode="crop_and_resize")
    assert torch.equal(pooled, roi_align_3d(case.features[0], case.rois, 2, 0.5, mode="crop_and_resize"))


def test_module_passes_all_its_options() -> None:
    case = make_case(levels=2, rotated=True)
    options = ((2, 1, 3), (1.0, 0.4), 1, False, 4.0, 1)
    module = MultiScaleRoIAlign3D(*options, rotated=True)
    expected = multiscale_roi_align_3d(case.features, case.rois, *options, rotated=True)
    assert torch.equal(module(case.features, case.rois), expected)


def test_gradients_reach_all_levels() -> None:
    case = make_case(levels=2, count=9)
    levels = [level.requires_grad_() for level in case.features]
    multiscale_roi_align_3d(levels, case.rois, 2, [1, 0.5], canonical_scale=3, canonical_level=1).sum().backward()
    for level in levels:
        assert level.grad is not None
        assert level.grad.abs().sum() > 0
