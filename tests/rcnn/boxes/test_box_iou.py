"""IoU against values by hand and against polygons clipped by brute force."""

import math

import pytest
import torch
from box_cases import exact_iou, obbs, random_boxes
from hypothesis import given, settings
from torch import Tensor

from rcnn.boxes import aabb_to_obb, box_intersection, box_iou, box_volume, obb_to_aabb, paired_box_iou


def obb(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_aabbs_by_hand() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 0, 2, 2, 2], [1, 1, 1, 3, 3, 3], [2, 0, 0, 4, 2, 2], [0, 0, 0, 1, 2, 2], [5, 5, 5, 5, 6, 6]]
    )
    expected = torch.tensor(
        [[1, 1 / 15, 0, 0.5, 0], [1 / 15, 1, 1 / 15, 0, 0], [0, 1 / 15, 1, 0, 0], [0.5, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    )
    torch.testing.assert_close(box_iou(boxes, boxes), expected)
    torch.testing.assert_close(box_iou(aabb_to_obb(boxes), aabb_to_obb(boxes)), expected)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # A square of side 2 and the same at 45°: an octagon of area 8 (√2 - 1).
        ((0, 0, 0, 2, 2, 1, 0), (0, 0, 0, 2, 2, 1, math.pi / 4), 8 * (2**0.5 - 1) / (8 - 8 * (2**0.5 - 1))),
        # The same, half as high.
        ((0, 0, 0, 2, 2, 1, 0), (0, 0, 0.25, 2, 2, 0.5, math.pi / 4), 4 * (2**0.5 - 1) / (6 - 4 * (2**0.5 - 1))),
        # A cross of two bars.
        ((0, 0, 0, 4, 1, 1, 0.3), (0, 0, 0, 4, 1, 1, 0.3 + math.pi / 2), 1 / 7),
        # Nested, a quarter turn, half a turn, sides swapped.
        ((1, 2, 3, 4, 4, 4, 0.7), (1, 2, 3, 1, 1, 1, -0.2), 1 / 64),
        ((1, 2, 3, 4, 2, 1, 0.7), (1, 2, 3, 2, 4, 1, 0.7 + math.pi / 2), 1.0),
        ((1, 2, 3, 4, 2, 1, 0.7), (1, 2, 3, 4, 2, 1, 0.7 - math.pi), 1.0),
        # Yaw is counter-clockwise from x to y: a bar along the diagonal covers a corner at (+, +), none at (+, -).
        ((0, 0, 0, 10, 1, 1, math.pi / 4), (2, 2, 0, 0.1, 0.1, 1, 0), 0.01 / 10),
        ((0, 0, 0, 10, 1, 1, math.pi / 4), (2, -2, 0, 0.1, 0.1, 1, 0), 0.0),
        # Touching along a face, an edge, from above.
        ((0, 0, 0, 2, 2, 2, 0), (2, 0, 0, 2, 2, 2, 0), 0.0),
        ((0, 0, 0, 2, 2, 2, 0), (1 + 2**0.5, 0, 0, 2, 2, 2, math.pi / 4), 0.0),
        ((0, 0, 0, 2, 2, 2, 0.4), (0, 0, 2, 2, 2, 2, 0.4), 0.0),
        # Flat.
        ((0, 0, 0, 0, 2, 2, 0.4), (0, 0, 0, 2, 2, 2, 0.4), 0.0),
        ((0, 0, 0, 0, 0, 0, 0.4), (0, 0, 0, 0, 0, 0, 0.4), 0.0),
    ],
)  # fmt: skip
def test_obbs_by_hand(first: tuple, second: tuple, expected: float) -> None:
    for a, b in ((first, second), (second, first)):
        assert box_iou(obb(*a).float(), obb(*b).float()).item() == pytest.approx(expected, abs=2e-6)
        assert paired_box_iou(obb(*a), obb(*b)).item() == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=150)
