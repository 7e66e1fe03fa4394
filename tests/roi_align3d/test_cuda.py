"""The operator on a GPU against the reference."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from roi_cases import Case, cases, make_case

from roi_align3d import multiscale_roi_align_3d, roi_align_3d, roi_align_rotated_3d
from roi_align3d.operator import pool

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCE = {torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float64: 1e-10}


def compare_with_reference(case: Case, dtype: torch.dtype) -> None:
    """Values and all gradients; the reference runs on the CPU, in single or double precision."""
    rounded = case.to("cpu", dtype)
    exact = rounded.to("cpu", torch.float64 if dtype == torch.float64 else torch.float32)
    expected = exact.reference()
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(expected)
    upstream = upstream.to(dtype).to(expected)
    wanted = exact.reference_gradients(upstream)

    ours = rounded.to("cuda", dtype)
    leaves = [t.detach().requires_grad_() for t in (*ours.features, ours.rois)]
    pooled = pool(leaves[:-1], leaves[-1], case.pyramid, case.sampling)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(pooled.cpu().to(expected), expected, atol=tolerance, rtol=tolerance)
    gradients = torch.autograd.grad(pooled, leaves, upstream.to("cuda", dtype))
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got.cpu().to(want), want, atol=20 * tolerance, rtol=20 * tolerance)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 1, 2, 10])
def test_equals_the_reference(dtype: torch.dtype, rotated: bool, sampling_ratio: int) -> None:
    # Every combination compiles kernels anew, so channels and alignment go with the other two.
    odd = rotated == (sampling_ratio in (1, -1))
    case = make_case(
        sampling_ratio + 1, channels=3 if odd else 70, levels=3, count=24, shape=(11, 9, 40), rotated=rotated,
        aligned=odd, sampling_ratio=sampling_ratio, largest=20.0,
    )  # fmt: skip
    compare_with_reference(case, dtype)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_crop_and_resize_equals_the_reference(dtype: torch.dtype) -> None:
    for output_size in ((5, 5, 5), (1, 2, 1)):
        compare_with_reference(make_case(count=12, crop_and_resize=True, output_size=output_size), dtype)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(torch.float32, one_kernel=True))
def test_equals_the_reference_on_odd_inputs(case: Case) -> None:
    compare_with_reference(case, torch.float32)


def test_any_layout_gives_the_same() -> None:
    case = make_case(levels=1).to("cuda", torch.float16)
    grid = case.features[0]
    expected = roi_align_3d(grid, case.rois, 3, sampling_ratio=2)
    for layout in (grid.to(memory_format=torch.channels_last_3d), grid.transpose(2, 4).contiguous().transpose(2, 4)):
        assert torch.equal(roi_align_3d(layout, case.rois, 3, sampling_ratio=2), expected)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.usefixtures("deterministic")
def test_deterministic_backward(rotated: bool) -> None:
    case = make_case(count=200, shape=(12, 12, 12), channels=16, rotated=rotated).to("cuda", torch.float32)
    pool_all = roi_align_rotated_3d if rotated else roi_align_3d
    gradients = []
    for _ in range(4):
        grid = case.features[0].detach().requires_grad_()
        pool_all(grid, case.rois, 4, sampling_ratio=2).square().sum().backward()
        gradients.append(grid.grad)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    torch.use_deterministic_algorithms(False)
    grid = case.features[0].detach().requires_grad_()
    pool_all(grid, case.rois, 4, sampling_ratio=2).square().sum().backward()
    torch.testing.assert_close(grid.grad, gradients[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rotated", [False, True])
def test_never_waits_for_the_device(rotated: bool) -> None:
    case = make_case(count=6, rotated=rotated).to("cuda", torch.float16)
    lists = [case.rois[:2, 1:], case.rois[2:, 1:]]
    leaves = [t.requires_grad_() for t in case.features]

    def step(boxes: torch.Tensor | list[torch.Tensor]) -> None:
        pooled = multiscale_roi_align_3d(
            leaves, boxes, 3, [1, 0.5], canonical_scale=3, canonical_level=1, rotated=rotated
        )
        pooled.float().square().sum().backward()

    boxes = case.rois.requires_grad_()
    step(boxes)  # compiles the kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(boxes)
        step(lists)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_batch_index_without_a_grid_gives_nan() -> None:
    case = make_case(levels=1).to("cuda", torch.float32)
    rois = case.rois.clone()
    rois[0, 0], rois[1, 0], rois[2, 0] = 2, -1, 0.5
    grid = case.features[0].requires_grad_()
    pooled = roi_align_3d(grid, rois, 2)
    assert pooled[:3].isnan().all()
    assert pooled[3:].isfinite().all()
    pooled.sum().backward()
    assert grid.grad is not None
    alone = case.features[0].detach().requires_grad_()
    roi_align_3d(alone, rois[3:], 2).sum().backward()
    torch.testing.assert_close(grid.grad, alone.grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_unusable_boxes_give_zeros(value: float) -> None:
    grid = torch.ones(1, 4, 6, 6, 6, device="cuda", requires_grad=True)
    boxes = torch.full((3, 7), value, device="cuda")
    boxes[:, 0] = 0
    boxes[1, 1:4], boxes[2, 4:] = 1, 2
    boxes.requires_grad_()
    pooled = roi_align_3d(grid, boxes, 2)
    pooled.sum().backward()
    for zeros in (pooled, grid.grad, boxes.grad):
        assert zeros is not None
        assert zeros.eq(0).all()


def test_nothing_to_pool() -> None:
    grid = torch.ones(1, 4, 6, 6, 6, device="cuda", requires_grad=True)
    assert roi_align_3d(grid, torch.zeros(0, 7, device="cuda"), 2).shape == (0, 4, 2, 2, 2)
    assert roi_align_3d(grid[:, :0], torch.zeros(3, 7, device="cuda"), 2).shape == (3, 0, 2, 2, 2)


def test_more_than_two_to_the_31_features() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    shape = (136, 256, 256, 256, 1)
    grid = torch.zeros(shape, dtype=torch.float16, device="cuda").permute(0, 4, 1, 2, 3)
    assert grid.numel() > 2**31
    grid[-1, 0, 250:, 250:, 250:] = 3
    rois = torch.tensor([[135, 252.0, 252, 252, 255, 255, 255], [0, 1, 1, 1, 4, 4, 4]], device="cuda")
    assert roi_align_3d(grid, rois, 2).flatten(1).mean(1).tolist() == [3, 0]
    grid.requires_grad_()
    roi_align_3d(grid, rois, 1, sampling_ratio=2).sum().backward()
    assert grid.grad is not None
    assert grid.grad[135, 0, 250:, 250:, 250:].sum().item() == pytest.approx(1, abs=1e-2)


def test_more_than_two_to_the_31_results() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    grid = torch.randn(1, 64, 6, 6, 6, device="cuda", dtype=torch.float16)
    case = make_case(levels=1, grids=1, count=70_000).to("cuda", torch.float16)
    rois = case.rois
    pooled = roi_align_3d(grid, rois, 8, sampling_ratio=1)
    assert pooled.numel() > 2**31
    assert torch.equal(pooled[-3:], roi_align_3d(grid, rois[-3:], 8, sampling_ratio=1))


def test_compiles_in_one_graph() -> None:
    torch.compiler.reset()
    case = make_case(count=5).to("cuda", torch.float32)

    def loss(rois: torch.Tensor, *levels: torch.Tensor) -> torch.Tensor:
        return multiscale_roi_align_3d(levels, rois, 2, [1, 0.5], canonical_scale=3, canonical_level=1).square().sum()

    leaves = [t.requires_grad_() for t in (case.rois, *case.features)]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, fullgraph=True)
    for got, want in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
