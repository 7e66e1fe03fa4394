"""The operator on a GPU against the reference."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from roi_cases import Case, cases, make_case
from torch.utils._python_dispatch import TorchDispatchMode

from roi_align3d import multiscale_roi_align_3d, roi_align_3d
from roi_align3d.operator import pool
from roi_align3d.sampling import assign_levels, make_pyramid

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCE = {torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float64: 1e-10}


class Rule(NamedTuple):
    """What kernels are compiled for anew, each in seconds: all tests here make do with these."""

    dtype: torch.dtype
    rotated: bool
    sampling_ratio: int
    aligned: bool
    crop_and_resize: bool
    channels: int
    levels: int
    output_size: tuple[int, int, int]

    def make_case(self, **others: Any) -> Case:
        return make_case(**{key: value for key, value in self._asdict().items() if key != "dtype"}, **others)


ADAPTIVE = Rule(torch.float32, False, -1, True, False, 3, 2, (3, 2, 3))
ROTATED = ADAPTIVE._replace(rotated=True)
ONE_SAMPLE = Rule(torch.float16, False, 1, True, False, 70, 1, (2, 3, 2))
RULES = {
    "adaptive": ADAPTIVE,
    "rotated": ROTATED,
    "one sample": ONE_SAMPLE,
    "two samples": Rule(torch.float32, False, 2, False, False, 70, 3, (2, 3, 2)),
    # More x bins than a program sums at a time.
    "two samples, half": Rule(torch.float16, False, 2, True, False, 70, 2, (9, 2, 10)),
    "two samples, bfloat16": Rule(torch.bfloat16, False, 2, False, False, 70, 2, (3, 2, 7)),
    "many samples": Rule(torch.bfloat16, False, 10, True, False, 3, 2, (2, 3, 2)),
    "crop and resize": Rule(torch.float16, False, 2, True, True, 3, 2, (1, 5, 2)),
    "rotated, two samples": Rule(torch.bfloat16, True, 2, False, False, 70, 3, (2, 3, 2)),
}
# The gradient for boxes is one kernel for any fixed number of samples.
WITHOUT_BOX_GRADIENT = {"one sample", "two samples, half", "two samples, bfloat16", "many samples"}


def compare_with_reference(case: Case, dtype: torch.dtype, box_gradient: bool = True) -> None:
    """Values and all gradients; the reference runs on the CPU, in single or double precision."""
    rounded = case.to("cpu", dtype)
    exact = rounded.to("cpu", torch.float64 if dtype == torch.float64 else torch.float32)
    expected = exact.reference()
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(expected)
    upstream = upstream.to(dtype).to(expected)
    *wanted, wanted_of_rois = exact.reference_gradients(upstream)

    ours = rounded.to("cuda", dtype)
    leaves = [level.detach().requires_grad_() for level in ours.features]
    rois = ours.rois.detach().requires_grad_(box_gradient)
    pooled = pool(leaves, rois, case.pyramid, case.sampling)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(pooled.cpu().to(expected), expected, atol=tolerance, rtol=tolerance)
    if box_gradient:
        leaves.append(rois)
        wanted.append(wanted_of_rois)
    gradients = torch.autograd.grad(pooled, leaves, upstream.to("cuda", dtype))
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got.cpu().to(want), want, atol=20 * tolerance, rtol=20 * tolerance)


def spread_boxes(rule: Rule) -> Case:
    """Boxes on all levels, long ones along z too; some lie off the grid."""
    case = rule.make_case(count=40, shape=(26, 23, 40), largest=20.0)
    case = case._replace(pyramid=make_pyramid(case.pyramid.scales, 7.0, 1))
    reading = case.reference().flatten(1).ne(0).any(1)
    assert assign_levels(case.rois, case.pyramid)[reading].bincount(minlength=rule.levels).min() >= 2
    return case


@pytest.mark.parametrize("name", RULES)
def test_equals_the_reference(name: str) -> None:
    compare_with_reference(spread_boxes(RULES[name]), RULES[name].dtype, name not in WITHOUT_BOX_GRADIENT)


@pytest.mark.parametrize("name", RULES)
def test_double_precision_equals_the_reference(name: str) -> None:
    """Without kernels, in tensor operations on the device."""
    compare_with_reference(spread_boxes(RULES[name]), torch.float64)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(torch.float32, one_kernel=True))
def test_equals_the_reference_on_odd_inputs(case: Case) -> None:
    compare_with_reference(case, torch.float32)


def test_any_layout_gives_the_same() -> None:
    case = ONE_SAMPLE.make_case().to("cuda", ONE_SAMPLE.dtype)
    grid = case.features[0]
    expected = roi_align_3d(grid, case.rois, ONE_SAMPLE.output_size, sampling_ratio=1)
    for layout in (grid.to(memory_format=torch.channels_last_3d), grid.transpose(2, 4).contiguous().transpose(2, 4)):
        assert torch.equal(roi_align_3d(layout, case.rois, ONE_SAMPLE.output_size, sampling_ratio=1), expected)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("rule", [ADAPTIVE, ROTATED], ids=["axis-aligned", "rotated"])
@pytest.mark.usefixtures("deterministic")
def test_deterministic_backward(rule: Rule) -> None:
    case = rule.make_case(count=400, shape=(12, 12, 12)).to("cuda", rule.dtype)

    def gradients() -> tuple[torch.Tensor, ...]:
        leaves = [level.detach().requires_grad_() for level in case.features]
        pooled = pool(leaves, case.rois, case.pyramid, case.sampling)
        return torch.autograd.grad(pooled.square().sum(), leaves)

    first = gradients()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(gradients(), first, strict=True))
    torch.use_deterministic_algorithms(False)
    for a, b in zip(gradients(), first, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rule", [ADAPTIVE, ROTATED], ids=["axis-aligned", "rotated"])
def test_never_waits_for_the_device(rule: Rule) -> None:
    case = rule.make_case(count=6).to("cuda", rule.dtype)
    lists = [case.rois[:2, 1:], case.rois[2:, 1:]]
    leaves = [t.requires_grad_() for t in case.features]

    def step(boxes: torch.Tensor | list[torch.Tensor]) -> None:
        pooled = multiscale_roi_align_3d(
            leaves, boxes, rule.output_size, [1, 0.5], canonical_scale=3, canonical_level=1, rotated=rule.rotated
        )
        pooled.square().sum().backward()

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
    case = ADAPTIVE.make_case().to("cuda", ADAPTIVE.dtype)
    rois = case.rois.clone()
    rois[0, 0], rois[1, 0], rois[2, 0] = 2, -1, 0.5
    leaves = [level.detach().requires_grad_() for level in case.features]
    pooled = pool(leaves, rois, case.pyramid, case.sampling)
    assert pooled[:3].isnan().all()
    assert pooled[3:].isfinite().all()
    gradients = torch.autograd.grad(pooled.sum(), leaves)
    alone = pool(leaves, rois[3:], case.pyramid, case.sampling)
    for got, want in zip(gradients, torch.autograd.grad(alone.sum(), leaves), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_unusable_boxes_give_zeros(value: float) -> None:
    case = ADAPTIVE.make_case().to("cuda", ADAPTIVE.dtype)
    leaves = [torch.ones_like(level, requires_grad=True) for level in case.features]
    boxes = torch.full((3, 7), value, device="cuda")
    boxes[:, 0] = 0
    boxes[1, 1:4], boxes[2, 4:] = 1, 2
    boxes.requires_grad_()
    pooled = pool(leaves, boxes, case.pyramid, case.sampling)
    for zeros in (pooled, *torch.autograd.grad(pooled.sum(), [*leaves, boxes])):
        assert zeros.eq(0).all()


def test_second_derivatives_are_refused() -> None:
    case = ADAPTIVE.make_case().to("cuda", ADAPTIVE.dtype)
    leaves = [level.detach().requires_grad_() for level in case.features]
    pooled = pool(leaves, case.rois, case.pyramid, case.sampling)
    gradients = torch.autograd.grad(pooled.square().sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        gradients[0].sum().backward()


def test_results_may_be_modified() -> None:
    case = ADAPTIVE.make_case().to("cuda", ADAPTIVE.dtype)
    leaves = [level.detach().requires_grad_() for level in case.features]
    pool(leaves, case.rois, case.pyramid, case.sampling).relu_().sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)


def test_modes_see_the_operator() -> None:
    """Plain tensors go to the kernels directly, but not where somebody watches."""
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    case = ADAPTIVE.make_case().to("cuda", ADAPTIVE.dtype)
    leaves = [level.detach().requires_grad_() for level in case.features]
    expected = pool(leaves, case.rois, case.pyramid, case.sampling)
    wanted = torch.autograd.grad(expected.sum(), leaves)
    with Recorder():
        pooled = pool(leaves, case.rois, case.pyramid, case.sampling)
        gradients = torch.autograd.grad(pooled.sum(), leaves)
    assert {torch.ops.roi_align3d.roi_align.default, torch.ops.roi_align3d.roi_align_backward.default} <= set(seen)
    assert torch.equal(pooled, expected)
    assert pooled.stride() == expected.stride()
    for got, want in zip(gradients, wanted, strict=True):
        assert got.stride() == want.stride()
        torch.testing.assert_close(got, want)


def test_other_addresses_and_streams() -> None:
    """Later launches reuse compiled kernels; those for aligned addresses must not read others."""
    case = ADAPTIVE.make_case().to("cuda", ADAPTIVE.dtype)
    expected = pool(case.features, case.rois, case.pyramid, case.sampling)
    first = case.features[0]
    n, c, x, y, z = first.shape
    memory = torch.zeros(first.numel() + 1, device="cuda")
    for offset in (0, 1, 0, 1):
        grid = memory[offset : offset + first.numel()].view(n, x, y, z, c).permute(0, 4, 1, 2, 3)
        grid.copy_(first)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            pooled = pool([grid, case.features[1]], case.rois, case.pyramid, case.sampling)
        torch.cuda.current_stream().wait_stream(stream)
        assert torch.equal(pooled, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_every_device() -> None:
    case = ADAPTIVE.make_case()
    expected = case.reference()
    for device in ("cuda:0", "cuda:1") * 2:
        ours = case.to(device, ADAPTIVE.dtype)
        pooled = pool(ours.features, ours.rois, case.pyramid, case.sampling)
        torch.testing.assert_close(pooled.cpu(), expected, atol=3e-5, rtol=3e-5)


def test_nothing_to_pool() -> None:
    grid = torch.ones(1, 4, 6, 6, 6, device="cuda", requires_grad=True)
    assert roi_align_3d(grid, torch.zeros(0, 7, device="cuda"), 2).shape == (0, 4, 2, 2, 2)
    assert roi_align_3d(grid[:, :0], torch.zeros(3, 7, device="cuda"), 2).shape == (3, 0, 2, 2, 2)


def test_more_than_two_to_the_31_features() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    size, channels = ONE_SAMPLE.output_size, ONE_SAMPLE.channels
    grid = torch.zeros((2, 256, 256, 256, channels), dtype=ONE_SAMPLE.dtype, device="cuda").permute(0, 4, 1, 2, 3)
    assert grid.numel() > 2**31
    grid[-1, :, 250:, 250:, 250:] = 3
    rois = torch.tensor([[1, 252.0, 252, 252, 255, 255, 255], [0, 1, 1, 1, 4, 4, 4]], device="cuda")
    assert roi_align_3d(grid, rois, size, sampling_ratio=1).flatten(1).mean(1).tolist() == [3, 0]
    grid.requires_grad_()
    roi_align_3d(grid, rois, size, sampling_ratio=1).sum().backward()
    assert grid.grad is not None
    # Every bin gives one to each channel.
    sums = grid.grad[1, :, 250:, 250:, 250:].float().flatten(1).sum(1)
    torch.testing.assert_close(sums, torch.full_like(sums, math.prod(size)), atol=0.05, rtol=0)


def test_more_than_two_to_the_31_results() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    case = ONE_SAMPLE.make_case(grids=1, count=2_600_000).to("cuda", ONE_SAMPLE.dtype)
    grid, size = case.features[0], ONE_SAMPLE.output_size
    pooled = roi_align_3d(grid, case.rois, size, sampling_ratio=1)
    assert pooled.numel() > 2**31
    assert torch.equal(pooled[-3:], roi_align_3d(grid, case.rois[-3:], size, sampling_ratio=1))


def test_compiles_in_one_graph() -> None:
    torch.compiler.reset()
    case = ADAPTIVE.make_case(count=5).to("cuda", ADAPTIVE.dtype)

    def loss(rois: torch.Tensor, *levels: torch.Tensor) -> torch.Tensor:
        pooled = multiscale_roi_align_3d(
            levels, rois, ADAPTIVE.output_size, [1, 0.5], canonical_scale=3, canonical_level=1
        )
        return pooled.square().sum()

    leaves = [t.requires_grad_() for t in (case.rois, *case.features)]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, fullgraph=True)
    for got, want in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