@given(first=obbs(), second=obbs())
def test_obbs_equal_clipped_polygons(first: Tensor, second: Tensor) -> None:
    expected = exact_iou(first, second)
    assert paired_box_iou(first, second).item() == pytest.approx(expected, abs=1e-9)
    single = paired_box_iou(first.float(), second.float()).item()
    assert single == pytest.approx(exact_iou(first.float(), second.float()), abs=2e-5)
    assert 0 <= single <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxes_apart_share_exactly_nothing(dtype: torch.dtype) -> None:
    """Rectangles beside a side of another, at a gap of a thousandth of a unit, at any angles."""
    first, second = random_boxes(3000, True, 1, dtype=dtype), random_boxes(3000, True, 2, dtype=dtype)
    second[:, 2] = first[:, 2]
    gap = torch.full((3000,), 1e-3, dtype=dtype)
    turn = second[:, 6] - first[:, 6]
    reach = 0.5 * (turn.cos().abs() * second[:, 3] + turn.sin().abs() * second[:, 4])
    x = first[:, 3] / 2 + reach + gap
    y = (torch.rand(3000, generator=torch.Generator().manual_seed(3), dtype=dtype) - 0.5) * 6
    cos, sin = first[:, 6].cos(), first[:, 6].sin()
    second[:, 0], second[:, 1] = first[:, 0] + cos * x - sin * y, first[:, 1] + sin * x + cos * y
    for one, two in ((first, second), (second, first)):
        assert paired_box_iou(one, two).eq(0).all()
    closer = second.clone()
    closer[:, 0], closer[:, 1] = second[:, 0] - 2 * gap * cos, second[:, 1] - 2 * gap * sin
    assert paired_box_iou(first, closer).gt(0).any()
    leaf = first.clone().requires_grad_()
    paired_box_iou(leaf, second).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.eq(0).all()


@settings(deadline=None, max_examples=50)
@given(box=obbs(positive=True))
def test_identical_boxes(box: Tensor) -> None:
    assert paired_box_iou(box, box).item() == pytest.approx(1, abs=1e-12)
    assert paired_box_iou(box.float(), box.float()).item() == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("rotated", [False, True])
def test_large_coordinates_in_single_precision(rotated: bool) -> None:
    """What coordinates are rounded to costs precision, the computation does not."""
    boxes = random_boxes(40, rotated, extent=4)
    far = boxes.clone()
    far[:, :3] += 1e5
    if not rotated:
        far[:, 3:] += 1e5
    torch.testing.assert_close(box_iou(far, far), box_iou(far.double(), far.double()).float(), atol=3e-6, rtol=0)


def test_all_pairs_and_rows_agree() -> None:
    for rotated in (False, True):
        first, second = random_boxes(37, rotated, 1), random_boxes(23, rotated, 2)
        pairs = box_iou(first, second)
        rows = paired_box_iou(first[:, None].expand(37, 23, -1), second.expand(37, 23, -1))
        # Sines are rounded differently in loops of another length.
        torch.testing.assert_close(pairs, rows, atol=2e-6, rtol=0)
        for chunk in (1, 50, 10**6):
            torch.testing.assert_close(box_iou(first, second, chunk), pairs, atol=2e-6, rtol=0)
            in_chunks = paired_box_iou(first[:23], second, chunk)
            torch.testing.assert_close(in_chunks, pairs[:23].diagonal(), atol=2e-6, rtol=0)
        batched = box_iou(first[:36].reshape(2, 3, 6, -1), second[:18].reshape(2, 3, 3, -1))
        torch.testing.assert_close(batched[1, 2], pairs[30:36, 15:18], atol=2e-6, rtol=0)
        assert box_iou(first[:0], second).shape == (0, 23)
        assert box_iou(first, second[:0]).shape == (37, 0)
        assert paired_box_iou(first[:0], second[:0]).shape == (0,)
        expected = torch.tensor([[exact_iou(a, b) for b in second] for a in first]) if rotated else pairs
        torch.testing.assert_close(pairs, expected, atol=2e-6, rtol=0)


