"""Coders: values by hand and round trips."""

import math

import pytest
import torch
from box_cases import obbs, random_boxes
from hypothesis import given, settings, strategies as st
from torch import Tensor

from rcnn.boxes import (
    decode_aabb_deltas,
    decode_location_distances,
    decode_midpoint_offsets,
    decode_obb_deltas,
    encode_aabb_deltas,
    encode_location_distances,
    encode_midpoint_offsets,
    encode_obb_deltas,
    paired_box_iou,
)
from rcnn.boxes.midpoint_offsets import decode_midpoints, encode_midpoints

ANCHOR = torch.tensor([[0.0, 0, 0, 4, 8, 2]])


def test_aabb_deltas_by_hand() -> None:
    box = torch.tensor([[1.0, 4, 0, 5, 6, 4]])
    expected = torch.tensor([[0.25, 0.125, 0.5, 0, math.log(1 / 4), math.log(2)]])
    torch.testing.assert_close(encode_aabb_deltas(box, ANCHOR), expected)
    torch.testing.assert_close(decode_aabb_deltas(expected, ANCHOR), box)


def test_clamps() -> None:
    huge = torch.tensor([[0.0, 0, 0, 1e3, 0, 0]])
    assert decode_aabb_deltas(huge, ANCHOR)[0, 3].item() == pytest.approx(2 + 4 * 2000 / 2, rel=1e-5)
    assert encode_aabb_deltas(torch.zeros(1, 6), ANCHOR).isfinite().all()
    assert encode_midpoint_offsets(torch.zeros(1, 7), ANCHOR).isfinite().all()
    wild = torch.tensor([[0.0, 0, 0, 1e3, -1e3, 0, 7, -7]])
    box = decode_midpoint_offsets(wild, ANCHOR)
    assert box.isfinite().all()
    tame = torch.tensor([[0.0, 0, 0, math.log(62.5), -math.log(62.5), 0, 0.5, -0.5]])
    torch.testing.assert_close(box, decode_midpoint_offsets(tame, ANCHOR))


def test_midpoint_offsets_by_hand() -> None:
    """A square with its corners on the axes: enclosed by a square of side 2, touched in the middle of each side."""
    square = torch.tensor([[2.0, 4, 1, 2**0.5, 2**0.5, 2, math.pi / 4]])
    expected = torch.tensor([[0, 0, 0, math.log(2 / 4), math.log(2 / 8), 0, 0, 0]])
    torch.testing.assert_close(encode_midpoint_offsets(square, ANCHOR), expected, atol=1e-6, rtol=0)
    # 4 x 2 turned by the angle of the triangle 3, 4, 5: (cos, sin) = (0.8, 0.6).
    _, midpoints = encode_midpoints(torch.tensor([[0.0, 0, 0, 4, 2, 1, math.atan2(3, 4)]]))
    wide, deep = 4 * 0.8 + 2 * 0.6, 4 * 0.6 + 2 * 0.8
    vertex_of_largest_y, vertex_of_largest_x = 2 * 0.8 - 1 * 0.6, 2 * 0.6 - 1 * 0.8
    assert midpoints[0].tolist() == pytest.approx([vertex_of_largest_y / wide, vertex_of_largest_x / deep])


def test_pairs_of_no_rectangle_are_stretched() -> None:
    """Half diagonals of 5 and 4: the shorter one becomes 5."""
    enclosing = torch.tensor([[-4.0, -3, 0, 4, 3, 1]])
    box = decode_midpoints(enclosing, torch.tensor([[0.5, 0.0]]))[0]
    corner, stretched = torch.tensor([4.0, 3.0]), torch.tensor([5.0, 0.0])
    middle = (corner + stretched) / 2
    expected = [0, 0, 0.5, 2 * middle.norm().item(), (corner - stretched).norm().item(), 1]
    assert box[:6].tolist() == pytest.approx(expected)
    assert box[6].item() == pytest.approx(math.atan2(middle[1].item(), middle[0].item()))


@settings(deadline=None, max_examples=60)
@given(box=obbs(positive=True), anchor=obbs(positive=True))
def test_midpoint_round_trip(box: Tensor, anchor: Tensor) -> None:
    """The same box, whatever yaw and sides describe it; the sides' ratio is clamped."""
    anchor = torch.cat([anchor[:3] - anchor[3:6] / 2, anchor[:3] + anchor[3:6] / 2])
    enclosing, midpoints = encode_midpoints(box, tolerance=0)
    assert midpoints.abs().max() <= 0.5 + 1e-12
    assert same_box(decode_midpoints(enclosing, midpoints), box)
    location = anchor[:3]
    distances = encode_location_distances(box, location, tolerance=0)
    assert same_box(decode_location_distances(distances, location), box)
    ratio = (enclosing[3:] - enclosing[:3]) / (anchor[3:] - anchor[:3])
    if ratio.min() > 1 / 62 and ratio.max() < 62:
        assert same_box(decode_midpoint_offsets(encode_midpoint_offsets(box, anchor, tolerance=0), anchor), box)
    kept = decode_midpoints(*encode_midpoints(box, tolerance=0.1))
    assert max_corner_distance(kept, box) <= 0.1 * 2**0.5 + 1e-9


