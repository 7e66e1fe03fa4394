"""Objects out of the segments of views that number, miss, split and join them differently."""

import numpy as np
import pytest

from instance_nerfstudio.lift import ConsensusConfig, find_consensus, vote

SIZE = 24
# Low and high corner of every object; the last is a part of the floor that no view segments.
BOXES = [((2, 2, 1), (9, 8, 9)), ((13, 3, 1), (20, 9, 7)), ((4, 14, 1), (10, 20, 12)), ((14, 14, 1), (21, 21, 5))]
Views = tuple[list[np.ndarray], list[np.ndarray]]


def solid() -> np.ndarray:
    """Ids of voxels: 0 air, 1.. objects, 9 the floor."""
    ids = np.zeros((SIZE, SIZE, SIZE), np.int32)
    ids[:, :, 0] = 9
    for number, (low, high) in enumerate(BOXES, 1):
        ids[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = number
    return ids


def look(ids: np.ndarray, slope: tuple[float, float]) -> Views:
    """From above, aslant: the object of each pixel (0 for the floor), and the voxel it sees."""
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    owner, voxel = np.zeros((SIZE, SIZE), np.int32), np.full((SIZE, SIZE), -1, np.int64)
    for z in range(SIZE - 1, -1, -1):
        a, b = (np.floor(p + s * (SIZE - z)).astype(int) for p, s in ((x, slope[0]), (y, slope[1])))
        inside = (a >= 0) & (a < SIZE) & (b >= 0) & (b < SIZE) & (voxel < 0)
        a, b = a.clip(0, SIZE - 1), b.clip(0, SIZE - 1)
        hit = inside & (ids[a, b, z] > 0)
        voxel[hit] = ((a * SIZE + b) * SIZE + z)[hit]
        owner[hit] = np.where(ids[a, b, z] == 9, 0, ids[a, b, z])[hit]
    return [owner], [voxel]


def views(count: int = 12) -> Views:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    pairs = [look(solid(), (0.5 * np.cos(a), 0.5 * np.sin(a))) for a in angles]
    return [owner for (owner,), _ in pairs], [voxel for _, (voxel,) in pairs]


def shuffled(owners: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Numbers of segments that mean nothing beyond their view."""
    result = []
    for owner in owners:
        names = np.concatenate([[0], 1 + rng.permutation(20)]).astype(np.int32)
        result.append(names[owner])
    return result


def check(found: list[np.ndarray], owners: list[np.ndarray], least: float) -> None:
    """Every object has one id of its own over all views, at no less than this share of its pixels."""
    every, truth = np.concatenate(found, axis=None), np.concatenate(owners, axis=None)
    ids = []
    for number in range(1, len(BOXES) + 1):
        here = every[truth == number]
        values, counts = np.unique(here[here > 0], return_counts=True)
        assert len(values) >= 1
        ids.append(int(values[counts.argmax()]))
        assert counts.max() >= least * (truth == number).sum(), number
        assert counts.max() == counts.sum(), "another object's id"
    assert len(set(ids)) == len(BOXES)
    assert not (every[truth == 0] > 0).any()


def test_shuffled_numbers() -> None:
    owners, voxels = views()
    segments = shuffled(owners, np.random.default_rng(0))
    found = find_consensus(segments, voxels)
    assert found.count == len(BOXES)
    assert (found.views >= 10).all()
    maps = [found.instance_map(view, ids) for view, ids in enumerate(segments)]
    check(maps, owners, 1.0)
    assert all(ids.dtype == np.int32 for ids in maps)
    # Numbers go by size.
    sizes = [
        len(np.unique(np.concatenate([v[m == k] for m, v in zip(maps, voxels, strict=True)]))) for k in range(1, 5)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_missing_segments_leave_the_others_together() -> None:
    owners, voxels = views()
    rng = np.random.default_rng(1)
    kept = []
    for owner in owners:
        drop = [number for number in range(1, 5) if rng.random() < 0.3]
        kept.append(np.where(np.isin(owner, drop), 0, owner))
    segments = shuffled(kept, rng)
    found = find_consensus(segments, voxels)
    assert found.count == len(BOXES)
    check([found.instance_map(view, ids) for view, ids in enumerate(segments)], kept, 1.0)


def test_segments_of_several_objects_and_of_parts() -> None:
    """Two objects in one segment abstain; the parts of one object are one."""
    owners, voxels = views()
    cut, joined = [], []
    for view, owner in enumerate(owners):
        segments = owner.copy()
        if view in (2, 7):
            segments[segments == 2] = 1
            joined.append(view)
        if view in (4, 9, 10):
            x = np.arange(SIZE)[:, None] + 0 * segments
            segments[(segments == 3) & (x > x[segments == 3].mean())] = 6
        cut.append(segments)
    segments = shuffled(cut, np.random.default_rng(2))
    found = find_consensus(segments, voxels)
    assert found.count == len(BOXES)
    maps = [found.instance_map(view, ids) for view, ids in enumerate(segments)]
    for view in joined:
        assert (maps[view][(owners[view] == 1) | (owners[view] == 2)] == -1).all()
    check(maps, owners, 0.75)


def test_ragged_borders() -> None:
    """What leaks over a border is background to most views, and the votes of all views mend most of it."""
    owners, voxels = views()
    rng = np.random.default_rng(3)
    ragged = []
    for owner in owners:
        moved = rng.integers(-1, 2, (2, SIZE, SIZE))
        rows, columns = (np.indices((SIZE, SIZE)) + moved).clip(0, SIZE - 1)
        ragged.append(owner[rows, columns])
    segments = shuffled(ragged, rng)
    found = find_consensus(segments, voxels)
    assert found.count == len(BOXES)
    maps = [found.instance_map(view, ids) for view, ids in enumerate(segments)]
    voted = vote(maps, voxels)
    every, truth = np.concatenate(maps, axis=None), np.concatenate(owners, axis=None)
    right = np.array([np.bincount(every[(truth == k) & (every >= 0)]).argmax() for k in range(len(BOXES) + 1)])
    assert sorted(right) == [0, 1, 2, 3, 4]
    seen = np.concatenate(voxels, axis=None) >= 0
    wrong = [(np.concatenate(which, axis=None) != right[truth])[seen].mean() for which in (maps, voted)]
    assert wrong[1] < 0.8 * wrong[0]


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


def test_few_views_are_no_object() -> None:
    owners, voxels = views()
    segments = [np.where(owner == 4, 4 if view in (1, 3) else 0, owner) for view, owner in enumerate(owners)]
    found = find_consensus(segments, voxels)
    assert found.count == 3
    assert (found.instance_map(3, segments[3])[owners[3] == 4] == -1).all()
    assert find_consensus(segments, voxels, ConsensusConfig(min_views=2)).count == 4


def test_nothing_to_agree_on() -> None:
    owners, voxels = views(3)
    empty = [np.zeros_like(owner) for owner in owners]
    found = find_consensus(empty, voxels)
    assert (found.count, found.views.tolist()) == (0, [])
    assert not found.instance_map(0, empty[0]).any()
    unlabelled = [np.full_like(owner, -1) for owner in owners]
    assert (find_consensus(unlabelled, voxels).instance_map(1, unlabelled[1]) == -1).all()
    assert find_consensus(owners, [np.full_like(voxel, -1) for voxel in voxels]).count == 0
    assert find_consensus([], []).count == 0


def test_unusable_input() -> None:
    owners, voxels = views(3)
    with pytest.raises(ValueError, match="same shape"):
        find_consensus(owners, [voxel[:-1] for voxel in voxels])
    with pytest.raises(ValueError, match="same shape"):
        find_consensus(owners, voxels[:-1])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        ConsensusConfig(consensus=1.5)
    with pytest.raises(ValueError, match="at least 1"):
        ConsensusConfig(min_views=0)
