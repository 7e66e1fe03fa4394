"""Losses on overlap, on deltas and on projections."""

import math

import pytest
import torch
from box_cases import random_boxes
from torch import Tensor

from rcnn.boxes import (
    IoULoss,
    aabb_to_obb,
    diou_loss,
    giou_loss,
    iou_loss,
    linear_iou_loss,
    log_iou_loss,
    paired_box_iou,
    projected_box_loss,
    smooth_l1_box_loss,
)
from rcnn.boxes.delta_losses import synthetic_views
from rcnn.boxes.iou_losses import enclosing_sizes

KINDS = ("log_iou", "linear_iou", "giou", "diou")


def test_by_hand() -> None:
    # Intersection 1, union 15, enclosing cube 27, centres √3 apart, diagonal √27.
    first, second = torch.tensor([[0.0, 0, 0, 2, 2, 2]]), torch.tensor([[1.0, 1, 1, 3, 3, 3]])
    expected = {
        log_iou_loss: -math.log(2 / 16),
        linear_iou_loss: 1 - 2 / 16,
        giou_loss: 1 - 1 / 15 + 12 / 27,
        diou_loss: 1 - 1 / 15 + 3 / 27,
    }
    for loss, value in expected.items():
        assert loss(first, second).item() == pytest.approx(value, rel=1e-6)
        assert loss(aabb_to_obb(first), aabb_to_obb(second)).item() == pytest.approx(value, rel=1e-5)
    assert log_iou_loss(first, second, smoothing=0).item() == pytest.approx(math.log(15), rel=1e-6)


def test_enclosing_box_turns_with_the_boxes() -> None:
    """Two boxes in a row along a diagonal: turned, they are enclosed without waste, and GIoU is IoU."""
    row = torch.tensor([[1.0, 2, 3, 4, 1, 2, 0.6]])
    step = 3 * torch.tensor([[math.cos(0.6), math.sin(0.6)]])
    moved = torch.cat([row[:, :2] + step, row[:, 2:]], 1)
    sizes = enclosing_sizes(row, moved)[0].tolist()
    assert sorted(sizes[:2]) == pytest.approx([1, 7], abs=1e-5)
    assert sizes[2] == 2
    assert giou_loss(row, moved).item() == pytest.approx(1 - 1 / 7, abs=1e-5)


def test_enclosing_rectangle_is_the_smallest() -> None:
    """No direction out of many has a smaller one; a direction that joins the two boxes is found too."""
    first, second = (random_boxes(30, True, seed, extent=6, dtype=torch.float64) for seed in (1, 2))
    found = enclosing_sizes(first, second)[:, :2].prod(1)
    angles = torch.linspace(0, math.pi / 2, 401, dtype=torch.float64)
    least = torch.full_like(found, math.inf)
    for angle in angles:
        turned = [b.clone() for b in (first, second)]
        sides = []
        for boxes in turned:
            x, y = boxes[:, 0].clone(), boxes[:, 1].clone()
            yaw = boxes[:, 6] + angle
            center = torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], 1)
            half = 0.5 * torch.stack(
                [
                    boxes[:, 3] * yaw.cos().abs() + boxes[:, 4] * yaw.sin().abs(),
                    boxes[:, 3] * yaw.sin().abs() + boxes[:, 4] * yaw.cos().abs(),
                ],
                1,
            )
            sides.append((center - half, center + half))
        size = torch.maximum(sides[0][1], sides[1][1]) - torch.minimum(sides[0][0], sides[1][0])
        least = torch.minimum(least, size.prod(1))
    assert (found <= least + 1e-9).all()
    assert (found >= least * (1 - 1e-2)).all()


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(rotated: bool, kind: str) -> None:
    first, second = (random_boxes(6, rotated, seed, extent=4, dtype=torch.float64).requires_grad_() for seed in (7, 8))
    loss = IoULoss(kind)  # pyright: ignore[reportArgumentType]
    assert torch.autograd.gradcheck(loss, (first, second))


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_odd_boxes_have_finite_losses_and_gradients(rotated: bool, kind: str) -> None:
    target = random_boxes(1, rotated).repeat(5, 1)
    predicted = target.clone()
    predicted[1, :3] += 1000.0
    predicted[2, 3:6] = 0 if rotated else predicted[2, :3]
    target[3, 3:6] = predicted[3, 3:6] = 0 if rotated else predicted[3, :3]
    predicted[4, 3] = -1.0
    predicted.requires_grad_()
    losses = iou_loss(predicted, target, kind)  # pyright: ignore[reportArgumentType]
    losses.sum().backward()
    assert losses[0].item() == pytest.approx(0, abs=1e-5)
    assert losses.isfinite().all()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["giou", "diou"])
