"""A matcher that finds objects by what the views agree on, with a detector's instances as one more view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Int32
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from instance_nerfstudio.lift.assign_segments import (
    Assignment,
    AssignmentConfig,
    abstain_where_missed,
    assign_segments,
)
from instance_nerfstudio.lift.instance_grid import InstanceGrid
from instance_nerfstudio.lift.matching import Matching, at_size_of, check_views, describe, name_segments
from instance_nerfstudio.lift.view_consensus import ConsensusConfig, find_objects
from instance_nerfstudio.lift.view_projection import ViewProjection
from instance_nerfstudio.lift.voxel_votes import vote_voxels
from instance_nerfstudio.masks.instance_masks import resize_labels
from instance_nerfstudio.segments.view_segments import ViewSegments


@dataclass(frozen=True)
class ConsensusMatchConfig:
    """When an object is one, and whose segments are which."""

    objects: ConsensusConfig = field(default_factory=ConsensusConfig)
    """When surfaces are one object."""
    assignment: AssignmentConfig = field(default_factory=AssignmentConfig)
    """When a segment is of an object."""
    min_views: int = 3
    """An object has a segment of its own in so many views, at least."""
    min_share: float = 0.25
    """And in this share of the views in which segments cover a part of it: fragments have one now and then."""
    rounds: int = 3
    """Rounds of assigning segments to objects and voxels to what their segments are."""
    same_object: float = 0.25
    """An object is the detector's instance if their voxels have at least this IoU."""

    def __post_init__(self) -> None:
        if min(self.min_views, self.rounds) < 1:
            raise ValueError("min_views and rounds must be at least 1")
        if not (0 <= self.min_share <= 1 and 0 <= self.same_object <= 1):
            raise ValueError("min_share and same_object must lie in [0, 1]")


def match_consensus(
    segments: Sequence[ViewSegments],
    projections: Sequence[ViewProjection],
    grid: InstanceGrid,
    config: ConsensusMatchConfig | None = None,
) -> Matching:
    """Objects that segments of several views agree on; works without a detector.

    Over-segmented objects are merged, segments of several objects abstain, and so do pixels of objects of which a view
    has no segment. A detector has a say like one more view; objects that it found have its ids.

    Args:
        segments: of each view.
        projections: of the same views; with an empty grid, only where their rays end.
        grid: the detector's instances, or none.
        config: thresholds.

    Raises:
        ValueError: views or instances that do not fit together.
        InputError: segments of another shape than their view.
    """
    config = config or ConsensusMatchConfig()
    check_views(segments, projections, grid)
    if not segments:
        return Matching([], ())
    ids = [at_size_of(s, p) for s, p in zip(segments, projections, strict=True)]
    voxels = [p.voxels for p in projections]
    surface = np.unique(np.concatenate([part.ravel() for part in voxels]))
    surface = surface[surface >= 0]
    objects = find_objects(ids, voxels, grid.shape, config.objects, grid.ids if grid.count else None)

    counts = [len(s.categories) for s in segments]
    assigned = _assign(ids, voxels, counts, objects, config)
    for step in range(config.rounds):
        kept = _kept(assigned, ids, voxels, objects, config)
        objects = kept[objects]
        assigned = _assign(ids, voxels, counts, objects, config)
        if step < config.rounds - 1:
            maps = _maps(ids, voxels, assigned, objects)
            objects = vote_voxels(maps, voxels, grid.shape)
            assigned = _assign(ids, voxels, counts, objects, config)
    names = _detectors_ids(objects, grid, surface, config.same_object)
    objects = names[objects]
    instances = [np.where(a.instances > 0, names[np.maximum(a.instances, 0)], a.instances) for a in assigned]
    maps = []
    for found, seen, of_view in zip(segments, voxels, instances, strict=True):
        height, width = found.ids.shape
        expected = resize_labels(_at(objects, seen), height, width)
        maps.append(abstain_where_missed(name_segments(found.ids, of_view), expected))
    return Matching(maps, describe(segments, instances, grid))


