"""The three matchers on boxes in a room: the same rules for all, and what each does differently."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from boxes_in_a_room import BOXES, SHAPE, SIZE, ragged, shuffled, solid, views
from scipy import sparse

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.lift import (
    AssignmentConfig,
    ConsensusMatchConfig,
    InstanceGrid,
    Matching,
    SeedConfig,
    ViewProjection,
    match_consensus,
    match_hungarian,
    match_seed,
    settle,
)
from instance_nerfstudio.lift.association_scores import association_scores
from instance_nerfstudio.segments.view_segments import ViewSegments

MATCHERS = [match_seed, match_hungarian, match_consensus]
NAMES = ("sofa", "table", "cabinet", "bed", "vase")
Matcher = Callable[..., Matching]


def detections(numbers: Sequence[int]) -> InstanceGrid:
    """The boxes with these numbers, in this order, as a detector's instances."""
    truth, ids = solid(), np.zeros(SHAPE, np.int32)
    for row, number in enumerate(numbers):
        ids[truth == number] = row + 1
    categories = tuple(NAMES[number - 1] for number in numbers)
    return InstanceGrid(ids, np.zeros(3), np.ones(3), categories, np.linspace(0.95, 0.6, len(numbers)))


def project(voxels: Sequence[np.ndarray], grid: InstanceGrid) -> list[ViewProjection]:
    """Exact projections."""
    result = []
    for seen in voxels:
        owner = np.where(seen >= 0, grid.ids.ravel()[np.maximum(seen, 0)], 0).ravel()
        pixels = np.flatnonzero(owner)
        weights = sparse.csr_matrix(
            (np.ones(len(pixels), np.float32), (owner[pixels] - 1, pixels)), shape=(grid.count, owner.size)
        )
        result.append(
            ViewProjection(
                (SIZE, SIZE) if len(seen) == SIZE else (1, seen.size),
                weights,
                np.full(grid.count, 0.5, np.float32),
                seen,
            )
        )
    return result


def segmented(maps: Sequence[np.ndarray], names: Sequence[tuple[str, ...]] | None = None) -> list[ViewSegments]:
    counts = [int(ids.max(initial=0)) for ids in maps]
    classes = names or [("",) * count for count in counts]
    return [
        ViewSegments(ids.astype(np.int32), tuple(of_view), np.full(count, 0.8, np.float32))
        for ids, of_view, count in zip(maps, classes, counts, strict=True)
    ]


@pytest.mark.parametrize("matcher", MATCHERS)
def test_clean_segments_take_the_detectors_ids(matcher: Matcher) -> None:
    owners, voxels = views()
    order = [3, 1, 5, 2, 4]
    grid = detections(order)
    segments = segmented(shuffled(owners, np.random.default_rng(0)))
    found = matcher(segments, project(voxels, grid), grid)
    names = np.array([0, *(order.index(number) + 1 for number in range(1, 6))])
    for ids, owner in zip(found.maps, owners, strict=True):
        assert (ids.dtype, ids.shape) == (np.int32, owner.shape)
        assert (ids == names[owner]).mean() > 0.995
    assert [one.id for one in found.instances] == [1, 2, 3, 4, 5]
    assert [one.category for one in found.instances] == [NAMES[number - 1] for number in order]
    assert [one.score for one in found.instances] == pytest.approx(grid.scores)
    assert all(one.detected and one.views >= 10 for one in found.instances)


@pytest.mark.parametrize("matcher", MATCHERS)
def test_segments_and_projections_of_different_sizes(matcher: Matcher) -> None:
    """Maps have the segments' size; unlabelled pixels stay unlabelled."""
    owners, voxels = views()
    grid = detections(range(1, 6))
    fine = [np.kron(owner, np.ones((2, 2), np.int32)) for owner in owners]
    for ids in fine:
        ids[:5] = -1
    found = matcher(segmented(fine), project(voxels, grid), grid)
    for ids, truth in zip(found.maps, fine, strict=True):
        assert ids.shape == (2 * SIZE, 2 * SIZE)
        assert (ids[:5] == -1).all()
        assert (ids[5:] == truth[5:]).mean() > 0.99


