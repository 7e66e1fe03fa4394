"""Objects out of segments of views that number, miss, cut and join them differently."""

import numpy as np
import pytest
from boxes_in_a_room import BOXES, SHAPE, ragged, shuffled, solid, views

from instance_nerfstudio.lift.view_consensus import ConsensusConfig, find_objects
from instance_nerfstudio.lift.voxel_regions import find_regions, label_voxels
from instance_nerfstudio.lift.voxel_votes import vote, vote_voxels


def check(objects: np.ndarray, voxels: list[np.ndarray], least: float, extra: int = 0) -> None:
    """Every box has one id of its own at no less than this share of its seen voxels, and no other box's id."""
    seen = np.unique(np.concatenate(voxels, axis=None))
    found, truth = objects.ravel()[seen[seen >= 0]], solid().ravel()[seen[seen >= 0]]
    ids = []
    for number in range(1, len(BOXES) + 1):
        values, counts = np.unique(found[(truth == number) & (found > 0)], return_counts=True)
        ids.append(int(values[counts.argmax()]))
        assert counts.max() >= least * (truth == number).sum(), number
    assert len(set(ids)) == len(BOXES)
    assert objects.max() <= len(BOXES) + extra


def test_shuffled_numbers() -> None:
    owners, voxels = views()
    objects = find_objects(shuffled(owners, np.random.default_rng(0)), voxels, SHAPE)
    assert (objects.dtype, objects.shape) == (np.int32, SHAPE)
    check(objects, voxels, 0.95)
    # Nothing but seen voxels of boxes, numbered by size.
    assert (solid()[objects > 0] <= len(BOXES)).all()
    sizes = np.bincount(objects.ravel())[1:]
    assert (np.diff(sizes) <= 0).all()


def test_a_quarter_of_the_segments_missing() -> None:
    owners, voxels = views(24)
    rng = np.random.default_rng(1)
    kept = [np.where(np.isin(owner, np.flatnonzero(rng.random(6) < 0.25)), 0, owner) for owner in owners]
    check(find_objects(shuffled(kept, rng), voxels, SHAPE), voxels, 0.75)


def test_joined_and_cut_segments() -> None:
    """A box and what stands on it are one segment in a fifth of the views, and boxes are cut anywhere in a fifth."""
    owners, voxels = views(24)
    rng = np.random.default_rng(2)
    spoilt = []
    for owner in owners:
        segments = owner.copy()
        if rng.random() < 0.2:
            segments[segments == 5] = 3
        for number in (1, 2, 4):
            if rng.random() < 0.2 and (owner == number).any():
                place = np.argwhere(owner == number)
                side = (place - place.mean(0)) @ rng.standard_normal(2) > 0
                segments[tuple(place[side].T)] = 10 + number
        spoilt.append(segments)
    check(find_objects(shuffled(spoilt, rng), voxels, SHAPE), voxels, 0.8, extra=2)


def test_ragged_borders() -> None:
    owners, voxels = views(24)
    rng = np.random.default_rng(3)
    check(find_objects(shuffled(ragged(owners, rng), rng), voxels, SHAPE), voxels, 0.5, extra=8)


def test_segments_of_one_view_are_noise_to_the_others() -> None:
    owners, voxels = views()
    alone = [np.where(owner == 4, 4 if view == 0 else 0, owner) for view, owner in enumerate(owners)]
    assert (find_objects(alone, voxels, SHAPE)[solid() == 4] == 0).mean() > 0.95
    # With doubt, a single view cannot join anything; without, nothing contradicts it.
    for doubt, groups in ((0.0, {1}), (3.0, set(range(2, 99)))):
        objects = find_objects(alone, voxels, SHAPE, ConsensusConfig(foreground=0.0, doubt=doubt, min_voxels=1))
        here = objects[(solid() == 4) & (objects > 0)]
        assert len(np.unique(here)) in groups, doubt


