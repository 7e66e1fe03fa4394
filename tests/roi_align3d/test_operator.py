"""The registration: schema, tracing, compilation, export and autocast."""

import shutil
from typing import Any

import pytest
import torch
from roi_cases import make_case

from roi_align3d import MultiScaleRoIAlign3D, RoIAlign3D, multiscale_roi_align_3d, roi_align_3d


@pytest.mark.parametrize("rotated", [False, True])
def test_opcheck(rotated: bool) -> None:
    case = make_case(rotated=rotated)
    levels = [level.requires_grad_() for level in case.features]
    rois = case.rois.requires_grad_()
    options = [list(value) if isinstance(value, tuple) else value for value in (*case.pyramid, *case.sampling)]
    torch.library.opcheck(torch.ops.roi_align3d.roi_align.default, (levels, rois, *options))
    gradient = torch.randn(len(rois), 3, *case.sampling.output_size)
    shapes = [size for level in levels for size in level.shape]
    utils = ("test_schema", "test_faketensor", "test_autograd_registration")
    with torch.no_grad():
        arguments: tuple[Any, ...] = (gradient, shapes, rois.detach(), *options)
        torch.library.opcheck(torch.ops.roi_align3d.roi_align_backward.default, arguments, test_utils=utils)
        arguments = (gradient, [level.detach() for level in levels], rois.detach(), *options)
        torch.library.opcheck(torch.ops.roi_align3d.roi_align_backward_rois.default, arguments, test_utils=utils)


def compare_compiled(backend: str, counts: tuple[int, ...]) -> None:
    """Values and gradients of a compiled loss, for several numbers of boxes."""

    def loss(boxes: torch.Tensor, *levels: torch.Tensor) -> torch.Tensor:
        rois = torch.nn.functional.pad(boxes, (1, 0))
        return multiscale_roi_align_3d(levels, rois, 2, [1, 0.5], canonical_scale=3, canonical_level=1).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for count in counts:
        case = make_case(count=count)
        leaves = [t.requires_grad_() for t in (case.rois[:, 1:].clone(), *case.features)]
        expected = torch.autograd.grad(loss(*leaves), leaves)
        for ours, eager in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
            torch.testing.assert_close(ours, eager)


def test_compiles_in_one_graph() -> None:
    torch.compiler.reset()
    compare_compiled("aot_eager", (4, 7, 5))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on CPUs")
def test_compiles_with_inductor() -> None:
    torch.compiler.reset()
    compare_compiled("inductor", (4,))


def test_compiles_with_a_list_of_boxes() -> None:
    torch.compiler.reset()
    case = make_case(levels=1, count=4)
    boxes = [case.rois[:3, 1:], case.rois[3:, 1:]]
    compiled = torch.compile(RoIAlign3D(2), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(case.features[0], boxes), RoIAlign3D(2)(case.features[0], boxes))


def test_exports_with_any_number_of_boxes() -> None:
    case, other = make_case(count=4), make_case(count=6)
    module = MultiScaleRoIAlign3D(2, [1, 0.5])
    shapes = ([None, None], {0: torch.export.Dim("boxes")})
    program = torch.export.export(module, (case.features, case.rois), dynamic_shapes=shapes)
    assert torch.equal(program.module()(other.features, other.rois), module(other.features, other.rois))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_the_features_as_they_are(dtype: torch.dtype) -> None:
    case = make_case(levels=1)
    grid = case.features[0]
    with torch.autocast("cpu", dtype):
        pooled = roi_align_3d(torch.nn.functional.conv3d(grid, torch.ones(3, 3, 1, 1, 1)), case.rois, 2)
        assert pooled.dtype == dtype
        assert roi_align_3d(grid, case.rois, 2).dtype == torch.float32


def test_fake_tensors_tell_shape_dtype_and_layout() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    case = make_case(levels=1).to("cpu", torch.bfloat16)
    real = roi_align_3d(case.features[0], case.rois, (2, 1, 3))
    with FakeTensorMode() as mode:
        fake = roi_align_3d(mode.from_tensor(case.features[0]), mode.from_tensor(case.rois), (2, 1, 3))
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


def test_results_may_be_modified_in_place() -> None:
    features = torch.randn(1, 3, 5, 5, 5, requires_grad=True)
    boxes = torch.tensor([[0.0, 1, 1, 1, 4, 4, 4]])
    roi_align_3d(features, boxes, 2).relu_().sum().backward()
    got = features.grad
    assert got is not None
    features.grad = None
    roi_align_3d(features, boxes, 2).relu().sum().backward()
    assert features.grad is not None
    assert torch.equal(got, features.grad)