@pytest.mark.parametrize("matcher", MATCHERS)
def test_nothing_there(matcher: Matcher) -> None:
    owners, voxels = views(3)
    grid = detections([1, 2])
    empty = matcher(segmented([np.zeros_like(owner) for owner in owners]), project(voxels, grid), grid)
    assert empty.instances == ()
    assert not any((ids > 0).any() for ids in empty.maps)
    silent = matcher(segmented([np.full_like(owner, -1) for owner in owners]), project(voxels, grid), grid)
    assert all((ids == -1).all() for ids in silent.maps)
    none = InstanceGrid.empty(np.zeros(3), np.ones(3), SHAPE)
    assert matcher([], [], none) == Matching([], ()) or matcher([], [], none).maps == []
    bare = matcher(segmented(owners), project(voxels, none), none)
    assert [ids.shape for ids in bare.maps] == [owner.shape for owner in owners]


@pytest.mark.parametrize("matcher", MATCHERS)
def test_views_that_do_not_fit_together(matcher: Matcher) -> None:
    owners, voxels = views(3)
    grid = detections([1, 2])
    with pytest.raises(ValueError, match="same"):
        matcher(segmented(owners[:2]), project(voxels, grid), grid)
    with pytest.raises(ValueError, match="other instances"):
        matcher(segmented(owners), project(voxels, detections([1])), grid)
    with pytest.raises(InputError, match="shape"):
        matcher(segmented([owner[:12] for owner in owners]), project(voxels, grid), grid)


def test_seeds_rule_by_hand() -> None:
    """IoU decides, several segments may take one instance, and what overlaps little abstains."""
    owner = np.array([[1] * 10 + [2] * 6 + [0] * 4])
    grid = InstanceGrid(np.arange(3, dtype=np.int32).reshape(3, 1, 1), np.zeros(3), np.ones(3), ("a", "b"), np.ones(2))
    view = project([owner], grid)[0]
    ids = np.array([[1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 0, 5, 5, 5]])
    found = match_seed(segmented([ids]), [view], grid)
    # 3 has 3 of 14 pixels with the first and 4 of 9 with the second; 4 has 2 of 6 with the second.
    assert found.maps[0].tolist() == [[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, -1, -1, -1]]
    strict = match_seed(segmented([ids]), [view], grid, SeedConfig(iou=0.35))
    assert strict.maps[0].tolist() == [[-1] * 3 + [1] * 4 + [2] * 7 + [-1] * 2 + [0] + [-1] * 3]


def test_hungarian_pairs_merges_parts_and_drops_joined_segments() -> None:
    owners, voxels = views()
    grid = detections(range(1, 6))
    owner = owners[0].copy()
    owner[(owner == 1) & (np.arange(SIZE)[:, None] < 5)] = 6
    owner[owner == 2] = 4
    owner[owner == 3] = 0
    found = match_hungarian(segmented([owner]), project(voxels[:1], grid), grid)
    assert (found.maps[0][owners[0] == 1] == 1).all()
    assert (found.maps[0][(owners[0] == 2) | (owners[0] == 4)] == -1).all()
    # The segmenter missed 3, which is known to be there.
    assert (found.maps[0][owners[0] == 3] == -1).all()
    assert (found.maps[0][owners[0] == 5] == 5).all()
    assert (found.maps[0][owners[0] == 0] == 0).all()


def test_hungarian_gives_an_instance_to_one_of_two_rivals() -> None:
    """Two segments each overlap an instance by less than a part does; the better one gets it."""
    weights = sparse.csr_matrix(np.array([[1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]], np.float32))
    view = ViewProjection((1, 12), weights, np.ones(1, np.float32), np.full((1, 12), -1))
    grid = InstanceGrid(np.ones((1, 1, 1), np.int32), np.zeros(3), np.ones(3), ("sofa",), np.ones(1))
    ids = np.array([[2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2]])
    assert match_hungarian(segmented([ids]), [view], grid).maps[0].tolist() == [[-1] * 2 + [1] * 8 + [-1] * 2]
    # Of another class it has less to say.
    names = [("lamp", "sofa")]
    found = match_hungarian(segmented([ids], names), [view], grid, AssignmentConfig(other_class=0.5))
    assert found.maps[0].tolist() == [[1] * 2 + [-1] * 8 + [1] * 2]