def test_monte_carlo() -> None:
    """Points inside both boxes, found without any of the formulas."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(400_000, 3, generator=generator, dtype=torch.float64) * 4 + 2
    first, second = (
        random_boxes(6, True, 3, extent=6, dtype=torch.float64),
        random_boxes(6, True, 4, extent=6, dtype=torch.float64),
    )

    def contains(box: Tensor) -> Tensor:
        x, y, z = (points - box[:3]).unbind(1)
        along, across = box[6].cos() * x + box[6].sin() * y, box[6].cos() * y - box[6].sin() * x
        return (torch.stack([along, across, z], 1).abs() <= box[3:6] / 2).all(1)

    for a, b in zip(first, second, strict=True):
        a[3:6] = a[3:6].clamp(max=2)
        a[:3], b[:3] = 4.0, 4.5
        estimate = (contains(a) & contains(b)).double().mean() * 64
        assert box_intersection(a, b).item() == pytest.approx(estimate.item(), abs=0.08)
        assert box_volume(a).item() == pytest.approx((contains(a).double().mean() * 64).item(), abs=0.08)


def test_nan_stays_with_its_pair() -> None:
    boxes = random_boxes(4, True)
    bad = boxes.clone()
    bad[1, 6] = float("nan")
    ious = box_iou(boxes, bad)
    assert ious[:, 1].isnan().all()
    torch.testing.assert_close(ious[:, [0, 2, 3]], box_iou(boxes, boxes)[:, [0, 2, 3]], atol=2e-6, rtol=0)


def test_half_precision_is_computed_in_single() -> None:
    boxes = random_boxes(5, False).half()
    assert torch.equal(box_iou(boxes, boxes), box_iou(boxes.float(), boxes.float()))


def test_wrong_shapes() -> None:
    boxes = random_boxes(3, True)
    with pytest.raises(ValueError, match="6 columns"):
        box_iou(boxes[:, :5], boxes[:, :5])
    with pytest.raises(ValueError, match="aabb_to_obb"):
        box_iou(boxes, obb_to_aabb(boxes))
    with pytest.raises(ValueError, match="row by row"):
        paired_box_iou(boxes, boxes[:2])


@pytest.mark.parametrize("rotated", [False, True])
def test_gradients(rotated: bool) -> None:
    first, second = (random_boxes(8, rotated, seed, extent=3, dtype=torch.float64).requires_grad_() for seed in (5, 6))
    assert torch.autograd.gradcheck(paired_box_iou, (first, second))
    assert torch.autograd.gradcheck(lambda a, b: box_iou(a, b, 20), (first[:4], second[:4]))


def test_gradients_of_degenerate_pairs_are_finite() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 0, 2, 2, 2, 0],
            [0, 0, 0, 2, 2, 2, 1e-6],
            [2, 0, 0, 2, 2, 2, 0],
            [0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 1, 1, 1, math.pi / 2],
            [50, 0, 0, 1, 1, 1, 0.3],
        ]
    )
    leaf = boxes.clone().requires_grad_()
    box_iou(leaf, boxes).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().max() < 50


def test_gradient_in_line_with_the_axes() -> None:
    """An OBB at a yaw of 0 gets the AABB's gradient, also where rounding tilts edges a little."""
    target = torch.tensor([[0.0, 0, 0, 3, 3, 3, 0]])
    for yaw in (0.0, 1e-6, -1e-5):
        box = torch.tensor([[1.0, 0.5, 0.25, 2, 3, 2, yaw]], requires_grad=True)
        paired_box_iou(box, target).sum().backward()
        plain = torch.tensor([[1.0, 0.5, 0.25, 2, 3, 2]], requires_grad=True)
        low, high = plain[:, :3] - plain[:, 3:] / 2, plain[:, :3] + plain[:, 3:] / 2
        paired_box_iou(torch.cat([low, high], 1), obb_to_aabb(target)).sum().backward()
        assert box.grad is not None
        assert plain.grad is not None
        torch.testing.assert_close(box.grad[:, :6], plain.grad, atol=1e-4, rtol=1e-3)