def max_corner_distance(first: Tensor, second: Tensor) -> float:
    from rcnn.boxes import box_corners

    a, b = box_corners(first), box_corners(second)
    return torch.cdist(a, b).min(1).values.max().item()


def same_box(first: Tensor, second: Tensor) -> bool:
    return max_corner_distance(first, second) < 1e-6


def test_aligned_boxes_are_encoded_alike() -> None:
    """A trace of yaw to either side must not flip the targets: their average would be a box at 45°."""
    yaws = torch.tensor([0.0, 1e-3, -1e-3, math.pi / 2 - 1e-3, math.pi, -math.pi / 2, 0.5 * math.pi])
    boxes = torch.tensor([0.0, 0, 0, 20, 8, 5]).repeat(len(yaws), 1)
    _, midpoints = encode_midpoints(torch.cat([boxes, yaws[:, None]], 1))
    torch.testing.assert_close(midpoints, torch.tensor([0.5, -0.5]).expand(len(yaws), 2), atol=4e-3, rtol=0)


@settings(deadline=None, max_examples=60)
@given(box=obbs(positive=True), reference=obbs(positive=True))
def test_delta_round_trips(box: Tensor, reference: Tensor) -> None:
    ratio = box[3:6] / reference[3:6]
    low, high = (torch.cat([b[:3] - b[3:6] / 2, b[:3] + b[3:6] / 2]) for b in (box, reference))
    if ratio.min() > 1 / 2000 and ratio.max() < 2000:
        assert same_box(decode_obb_deltas(encode_obb_deltas(box, reference), reference), box)
        torch.testing.assert_close(decode_aabb_deltas(encode_aabb_deltas(low, high), high), low, atol=1e-8, rtol=1e-8)
    turn = encode_obb_deltas(box, reference)[6]
    assert -math.pi / 2 <= turn < math.pi / 2


def test_obb_deltas_by_hand() -> None:
    reference = torch.tensor([[1.0, 1, 1, 4, 2, 2, math.pi / 2]])
    # One unit along the grid's y is one along the box's x.
    box = torch.tensor([[1.0, 2, 1, 4, 4, 1, math.pi * 1.5 + 0.1]])
    expected = torch.tensor([[0.25, 0, 0, 0, math.log(2), -math.log(2), 0.1]])
    torch.testing.assert_close(encode_obb_deltas(box, reference), expected, atol=1e-6, rtol=0)


def test_location_distances_by_hand() -> None:
    location = torch.tensor([[1.0, 2, 3]])
    box = torch.tensor([[0.0, 0, 0, 4, 4, 4]])
    distances = encode_location_distances(box, location)
    assert distances[0].tolist() == [1, 2, 3, 3, 2, 1]
    assert torch.equal(decode_location_distances(distances, location), box)


@settings(deadline=None, max_examples=60)
@given(
    alpha=st.sampled_from([-0.5, -0.25, 0.0, 0.5, 3.0]),
    beta=st.sampled_from([-0.5, -0.3, 0.0, 0.5, -3.0]),
    sides=st.tuples(*[st.sampled_from([0.0, 1e-6, 1.0, 40.0])] * 3),
)
def test_any_regression_decodes(alpha: float, beta: float, sides: tuple[float, float, float]) -> None:
    distances = torch.tensor([[s / 2 for s in sides] * 2 + [alpha, beta]], requires_grad=True)
    box = decode_location_distances(distances, torch.zeros(1, 3))
    box.sum().backward()
    assert box.isfinite().all()
    assert distances.grad is not None
    assert distances.grad.isfinite().all()
    assert (box[0, 3:6] >= 0).all()


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    deltas = (torch.rand(5, 8, generator=generator, dtype=torch.float64) - 0.5).requires_grad_()
    anchors = random_boxes(5, False, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: decode_midpoint_offsets(d, anchors), deltas)
    assert torch.autograd.gradcheck(lambda d: decode_obb_deltas(d, random_boxes(5, True, dtype=d.dtype)), deltas[:, :7])


def test_single_precision() -> None:
    boxes = random_boxes(200, True, 1, extent=160, largest=60)
    anchors = torch.cat([boxes[:, :3].round() - 8, boxes[:, :3].round() + 8], 1)
    deltas = encode_midpoint_offsets(boxes, anchors, tolerance=0)
    assert paired_box_iou(decode_midpoint_offsets(deltas, anchors), boxes).min() > 0.999