def test_a_detector_has_a_say_like_one_view_and_joins_nothing_alone() -> None:
    row, shape = np.arange(8)[None], (8, 1, 1)
    one, two = np.ones((1, 8), np.int32), np.where(row < 4, 1, 2).astype(np.int32)

    def count(segments: list[np.ndarray], voxels: list[np.ndarray], detected: np.ndarray | None) -> int:
        found = None if detected is None else detected.reshape(shape)
        return int(find_objects(segments, voxels, shape, detected=found).max())

    # One view has both halves in a segment and one has them apart: the detector decides.
    undecided = ([one, two], [row, row])
    assert [count(*undecided, detected) for detected in (None, one, two, np.zeros_like(one))] == [2, 1, 2, 2]
    # Three views against one outvote it.
    assert count([one, two, two, two], [row] * 4, one) == 2
    assert count([one, one, one, two], [row] * 4, two) == 1
    # No view has ever seen both halves: nothing says that the detector is right.
    left, right = np.where(row < 4, row, -1), np.where(row < 4, -1, row)
    assert count([one] * 6, [left, right] * 3, one) == 2


def test_nothing_to_agree_on() -> None:
    owners, voxels = views(3)
    assert not find_objects([np.zeros_like(owner) for owner in owners], voxels, SHAPE).any()
    assert not find_objects([np.full_like(owner, -1) for owner in owners], voxels, SHAPE).any()
    assert not find_objects(owners, [np.full_like(voxel, -1) for voxel in voxels], SHAPE).any()
    assert not find_objects([], [], SHAPE).any()


def test_voxels_take_the_segment_of_most_of_their_pixels() -> None:
    segments = [np.array([[1, 1, 2, 2, 0, -1]]), np.array([[1, 0, 0, -1, 3, 3]])]
    voxels = [np.array([[5, 5, 5, 7, 7, 9]]), np.array([[5, 7, 9, 9, 9, -1]])]
    labels = label_voxels(segments, voxels, foreground=0.4)
    assert labels.views.tolist() == [0, 0, 1, 1, 1]
    # 5: segment 1 of view 0 and 1 of view 1. 7: of 2 and 0 in view 0, the smaller number wins a draw: background.
    # 9: unlabelled in view 0; in view 1 background and segment 3 draw, too.
    assert labels.voxels.tolist() == [5]
    assert labels.members.toarray().tolist() == [[1, 0, 1, 0, 0]]


def test_regions_end_at_borders_and_blocks() -> None:
    row = np.arange(8)
    segments = [np.where(row < 3, 1, 2)[None] for _ in range(4)]
    labels = label_voxels(segments, [row[None]] * 4, 0.5)
    regions = find_regions(labels, (8, 1, 1), block=4, together=0.9, min_views=2)
    assert regions.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert len(set(find_regions(labels, (8, 1, 1), 4, 0.9, min_views=5).tolist())) == 8
    assert find_regions(labels, (8, 1, 1), 8, 0.9, 2).tolist() == [0] * 3 + [1] * 5


def test_votes_by_hand() -> None:
    first, second = np.array([[1, 0, -1, 2]], np.int32), np.array([[1, 1, 1, -1]], np.int32)
    voxels = [np.array([[5, 6, 7, -1]]), np.array([[5, 6, 7, 9]])]
    one, two = vote([first, second], voxels)
    # Voxel 6 has one vote each way; nobody votes about 9; a pixel that sees nothing stays as it is.
    assert one.tolist() == [[1, -1, 1, 2]]
    assert two.tolist() == [[1, -1, 1, -1]]
    assert (one.dtype, one.shape) == (np.int32, first.shape)
    assert vote([first], [np.full((1, 4), -1)])[0].tolist() == first.tolist()
    assert vote([np.full_like(first, -1)], [voxels[0]])[0].tolist() == [[-1, -1, -1, -1]]
    grid = vote_voxels([first, second], voxels, (2, 1, 5))
    assert (grid.shape, grid.ravel().tolist()) == ((2, 1, 5), [0, 0, 0, 0, 0, 1, 0, 1, 0, 0])
    assert not vote_voxels([], [], (2, 1, 5)).any()


def test_unusable_input() -> None:
    owners, voxels = views(3)
    with pytest.raises(ValueError, match="same shape"):
        find_objects(owners, [voxel[:-1] for voxel in voxels], SHAPE)
    with pytest.raises(ValueError, match="same shape"):
        find_objects(owners, voxels[:-1], SHAPE)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        ConsensusConfig(consensus=1.5)
    with pytest.raises(ValueError, match="at least 1"):
        ConsensusConfig(block=0)