def _at(objects: Int32[np.ndarray, "X Y Z"], voxels: Int[np.ndarray, "h w"]) -> Int32[np.ndarray, "h w"]:
    """The object that each pixel sees."""
    return np.where(voxels >= 0, objects.ravel()[np.maximum(voxels, 0)], 0).astype(np.int32)


def _assign(
    ids: Sequence[Int[np.ndarray, "h w"]],
    voxels: Sequence[Int[np.ndarray, "h w"]],
    counts: Sequence[int],
    objects: Int32[np.ndarray, "X Y Z"],
    config: ConsensusMatchConfig,
) -> list[Assignment]:
    """The object of each segment of each view."""
    number = int(objects.max(initial=0))
    assigned = []
    for of_view, seen, count in zip(ids, voxels, counts, strict=True):
        owner = _at(objects, seen).ravel()
        pixels = np.flatnonzero(owner)
        weights = sparse.csr_matrix(
            (np.ones(len(pixels), np.float32), (owner[pixels] - 1, pixels)), shape=(number, owner.size)
        )
        assigned.append(assign_segments(of_view, count, weights, None, config.assignment))
    return assigned


def _kept(
    assigned: Sequence[Assignment],
    ids: Sequence[Int[np.ndarray, "h w"]],
    voxels: Sequence[Int[np.ndarray, "h w"]],
    objects: Int32[np.ndarray, "X Y Z"],
    config: ConsensusMatchConfig,
) -> Int32[np.ndarray, "K+1"]:
    """New numbers of the objects, without those that have segments of their own in too few views."""
    number = int(objects.max(initial=0))
    own, covered = np.zeros(number + 1, np.int64), np.zeros(number + 1, np.int64)
    for assignment, of_view, seen in zip(assigned, ids, voxels, strict=True):
        own[np.unique(assignment.main[assignment.main > 0])] += 1
        owner = _at(objects, seen)
        visible = np.bincount(owner.ravel(), minlength=number + 1)
        inside = np.bincount(owner[of_view > 0], minlength=number + 1)
        covered += 2 * inside > np.maximum(visible, 1)
    kept = (own >= config.min_views) & (own >= config.min_share * covered)
    kept[0] = False
    names = np.zeros(number + 1, np.int32)
    names[kept] = np.arange(1, kept.sum() + 1)
    return names


def _maps(
    ids: Sequence[Int[np.ndarray, "h w"]],
    voxels: Sequence[Int[np.ndarray, "h w"]],
    assigned: Sequence[Assignment],
    objects: Int32[np.ndarray, "X Y Z"],
) -> list[Int32[np.ndarray, "h w"]]:
    return [
        abstain_where_missed(name_segments(of_view, assignment.instances), _at(objects, seen))
        for of_view, seen, assignment in zip(ids, voxels, assigned, strict=True)
    ]


def _detectors_ids(
    objects: Int32[np.ndarray, "X Y Z"], grid: InstanceGrid, surface: Int[np.ndarray, "n"], least: float
) -> Int32[np.ndarray, "K+1"]:
    """The id of each object: its detected instance's, or one after these."""
    number = int(objects.max(initial=0))
    names = np.zeros(number + 1, np.int32)
    pairs = objects.ravel()[surface].astype(np.int64) * (grid.count + 1) + grid.ids.ravel()[surface]
    table = np.bincount(pairs, minlength=(number + 1) * (grid.count + 1)).reshape(number + 1, grid.count + 1)
    both = table[1:, 1:]
    iou = both / np.maximum(table[1:].sum(1)[:, None] + table[:, 1:].sum(0) - both, 1)
    for row, column in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
        if iou[row, column] >= max(least, 1e-6):
            names[row + 1] = column + 1
    new = np.flatnonzero(names[1:] == 0) + 1
    names[new] = grid.count + np.arange(1, len(new) + 1)
    return names
