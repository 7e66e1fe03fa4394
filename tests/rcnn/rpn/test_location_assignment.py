"""Which locations learn which boxes, counted by hand."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from rcnn.boxes import aabb_to_obb, box_volume, enclosing_aabb
from rcnn.rpn import LocationAssignmentConfig, assign_locations, level_locations, location_assignment
from rcnn.rpn.location_assignment import pad_boxes

LIKE = torch.zeros(())
ONE_LEVEL = LocationAssignmentConfig(size_limits=())


def assign(config: LocationAssignmentConfig, grid: tuple[int, int, int], strides: tuple[int, ...], boxes: Tensor):
    """For each level the rows `[X, Y, Z]`."""
    shapes = [[-(-side // stride) for side in grid] for stride in strides]
    locations = [level_locations(shape, stride, LIKE) for shape, stride in zip(shapes, strides, strict=True)]
    (rows,) = assign_locations(config, locations, strides, boxes[None])
    assert rows.dtype == torch.int32
    return [part.reshape(shape) for part, shape in zip(rows.split([len(l) for l in locations]), shapes, strict=True)]


def test_locations_are_the_centres_of_cells() -> None:
    finest = level_locations((5, 3, 2), 4, LIKE).reshape(5, 3, 2, 3)
    assert finest[0, 0, 0].tolist() == [2, 2, 2]
    assert finest[4, 2, 1].tolist() == [18, 10, 6]
    assert level_locations((1, 1, 1), 32, LIKE).tolist() == [[16, 16, 16]]


@pytest.mark.parametrize("rotated", [False, True])
def test_centre_sampling(rotated: bool) -> None:
    """Centre (10, 4, 4): within 6 of it, strictly, are x = 6, 10 and 14; y = 2 and 6; z = 2 and 6."""
    boxes = torch.tensor([[0.0, 0, 0, 20, 8, 8]])
    (rows,) = assign(ONE_LEVEL, (24, 12, 8), (4,), aabb_to_obb(boxes) if rotated else boxes)
    expected = torch.full((6, 3, 2), -1)
    expected[1:4, :2] = 0
    assert torch.equal(rows, expected.int())
    (rows,) = assign(LocationAssignmentConfig((), center_radius=0), (24, 12, 8), (4,), boxes)
    expected[0:5, :2] = 0
    assert torch.equal(rows, expected.int())


def test_levels_by_the_distance_to_the_farthest_face() -> None:
    """A box of 32 voxels: all locations are farther than 16 from one end and belong to the second level."""
    config = LocationAssignmentConfig(size_limits=(16,))
    boxes = torch.tensor([[0.0, 0, 0, 32, 8, 8]])
    fine, coarse = assign(config, (32, 8, 8), (4, 8), boxes)
    assert (fine == -1).all()
    assert coarse.flatten().tolist() == [-1, 0, 0, -1]
    # 28 voxels: x = 14 is 14 away from both ends, and of its neighbours, 10 and 18, one end is 18 away. Of the coarse
    # locations 4, 12 and 20, within 12 of the centre, an end is 24, 16 and 20 away.
    boxes = torch.tensor([[0.0, 0, 0, 28, 8, 8]])
    fine, coarse = assign(config, (32, 8, 8), (4, 8), boxes)
    assert fine[:, 0, 0].tolist() == [-1, -1, -1, 0, -1, -1, -1, -1]
    assert coarse.flatten().tolist() == [0, 0, 0, -1]


def test_the_smallest_of_several_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 16, 8, 8], [4, 0, 0, 12, 8, 8], [0, 0, 0, 16, 8, 8.5]])
    (rows,) = assign(LocationAssignmentConfig((), center_radius=0), (16, 8, 8), (4,), boxes)
    assert rows[:, 0, 0].tolist() == [0, 1, 1, 0]


def test_long_thin_boxes_between_the_locations_of_their_level() -> None:
    """80 voxels long and 8 thick: of the second level, whose locations at y = 16 lie outside."""
    boxes = torch.tensor([[0.0, 0, 0, 80, 8, 8]])
    strides = (4, 32)
    config = LocationAssignmentConfig(size_limits=(16,), match_every_box=False)
    assert all((rows == -1).all() for rows in assign(config, (96, 32, 32), strides, boxes))
    fine, coarse = assign(LocationAssignmentConfig(size_limits=(16,)), (96, 32, 32), strides, boxes)
    assert (coarse == -1).all()
    expected = torch.full((24, 8, 8), -1)
    # Within 6 of x = 40.
    expected[9:11, :2, :2] = 0
    assert fine[8:12, 0, 0].tolist() == [-1, 0, 0, -1]
    assert torch.equal(fine, expected.int())
    # A box that has its locations does not get more.
    both = torch.cat([boxes, torch.tensor([[40.0, 10, 10, 56, 26, 26]])])
    fine, _ = assign(LocationAssignmentConfig(size_limits=(16,)), (96, 32, 32), strides, both)
    alone = assign(config, (96, 32, 32), strides, both[1:])[0]
    assert torch.equal(fine == 1, alone == 0)


def test_padding_learns_nothing() -> None:
    locations = [level_locations((4, 1, 1), 4, LIKE)]
    boxes = torch.tensor([[0.0, 0, 0, 16, 4, 4]])
    config = LocationAssignmentConfig((), center_radius=0)
    valid = torch.tensor([True, True, False, False])
    assert assign_locations(config, locations, (4,), boxes[None], valid[None]).tolist() == [[0, 0, -1, -1]]


def test_scenes_without_objects() -> None:
    for columns in (6, 7):
        (rows,) = assign(ONE_LEVEL, (8, 8, 8), (4,), torch.zeros(0, columns))
        assert (rows == -1).all()


def test_boxes_without_volume_are_learnt_nowhere() -> None:
    (rows,) = assign(ONE_LEVEL, (8, 8, 8), (4,), torch.tensor([[2.0, 2, 2, 2, 2, 2], [50, 50, 50, 60, 60, 60]]))
    assert (rows == -1).all()


def test_limits_of_other_levels() -> None:
    with pytest.raises(ValueError, match="3 size limits"):
        assign(LocationAssignmentConfig(), (8, 8, 8), (4, 8), torch.zeros(0, 6))


def one_by_one(
    config: LocationAssignmentConfig,
    locations: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """The rows of one grid, level by level."""
    aabbs = enclosing_aabb(boxes)
    low, high = aabbs[:, :3], aabbs[:, 3:]
    center, volume = 0.5 * (low + high), box_volume(aabbs)
    smallest, largest = (-1.0, *config.size_limits), (*config.size_limits, float("inf"))
    counts = [len(points) for points in locations]
    if len(boxes) == 0:
        return torch.full((sum(counts),), -1, dtype=torch.int32, device=boxes.device)
    near, learns = [], []
    masks = [True] * len(counts) if valid is None else valid[:, None].split(counts)
    for level, (points, stride) in enumerate(zip(locations, strides, strict=True)):
        points = points[:, None].to(aabbs.dtype)
        farthest = torch.maximum(points - low, high - points).amax(-1)
        reach = config.center_radius * stride if config.center_radius > 0 else float("inf")
        inner = (points > torch.maximum(low, center - reach)) & (points < torch.minimum(high, center + reach))
        near.append(inner.all(-1) & masks[level])
        learns.append(near[level] & (farthest >= smallest[level]) & (farthest <= largest[level]))
    if config.match_every_box:
        missed = ~torch.stack([of_level.any(0) for of_level in learns]).any(0)
        for level in reversed(range(len(strides))):
            learns[level] |= near[level] & missed
            missed &= ~near[level].any(0)
    every = torch.cat(learns)
    row = torch.where(every, volume, float("inf")).argmin(1)
    return torch.where(every.any(1), row, -1).int()


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("match_every_box", [False, True])
def test_grids_together_learn_what_each_does_alone(
    rotated: bool, match_every_box: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes, strides = ((20, 18, 11), (10, 9, 6), (5, 5, 3), (3, 3, 2)), (4, 8, 16, 32)
    locations = [level_locations(shape, stride, LIKE) for shape, stride in zip(shapes, strides, strict=True)]
    batch, valid = [], torch.rand(4, sum(map(len, locations)), generator=generator) < 0.9
    for count in (12, 0, 1, 30):
        size = torch.rand(count, 3, generator=generator) ** 2 * torch.tensor([80, 60, 40]) + 0.5
        low = torch.rand(count, 3, generator=generator) * torch.tensor([70, 60, 30])
        aabbs = torch.cat([low, low + size], 1)
        # On the centres of cells, where strict and other limits differ.
        aabbs[::3] = aabbs[::3].round()
        boxes = aabb_to_obb(aabbs)
        boxes[:, 6] = torch.rand(count, generator=generator)
        batch.append(boxes if rotated else aabbs)
    config = LocationAssignmentConfig(match_every_box=match_every_box)
    expected = [one_by_one(config, locations, strides, b, v) for b, v in zip(batch, valid, strict=True)]
    for pairs in (2**25, 2**18, 1):
        monkeypatch.setattr(location_assignment, "_PAIRS", pairs)
        assert torch.equal(assign_locations(config, locations, strides, pad_boxes(batch), valid), torch.stack(expected))
    assert sum((rows >= 0).sum() for rows in expected) > 100
    assert torch.equal(
        assign_locations(config, locations, strides, pad_boxes(batch[:1])),
        one_by_one(config, locations, strides, batch[0])[None],
    )
