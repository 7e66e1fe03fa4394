"""RoIAlign of axis-aligned boxes against numbers worked out by hand and against torchvision's in 2D."""

import pytest
import torch
import torchvision.ops
from hypothesis import given, settings, strategies as st
from roi_cases import make_case

from roi_align3d import RoIAlign3D, roi_align_3d

# Value 25 x + 5 y + z: trilinear interpolation is exact, so an average over a bin is the value at its centre.
RAMP = torch.arange(125.0).reshape(1, 1, 5, 5, 5)


def box(*corners: float) -> torch.Tensor:
    return torch.tensor([[0.0, *corners]])


def test_box_around_voxels_gives_the_voxels() -> None:
    for sampling_ratio in (-1, 1, 2, 3):
        pooled = roi_align_3d(RAMP, box(1, 1, 1, 4, 4, 4), 3, sampling_ratio=sampling_ratio)
        torch.testing.assert_close(pooled, RAMP[:, :, 1:4, 1:4, 1:4], atol=1e-4, rtol=0)


def test_unaligned_box_is_half_a_voxel_further() -> None:
    pooled = roi_align_3d(RAMP, box(1, 1, 1, 4, 4, 4), 3, aligned=False)
    torch.testing.assert_close(pooled, RAMP[:, :, 1:4, 1:4, 1:4] + 15.5, atol=1e-4, rtol=0)


def test_axes_and_scale() -> None:
    # On the grid: (0.5..1.5, 1.5..3.5, 2.5..3.5) less half a voxel; centres 0.5, (1.5, 2.5), 2.5.
    pooled = roi_align_3d(RAMP, box(1, 3, 5, 3, 7, 7), (1, 2, 1), spatial_scale=0.5, sampling_ratio=2)
    assert pooled.flatten().tolist() == pytest.approx([12.5 + 7.5 + 2.5, 12.5 + 12.5 + 2.5])


def test_samples_around_one_voxel() -> None:
    spike = torch.zeros(1, 1, 5, 5, 5)
    spike[0, 0, 2, 3, 1] = 1
    around = box(2, 3, 1, 3, 4, 2)
    assert roi_align_3d(spike, around, 1, sampling_ratio=1).item() == pytest.approx(1)
    # Two samples per axis, each 0.25 from the centre.
    assert roi_align_3d(spike, around, 1, sampling_ratio=2).item() == pytest.approx(0.75**3)


def test_border_is_repeated_for_one_voxel() -> None:
    ones = torch.ones(1, 1, 5, 5, 5)
    for axis in range(3):
        low, high = [1.0, 1, 1], [2.0, 2, 2]
        sizes = [1, 1, 1]
        sizes[axis] = 4
        low[axis], high[axis] = 3.5, 7.5  # samples at 3.5, 4.5, 5.5, 6.5
        assert roi_align_3d(ones, box(*low, *high), sizes, sampling_ratio=1).flatten().tolist() == [1, 1, 0, 0]
        low[axis], high[axis] = -3.5, 0.5  # samples at -3.5, -2.5, -1.5, -0.5
        assert roi_align_3d(ones, box(*low, *high), sizes, sampling_ratio=1).flatten().tolist() == [0, 0, 0, 1]
        low[axis], high[axis] = -1.0, 1.0  # samples at -1.25, -0.75, -0.25, 0.25
        assert roi_align_3d(ones, box(*low, *high), sizes, sampling_ratio=1).flatten().tolist() == [0, 1, 1, 1]
        low[axis], high[axis] = 5.0, 6.0  # samples at 4.625, 4.875, 5.125, 5.375
        sizes[axis] = 1
        assert roi_align_3d(ones, box(*low, *high), sizes, sampling_ratio=4).item() == pytest.approx(0.5)