def test_boxes_apart_are_drawn_together(kind: str) -> None:
    target = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0.3]])
    box = torch.tensor([[5.0, 1, 0, 2, 2, 2, -0.5]], requires_grad=True)
    iou_loss(box, target, kind).sum().backward()  # pyright: ignore[reportArgumentType]
    assert box.grad is not None
    assert box.grad[0, 0] > 0


def test_descent_reaches_the_target() -> None:
    """GIoU from an overlap of nothing, yaw included."""
    target = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0.5]])
    box = torch.tensor([[3.0, 3, 1, 2, 2, 1, 0.0]], requires_grad=True)
    optimiser = torch.optim.Adam([box], 0.1)
    for _ in range(120):
        optimiser.zero_grad()
        giou_loss(box, target).sum().backward()
        optimiser.step()
    assert paired_box_iou(box, target).item() > 0.9


def test_no_rows() -> None:
    for columns in (6, 7):
        none = torch.zeros(0, columns, requires_grad=True)
        for kind in KINDS:
            losses = iou_loss(none, none, kind)
            assert losses.shape == (0,)
            losses.sum().backward()
        assert projected_box_loss(none, none, 160).shape == (0,)


def test_wrong_arguments() -> None:
    boxes = random_boxes(2, True)
    with pytest.raises(ValueError, match="one of"):
        IoULoss("ciou")(boxes, boxes)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="shapes"):
        iou_loss(boxes, boxes[:, :6], "giou")
    with pytest.raises(ValueError, match="shapes"):
        iou_loss(boxes, boxes[:1], "giou")


def test_smooth_l1() -> None:
    losses = smooth_l1_box_loss(torch.tensor([[0.1, 1.0, -2.0]]), torch.zeros(1, 3))
    assert losses.tolist() == pytest.approx([0.5 * 0.01 * 9 + (1 - 1 / 18) + (2 - 1 / 18)])


def project_by_hand(point: tuple[float, float, float], sign: tuple[int, int], extent: float) -> tuple[float, float]:
    """Pixels of a point, from the camera's axes written out."""
    back = torch.tensor([*sign, 1.0], dtype=torch.float64) / 3**0.5
    right = torch.tensor([-back[1], back[0], 0.0], dtype=torch.float64)
    right = right / right.norm()
    up = torch.linalg.cross(back, right)
    offset = torch.tensor(point, dtype=torch.float64) - extent * (3**0.5 * back + 0.5)
    depth = -offset @ back
    return (600 * offset @ right / depth).item(), (600 * offset @ up / depth).item()


def test_projected_loss_by_hand() -> None:
    target = torch.tensor([[10.0, 20, 30, 50, 60, 70]], dtype=torch.float64)
    predicted = torch.tensor([[12.0, 19, 33, 50, 64, 75]], dtype=torch.float64)
    expected = 0.0
    for sign in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        for corner in (slice(0, 3), slice(3, 6)):
            a, b = (project_by_hand(tuple(boxes[0, corner].tolist()), sign, 160) for boxes in (predicted, target))  # pyright: ignore[reportArgumentType]
            for u, v in zip(a, b, strict=True):
                error = abs(u - v)
                expected += 4.5 * error**2 if error < 1 / 9 else error - 1 / 18
    assert projected_box_loss(predicted, target, 160).item() == pytest.approx(expected / 160, rel=1e-9)
    rotated = projected_box_loss(aabb_to_obb(predicted), aabb_to_obb(target), 160)
    assert rotated.item() == pytest.approx(expected / 160, rel=1e-9)


def test_projected_loss_of_boxes_behind_a_camera() -> None:
    target = random_boxes(2, True)
    predicted = (target + torch.tensor([1e4, 1e4, 1e4, 0, 0, 0, 0])).requires_grad_()
    losses = projected_box_loss(predicted, target, 160)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_views_look_at_the_centre() -> None:
    views = synthetic_views(100, torch.zeros((), dtype=torch.float64))
    center = torch.tensor([50.0, 50, 50, 1], dtype=torch.float64)
    expected = torch.tensor([0.0, 0, -100 * 3**0.5], dtype=torch.float64)
    for view in views:
        torch.testing.assert_close(view @ center, expected)
        rotation: Tensor = view[:, :3]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        assert torch.linalg.det(rotation).item() == pytest.approx(1)
