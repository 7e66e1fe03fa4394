"""What a matcher gives: every view's segments as objects that all views share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32

from instance_nerfstudio.lift.instance_grid import InstanceGrid
from instance_nerfstudio.lift.view_projection import ViewProjection
from instance_nerfstudio.lift.voxel_votes import vote
from instance_nerfstudio.masks.instance_masks import BACKGROUND, UNLABELLED, resize_labels
from instance_nerfstudio.segments.view_segments import ViewSegments

# Nobody knows the class of what is called so: it agrees with every class.
UNKNOWN_CATEGORIES = ("", "object", "other", "others", "unknown")


@dataclass(frozen=True)
class MatchedInstance:
    """An object of the scene."""

    id: int
    """Its value in the maps."""
    category: str
    score: float
    """In [0, 1]."""
    views: int
    """Views with a segment of it."""
    detected: bool
    """Whether the detector found it, too."""


@dataclass(frozen=True, eq=False)
class Matching:
    """The objects of a scene in its views."""

    maps: list[Int32[np.ndarray, "H W"]]
    """Of each view: -1 abstains, 0 background, 1.. instances. Those of the detector have its row + 1, others follow."""
    instances: tuple[MatchedInstance, ...]
    """By id; those that no map shows are left out."""


def check_views(segments: Sequence[ViewSegments], projections: Sequence[ViewProjection], grid: InstanceGrid) -> None:
    """Refuses views that do not fit together.

    Raises:
        ValueError: another number of segmented views than of projected ones, or projections of other instances.
    """
    if len(segments) != len(projections):
        raise ValueError(
            f"{len(segments)} views have segments, {len(projections)} are projected: they must be the same"
        )
    if any(len(view.visible) != grid.count for view in projections):
        raise ValueError("the projections are of other instances than the grid's; project again")


def at_size_of(segments: ViewSegments, projection: ViewProjection) -> Int32[np.ndarray, "h w"]:
    """The map of segments at the resolution of a projection."""
    return resize_labels(segments.ids, *projection.size, source="segments").astype(np.int32)


def name_segments(ids: Int[np.ndarray, "H W"], instances: Int[np.ndarray, "S"]) -> Int32[np.ndarray, "H W"]:
    """A map of segments as a map of instances; segments of -1 abstain, and so do segments beyond the list."""
    names = np.full(max(int(ids.max(initial=0)), len(instances)) + 1, UNLABELLED, np.int32)
    names[BACKGROUND] = BACKGROUND
    names[1 : len(instances) + 1] = instances
    return np.where(ids < 0, UNLABELLED, names[np.maximum(ids, 0)]).astype(np.int32)


def describe(
    segments: Sequence[ViewSegments],
    assigned: Sequence[Int[np.ndarray, "S"]],
    grid: InstanceGrid,
    by_detector: bool = False,
) -> tuple[MatchedInstance, ...]:
    """The instances that segments are assigned to.

    The class is what most segments say, each with its score, and the detector as one of them; the score is the
    detector's, or the mean of the segments.

    Args:
        segments: of each view.
        assigned: the instance of each segment, below 1 for none.
        grid: the detector's instances.
        by_detector: the detector alone says the class.
    """
    votes: defaultdict[int, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    scores: defaultdict[int, list[float]] = defaultdict(list)
    views: defaultdict[int, set[int]] = defaultdict(set)
    for view, (found, instances) in enumerate(zip(segments, assigned, strict=True)):
        for row in np.flatnonzero(instances > 0):
            number, score = int(instances[row]), float(found.scores[row])
            views[number].add(view)
            scores[number].append(score)
            votes[number][found.categories[row]] += score
    described = []
    for number in sorted(views):
        detected = number <= grid.count
        names = votes[number]
        if detected:
            names[grid.categories[number - 1]] += float(grid.scores[number - 1])
        known = {name: vote for name, vote in names.items() if name not in UNKNOWN_CATEGORIES}
        category = max(known or names, key=lambda name: (names[name], name))
        if detected and by_detector:
            category = grid.categories[number - 1]
        score = float(grid.scores[number - 1]) if detected else float(np.mean(scores[number]))
        described.append(MatchedInstance(number, category, score, len(views[number]), detected))
    return tuple(described)


def settle(matching: Matching, projections: Sequence[ViewProjection]) -> Matching:
    """The matching with one id for every voxel of a surface, what most of the pixels that see it say: fills what some
    views missed, and evens out borders that are ragged in each view.

    Args:
        matching: of the views.
        projections: of the same views.
    """
    voxels = []
    for ids, projection in zip(matching.maps, projections, strict=True):
        height, width = ids.shape
        voxels.append(resize_labels(projection.voxels, height, width, source="projection"))
    maps = vote(matching.maps, voxels)
    shown = {int(number) for ids in maps for number in np.unique(ids)}
    return Matching(maps, tuple(one for one in matching.instances if one.id in shown))
