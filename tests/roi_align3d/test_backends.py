"""The vectorised backend against the reference, over inputs that Hypothesis draws, and on the formulas' own terms."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from roi_cases import Case, cases, make_case

from roi_align3d import vectorized
from roi_align3d.vectorized import features_backward, forward, rois_backward

SLOW_MACHINE = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


def compare_with_reference(case: Case, atol: float) -> None:
    """Values and all gradients."""
    expected = case.reference()
    pooled = forward(case.channels_last(), case.rois, case.pyramid, case.sampling)
    torch.testing.assert_close(pooled.permute(0, 4, 1, 2, 3), expected, atol=atol, rtol=atol)

    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=expected.dtype)
    *of_features, of_rois = case.reference_gradients(upstream)
    gradient = upstream.permute(0, 2, 3, 4, 1).contiguous()
    shapes = [level.shape for level in case.channels_last()]
    ours = features_backward(gradient, shapes, case.rois, case.pyramid, case.sampling)
    for level, wanted in zip(ours, of_features, strict=True):
        torch.testing.assert_close(level.permute(0, 4, 1, 2, 3), wanted, atol=atol, rtol=atol)
    boxes = rois_backward(gradient, case.channels_last(), case.rois, case.pyramid, case.sampling)
    torch.testing.assert_close(boxes, of_rois, atol=10 * atol, rtol=10 * atol)


@SLOW_MACHINE
@given(case=cases(torch.float64))
def test_equals_the_reference_in_double_precision(case: Case) -> None:
    compare_with_reference(case, atol=1e-10)


@SLOW_MACHINE
@given(case=cases(torch.float32))
def test_equals_the_reference_in_single_precision(case: Case) -> None:
    # Positions are rounded alike, or a sample on the grid's rim would be lost here and counted there.
    compare_with_reference(case, atol=3e-5)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_chunks_make_no_difference(rotated: bool, sampling_ratio: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(count=12, rotated=rotated, sampling_ratio=sampling_ratio, dtype=torch.float64)
    monkeypatch.setattr(vectorized, "_TAPS_PER_CHUNK", 500)
    chunks = list(vectorized._chunks(case.rois, [f.shape for f in case.channels_last()], case.pyramid, case.sampling))
    assert len(chunks) > 8
    compare_with_reference(case, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_in_single_precision(dtype: torch.dtype) -> None:
    case = make_case(count=6, sampling_ratio=3).to("cpu", dtype)
    exact = case.to("cpu", torch.float32)
    pooled = forward(case.channels_last(), case.rois, case.pyramid, case.sampling)
    # Only the result is rounded, which one cast of the exact result does as well.
    torch.testing.assert_close(pooled.permute(0, 4, 1, 2, 3), exact.reference().to(dtype), atol=1e-7, rtol=1e-2)
    assert pooled.dtype == dtype
    error = (pooled.permute(0, 4, 1, 2, 3).float() - exact.reference()).abs()
    assert (error <= torch.finfo(dtype).eps * exact.reference().abs() * 0.51 + 1e-6).all()


def test_huge_box_samples_the_grid_only() -> None:
    case = make_case(shape=(4, 4, 4), levels=1, grids=1, sampling_ratio=-1)
    for rotated, box in ((False, [-9e5] * 3 + [9e5] * 3), (True, [0.0, 0, 0, 9e5, 9e5, 9e5, 0.3])):
        huge = case._replace(rois=torch.tensor([[0.0, *box]]), features=[torch.ones(1, 1, 4, 4, 4)])
        huge = huge._replace(sampling=huge.sampling._replace(output_size=(1, 1, 1)))
        pooled = forward(huge.channels_last(), huge.rois, huge.pyramid, huge.sampling)
        # The grid and the voxel around it are 5 wide on samples one voxel apart.
        size = 1.8e6 if not rotated else 9e5
        assert pooled.item() == pytest.approx((5 / size) ** 3, rel=0.6), rotated


def test_infinite_feature_leaves_boxes_elsewhere_alone() -> None:
    case = make_case(levels=1, grids=1, shape=(8, 8, 8), count=1)
    case.features[0][0, :, 0, 0, 0] = float("inf")
    boxes = torch.tensor([[0, -20.0, -20, -20, -10, -10, -10], [0, 4, 4, 4, 7, 7, 7]])
    pooled = forward(case.channels_last(), boxes, case.pyramid, case.sampling)
    assert pooled[0].eq(0).all()
    assert pooled[1].isfinite().all()
