"""Grids and boxes stay together, whatever is done to them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from rcnn.boxes import aabb_to_obb, box_corners, box_iou, obb_to_aabb
from rcnn.data.grid_transform import GridTransform, transform_boxes, visible_fraction

moves = st.builds(GridTransform, st.integers(0, 3), st.booleans(), st.booleans())
small = st.builds(
    GridTransform, st.integers(0, 3), st.booleans(), st.booleans(), st.floats(-0.5, 0.5), st.floats(0.8, 1.25)
)
shapes = st.tuples(*[st.integers(1, 9)] * 3)


def block(shape: tuple[int, int, int], box: list[int]) -> Tensor:
    grid = torch.zeros(1, *shape)
    grid[(0, *(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True)))] = 1
    return grid


def bounds(grid: Tensor) -> list[int]:
    """AABB of the voxels that are not 0."""
    places = grid[0].nonzero()
    return [*places.amin(0).tolist(), *(places.amax(0) + 1).tolist()]


@settings(deadline=None, max_examples=100)
@given(moves, shapes, st.data())
def test_blocks_stay_in_their_boxes(move: GridTransform, shape: tuple[int, int, int], data: st.DataObject):
    """From one voxel to the whole grid; turned and mirrored boxes are exact."""
    sides = [sorted(data.draw(st.sets(st.integers(0, side), min_size=2, max_size=2))) for side in shape]
    box = [low for low, _ in sides] + [high for _, high in sides]
    moved = move.apply(block(shape, box))
    assert moved.shape[1:] == move.shape_after(shape)
    aabb = torch.tensor([box], dtype=torch.float32)
    boxes, keep = transform_boxes(move, aabb, shape)
    assert boxes.tolist() == [bounds(moved)]
    assert keep.tolist() == [True]
    turned, _ = transform_boxes(move, aabb_to_obb(aabb), shape)
    torch.testing.assert_close(obb_to_aabb(turned), boxes)
    assert int(moved.sum()) == np.prod([high - low for low, high in sides])


@settings(deadline=None, max_examples=40)
@given(small, st.tuples(*[st.integers(8, 16)] * 3))
def test_resampled_voxels_come_from_where_boxes_do(move: GridTransform, shape: tuple[int, int, int]):
    """A grid that holds its own coordinates: trilinear interpolation is exact, so each voxel shows its origin."""
    axes = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) + 0.5 for side in shape), indexing="ij")
    moved = move.apply(torch.stack([*axes, torch.ones(shape, dtype=torch.float64)]))
    inside = moved[3] > 1 - 1e-9  # the zeros beyond the grid are not in it
    assert inside.any()
    origin = moved[:3, inside].T
    side = torch.full_like(origin, 0.1)
    boxes = torch.cat([origin, side, side[:, :1]], 1)
    result = move.apply_to_boxes(boxes, shape)
    torch.testing.assert_close(result[:, :3], inside.nonzero().double() + 0.5)
    torch.testing.assert_close(result[:, 3:6], side * move.scale)


@settings(deadline=None, max_examples=40)
@given(small, st.floats(-4, 4), st.integers(0, 2**30))
def test_boxes_move_as_their_corners_do(move: GridTransform, yaw: float, seed: int):
    """OBBs exactly, whether their sides are equal or not; AABBs enclose exactly."""
    random = torch.Generator().manual_seed(seed)
    shape = (20, 14, 9)
    obb = torch.rand(1, 7, generator=random, dtype=torch.float64) * 8 + 1
    obb[:, 6] = yaw
    points = box_corners(obb)[0]
    # Points are boxes without extent.
    moved = move.apply_to_boxes(torch.cat([points, torch.zeros(8, 4).double()], 1), shape)[:, :3]
    result = box_corners(move.apply_to_boxes(obb, shape))[0]
    assert torch.cdist(moved, result).amin(1).max() < 1e-9
    aabb = obb_to_aabb(obb)
    corners = box_corners(aabb)[0]
    moved = move.apply_to_boxes(torch.cat([corners, torch.zeros(8, 4).double()], 1), shape)[:, :3]
    torch.testing.assert_close(move.apply_to_boxes(aabb, shape)[0], torch.cat([moved.amin(0), moved.amax(0)]))


def test_by_hand():
    """In a grid of 10 x 6 x 4, a quarter turn takes x to y and y to the mirrored x."""
    obb = torch.tensor([[2.0, 1, 1, 3, 1, 2, 0.25]])
    quarter = GridTransform(1).apply_to_boxes(obb, (10, 6, 4))
    torch.testing.assert_close(quarter, torch.tensor([[5.0, 2, 1, 3, 1, 2, 0.25 - math.pi / 2]]))
    mirrored = GridTransform(flip_x=True).apply_to_boxes(obb, (10, 6, 4))
    torch.testing.assert_close(mirrored, torch.tensor([[8.0, 1, 1, 3, 1, 2, -0.25]]))
    # Twice as large about (5, 3, 2), then turned by a quarter.
    scaled = GridTransform(angle=math.pi / 2, scale=2).apply_to_boxes(obb, (10, 6, 4))
    torch.testing.assert_close(scaled, torch.tensor([[9.0, -3, 0, 6, 2, 4, 0.25 - math.pi / 2]]))
    aabb = GridTransform(angle=math.pi / 6).apply_to_boxes(torch.tensor([[4.0, 2, 1, 6, 4, 3]]), (10, 6, 4))
    half = math.cos(math.pi / 6) + 0.5
    torch.testing.assert_close(aabb, torch.tensor([[5 - half, 3 - half, 1, 5 + half, 3 + half, 3]]))


def test_a_turned_block_fills_its_obb():
    shape, move = (40, 30, 20), GridTransform(angle=0.15, scale=1.1)
    box = torch.tensor([[8.0, 10, 4, 24, 16, 14]])
    moved = move.apply(block(shape, box[0].int().tolist()))
    obb, _ = transform_boxes(move, aabb_to_obb(box), shape)
    places = moved[0].nonzero()
    voxels = torch.cat([places + 0.4999, places + 0.5001], 1)
    inside = box_iou(aabb_to_obb(voxels), obb)[:, 0] > 0
    value = moved[0][tuple(places.T)]
    # Values over a half are inside, but for voxels cut by a corner, and those under it outside.
    assert ((value > 0.5) == inside).float().mean() > 0.95
    assert moved.sum() == pytest.approx(float(obb[0, 3:6].prod()), rel=0.01)
    center = (places + 0.5).T @ value / value.sum()
    torch.testing.assert_close(center, obb[0, :3], atol=0.02, rtol=0)
    aabb, _ = transform_boxes(move, box, shape)
    found = torch.tensor(bounds((moved > 0.5).float())).float()
    assert (found[:3] >= aabb[0, :3] - 0.5).all()
    assert (found[3:] <= aabb[0, 3:] + 0.5).all()


def test_known_obbs_keep_aabbs_small():
    """A box along the diagonal, turned back to the axes: its AABB shrinks to it, where that of its AABB would grow."""
    shape, move = (60, 60, 10), GridTransform(angle=-math.pi / 4)
    obb = torch.tensor([[30.0, 30, 5, 20, 4, 6, math.pi / 4]])
    alone, _ = transform_boxes(move, obb_to_aabb(obb), shape)
    together, _ = transform_boxes(move, obb_to_aabb(obb), shape, obb)
    torch.testing.assert_close(together, torch.tensor([[20.0, 28, 2, 40, 32, 8]]))
    torch.testing.assert_close(alone, torch.tensor([[18.0, 18, 2, 42, 42, 8]]))
    # An OBB of something else changes nothing.
    strange, _ = transform_boxes(move, obb_to_aabb(obb), shape, obb + torch.tensor([500.0, 0, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(strange, alone)


def test_boxes_that_leave_the_grid_are_dropped():
    boxes = torch.tensor([[9.0, 9, 4, 11, 11, 6], [0, 9, 4, 2, 11, 6], [4, 4, 0, 16, 16, 10]])
    move = GridTransform(scale=1.25)
    result, keep = transform_boxes(move, boxes, (20, 20, 10))
    # The second one reaches from -2.5 to 0 along x.
    assert keep.tolist() == [True, False, True]
    torch.testing.assert_close(
        result, torch.tensor([[8.75, 8.75, 3.75, 11.25, 11.25, 6.25], [2.5, 2.5, 0, 17.5, 17.5, 10]])
    )
    _, keep = transform_boxes(move, aabb_to_obb(boxes), (20, 20, 10))
    assert keep.tolist() == [True, False, True]
    torch.testing.assert_close(
        visible_fraction(torch.tensor([[-1.0, 0, 0, 1, 2, 2], [-5, 0, 0, -2, 2, 2]]), (4, 4, 4)), torch.tensor([0.5, 0])
    )
    corner = torch.tensor([[0.0, 0, 2, 2, 2, 2, math.pi / 4], [0, 2, 0, 2, 2, 2, 0.0]])
    torch.testing.assert_close(visible_fraction(corner, (4, 4, 4)), torch.tensor([0.25, 0.25]))
    for columns in (6, 7):
        none, keep = transform_boxes(GridTransform(1, angle=0.1), torch.zeros(0, columns), (4, 5, 6))
        assert none.shape == (0, columns)
        assert keep.shape == (0,)
