"""Gradients for features and boxes."""

import pytest
import torch
from roi_cases import make_case

from roi_align3d import multiscale_roi_align_3d, roi_align_3d, roi_align_rotated_3d

DOUBLE = torch.float64


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(("sampling_ratio", "aligned"), [(2, True), (-1, True), (1, False)])
def test_gradcheck(rotated: bool, sampling_ratio: int, aligned: bool) -> None:
    case = make_case(3, 1, 1, (4, 3, 4), count=2, rotated=rotated, dtype=DOUBLE, largest=4.0)

    def pool(boxes: torch.Tensor, *levels: torch.Tensor) -> torch.Tensor:
        rois = torch.cat([case.rois[:, :1], boxes], dim=1)
        return multiscale_roi_align_3d(levels, rois, 2, [1, 0.5], sampling_ratio, aligned, 3.0, 1, rotated=rotated)

    leaves = [t.clone().requires_grad_() for t in (case.rois[:, 1:], *case.features)]
    assert torch.autograd.gradcheck(pool, leaves)


def test_gradcheck_crop_and_resize() -> None:
    case = make_case(5, 1, 1, (4, 3, 4), levels=1, count=2, dtype=DOUBLE, largest=4.0)
    leaves = [t.clone().requires_grad_() for t in (case.rois[:, 1:], case.features[0])]
    for size in ((2, 3, 1), 1):
        assert torch.autograd.gradcheck(
            lambda boxes, grid, size=size: roi_align_3d(
                grid, torch.cat([case.rois[:, :1], boxes], dim=1), size, mode="crop_and_resize"
            ),
            leaves,
        )


def test_gradients_only_where_asked_for() -> None:
    case = make_case(levels=1)
    grid, rois = case.features[0].clone().requires_grad_(), case.rois.clone()
    roi_align_3d(grid, rois, 2).sum().backward()
    assert grid.grad is not None
    boxes = rois.clone().requires_grad_()
    roi_align_3d(case.features[0], boxes, 2).sum().backward()
    assert boxes.grad is not None
    assert boxes.grad[:, 0].eq(0).all()
    assert not roi_align_3d(case.features[0], rois, 2).requires_grad
    with torch.no_grad():
        assert not roi_align_3d(grid, boxes, 2).requires_grad


def test_features_are_not_kept_without_box_gradients() -> None:
    case = make_case(levels=1)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        roi_align_3d(case.features[0].requires_grad_(), case.rois, 2)
    assert [t.shape for t in saved] == [case.rois.shape]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_have_the_dtype_of_their_tensor(dtype: torch.dtype) -> None:
    case = make_case(levels=1)
    grid, boxes = case.features[0].to(dtype).requires_grad_(), case.rois.clone().requires_grad_()
    exact = case.features[0].to(dtype).float().requires_grad_()
    roi_align_3d(grid, boxes, 2).sum().backward()
    roi_align_3d(exact, case.rois, 2).sum().backward()
    assert grid.grad is not None
    assert boxes.grad is not None
    assert (grid.grad.dtype, boxes.grad.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(grid.grad.float(), exact.grad, atol=0.01, rtol=0.01)


def test_same_gradient_every_time() -> None:
    case = make_case(levels=1, count=40, channels=4)
    gradients = []
    for _ in range(3):
        grid = case.features[0].clone().requires_grad_()
        roi_align_3d(grid, case.rois, 3, sampling_ratio=2).square().sum().backward()
        gradients.append(grid.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_second_derivatives_are_refused() -> None:
    case = make_case(levels=1)
    grid, boxes = case.features[0].requires_grad_(), case.rois.requires_grad_()
    loss = roi_align_3d(grid, boxes, 2).square().sum()
    for leaf in (grid, boxes):
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivatives"):
            gradient.sum().backward()


def test_boxes_descend_towards_their_object() -> None:
    # A blob of ones: enlarging the overlap raises the pooled mean, so following the gradient centres the box.
    grid = torch.zeros(1, 1, 12, 12, 12)
    grid[..., 4:8, 4:8, 4:8] = 1
    boxes = torch.tensor([[0, 5.2, 4.9, 7.3, 4.3, 4.3, 4.3, 0.4]], requires_grad=True)
    means = []
    for _ in range(40):
        mean = roi_align_rotated_3d(grid, boxes, 3, sampling_ratio=2).mean()
        (gradient,) = torch.autograd.grad(mean, boxes)
        gradient[:, [0, 4, 5, 6]] = 0
        boxes = (boxes + gradient).detach().requires_grad_()
        means.append(mean.item())
    torch.testing.assert_close(boxes[0, 1:4].detach(), torch.full((3,), 6.0), atol=0.25, rtol=0)
    assert means[-1] > means[0] + 0.2