def test_consensus_finds_what_the_detector_missed() -> None:
    owners, voxels = views()
    grid = detections([3, 1])
    names = [("sofa", "table", "cabinet", "bed", "vase")] * len(owners)
    segments = segmented([np.where(owner > 0, owner, 0) for owner in owners])
    named = [ViewSegments(s.ids, n[: len(s.categories)], s.scores) for s, n in zip(segments, names, strict=True)]
    found = match_consensus(named, project(voxels, grid), grid)
    assert [one.detected for one in found.instances] == [True, True, False, False, False]
    assert [one.id for one in found.instances] == [1, 2, 3, 4, 5]
    assert {one.category for one in found.instances} == set(NAMES)
    assert [one.category for one in found.instances[:2]] == ["cabinet", "sofa"]
    assert found.instances[2].score == pytest.approx(0.8)
    assert association_scores(found.maps, owners).pq_scene > 0.99
    # The two other matchers leave them without an id.
    for matcher in (match_seed, match_hungarian):
        assert len(matcher(named, project(voxels, grid), grid).instances) == 2


@pytest.mark.parametrize("detected", [(), (1, 2, 3, 4, 5), (2, 5)])
def test_consensus_of_spoilt_segments(detected: tuple[int, ...]) -> None:
    """Missing, joined, cut and ragged segments, with and without a detector: better than the seed's rule."""
    owners, voxels = views(24)
    rng = np.random.default_rng(5)
    spoilt = []
    for owner in ragged(owners, rng):
        segments = owner.copy()
        segments[np.isin(owner, np.flatnonzero(rng.random(6) < 0.2))] = 0
        if rng.random() < 0.15:
            segments[segments == 5] = 3
        if rng.random() < 0.2:
            segments[(segments == 1) & (np.arange(SIZE)[:, None] < rng.integers(3, 8))] = 7
        spoilt.append(segments)
    grid = detections(detected)
    projections = project(voxels, grid)
    segments = segmented(shuffled(spoilt, rng))
    found = match_consensus(segments, projections, grid)
    scores = association_scores(settle(found, projections).maps, owners)
    assert (scores.objects, scores.found, scores.over_merged, scores.over_split) == (5, 5, 0, 0)
    assert scores.pq_scene > 0.75
    assert scores.id_switches <= 3
    seed = association_scores(match_seed(segments, projections, grid).maps, owners)
    assert not scores.pq_scene <= seed.pq_scene + 0.1


def test_fragments_and_objects_of_few_views_are_none() -> None:
    owners, voxels = views()
    none = InstanceGrid.empty(np.zeros(3), np.ones(3), SHAPE)
    rare = [np.where(owner == 4, 4 if view in (1, 3) else -1, owner) for view, owner in enumerate(owners)]
    found = match_consensus(segmented(rare), project(voxels, none), none)
    assert len(found.instances) == len(BOXES) - 1
    assert (found.maps[3][owners[3] == 4] == -1).all()
    two = match_consensus(segmented(rare), project(voxels, none), none, ConsensusMatchConfig(min_views=2))
    assert len(two.instances) == len(BOXES)


def test_settled_maps_fill_what_views_missed() -> None:
    owners, voxels = views()
    none = InstanceGrid.empty(np.zeros(3), np.ones(3), SHAPE)
    missed = [np.where((owner == 2) & (view % 3 == 0), 0, owner) for view, owner in enumerate(owners)]
    projections = project(voxels, none)
    found = match_consensus(segmented(missed), projections, none)
    view = next(view for view in (0, 3, 6, 9) if (owners[view] == 2).any())
    numbers = np.concatenate([ids[owner == 2] for ids, owner in zip(found.maps, owners, strict=True)])
    number = int(np.bincount(numbers[numbers > 0]).argmax())
    assert (found.maps[view][owners[view] == 2] == -1).mean() > 0.7
    settled = settle(found, projections)
    assert (settled.maps[view][owners[view] == 2] == number).mean() > 0.7
    assert settled.instances == found.instances
    fine = Matching([np.kron(ids, np.ones((2, 2), np.int32)) for ids in found.maps], found.instances)
    for ids, coarse in zip(settle(fine, projections).maps, settled.maps, strict=True):
        assert np.array_equal(ids, np.kron(coarse, np.ones((2, 2), np.int32)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: SeedConfig(iou=2), r"\[0, 1\]"),
        (lambda: AssignmentConfig(least=-0.1), r"\[0, 1\]"),
        (lambda: ConsensusMatchConfig(min_views=0), "at least 1"),
        (lambda: ConsensusMatchConfig(min_share=1.2), r"\[0, 1\]"),
    ],
)
def test_unusable_options(config: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config()