def test_crop_and_resize_spans_the_corners() -> None:
    crop = roi_align_3d(RAMP, box(0, 0, 0, 4, 4, 4), 5, mode="crop_and_resize")
    assert torch.equal(crop, RAMP)
    beyond = roi_align_3d(RAMP, box(2, 0, 0, 6, 4, 4), 5, mode="crop_and_resize")
    assert torch.equal(beyond[:, :, :3], RAMP[:, :, 2:])
    assert beyond[:, :, 3:].eq(0).all()
    coarse = roi_align_3d(RAMP, box(1, 2, 0, 7, 6, 8), (3, 1, 2), 0.5, 7, False, mode="crop_and_resize")
    expected = [25 * x + 5 * 2 + z for x in (0.5, 2, 3.5) for z in (0, 4)]
    assert coarse.flatten().tolist() == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(
    corners=st.lists(st.tuples(*[st.floats(-6, 14, width=32)] * 4), min_size=1, max_size=4),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    sampling_ratio=st.sampled_from([-1, 1, 2, 3]),
    aligned=st.booleans(),
    degenerate=st.integers(0, 2),
)
def test_equals_torchvision_on_a_slice(
    corners: list[tuple[float, ...]], shape: tuple[int, int], sampling_ratio: int, aligned: bool, degenerate: int
) -> None:
    if sampling_ratio < 0:
        # torchvision's aborts on adaptive sampling of an inverted box.
        corners = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    image = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = torch.arange(len(corners)) % 2
    # torchvision's x runs along the last axis.
    flat = torch.tensor([(i, b, a, d, c) for i, (a, b, c, d) in zip(batch, corners, strict=True)]).double()
    expected = torchvision.ops.roi_align(image, flat, (3, 2), 0.75, sampling_ratio, aligned)

    axes = [axis for axis in range(3) if axis != degenerate]
    boxes = torch.zeros(len(corners), 7, dtype=torch.float64)
    boxes[:, 0], boxes[:, 4 + degenerate] = batch, 1 / 0.75
    for axis, (low, high) in zip(axes, ((0, 2), (1, 3)), strict=True):
        boxes[:, 1 + axis] = torch.tensor([c[low] for c in corners])
        boxes[:, 4 + axis] = torch.tensor([c[high] for c in corners])
    sizes = [3, 2]
    sizes.insert(degenerate, 1)
    pooled = roi_align_3d(image.unsqueeze(2 + degenerate), boxes, sizes, 0.75, sampling_ratio, aligned)
    torch.testing.assert_close(pooled.squeeze(2 + degenerate), expected)


def test_list_of_boxes_is_the_tensor_with_indices() -> None:
    case = make_case(levels=1, count=5)
    grid, rois = case.features[0], case.rois.clone()
    rois[:, 0] = torch.tensor([0, 0, 0, 1, 1])
    listed = roi_align_3d(grid, [rois[:3, 1:], rois[3:, 1:]], 2)
    assert torch.equal(listed, roi_align_3d(grid, rois, 2))
    assert torch.equal(listed, RoIAlign3D(2)(grid, [rois[:3, 1:], rois[3:, 1:]]))


def test_module_passes_all_its_options() -> None:
    case = make_case(levels=1)
    options = (2, 0.7, 3, False)
    module = RoIAlign3D(*options, mode="roi_align")
    assert torch.equal(module(case.features[0], case.rois), roi_align_3d(case.features[0], case.rois, *options))
    assert "sampling_ratio=3, aligned=False" in repr(module)
    crop = RoIAlign3D(2, mode="crop_and_resize")(case.features[0], case.rois)
    assert torch.equal(crop, roi_align_3d(case.features[0], case.rois, 2, mode="crop_and_resize"))


def test_any_layout_gives_the_same() -> None:
    case = make_case(levels=1)
    grid, rois = case.features[0], case.rois
    expected = roi_align_3d(grid, rois, 2)
    padded = torch.zeros(2, 3, 8, 7, 9)
    view = padded[:, :, 1:7, 1:6, 1:8]
    view.copy_(grid)
    strided = torch.zeros(len(rois), 14)[:, ::2].copy_(rois)
    for layout in (
        grid.to(memory_format=torch.channels_last_3d),
        view,
        grid.transpose(2, 4).contiguous().transpose(2, 4),
    ):
        assert torch.equal(roi_align_3d(layout, strided, 2), expected)
    assert expected.is_contiguous(memory_format=torch.channels_last_3d)


def test_boxes_keep_their_precision() -> None:
    grid = torch.randn(1, 2, 130, 3, 3, generator=torch.Generator().manual_seed(0))
    rois = box(120.03, 0, 0, 121.03, 3, 3)
    exact = roi_align_3d(grid, rois, 1)
    # In fp16, 120.03 would become 120.0.
    torch.testing.assert_close(roi_align_3d(grid.half(), rois, 1).float(), exact, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(roi_align_3d(grid, rois.double(), 1), exact, atol=1e-4, rtol=1e-4)
    assert roi_align_3d(grid.half(), rois, 1).dtype == torch.float16
