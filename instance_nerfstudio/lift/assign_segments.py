"""Which of the instances that a view is known to show each of its segments is of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int32
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from instance_nerfstudio.lift.matching import UNKNOWN_CATEGORIES
from instance_nerfstudio.masks.instance_masks import BACKGROUND, UNLABELLED


@dataclass(frozen=True)
class AssignmentConfig:
    """When a segment is of an instance. Shares are of what the view sees: what is hidden or cut off counts nowhere."""

    least: float = 0.3
    """A segment with a lower score (the harmonic mean of the shares of the segment and of the instance that both have
    in common) goes into the dustbin."""
    part: float = 0.6
    """A segment of which more than this share is in one instance is a part of it, if it isn't more."""
    several: float = 0.5
    """A segment with more than this share of two instances or more is of none: it joins them."""
    other_class: float = 0.2
    """What is taken from the score where classes differ."""

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.least, self.part, self.several, self.other_class)):
            raise ValueError("least, part, several and other_class must lie in [0, 1]")


@dataclass(frozen=True, eq=False)
class Assignment:
    """The segments of one view."""

    instances: Int32[np.ndarray, "S"]
    """Row of the instance + 1 of each segment, -1 for none."""
    main: Int32[np.ndarray, "S"]
    """The same for segments that are an instance's own and not merely parts; of each instance there is one at most."""


def assign_segments(
    ids: Int[np.ndarray, "h w"],
    count: int,
    weights: sparse.csr_matrix,
    same_class: Bool[np.ndarray, "S K"] | None = None,
    config: AssignmentConfig | None = None,
) -> Assignment:
    """Pairs segments and instances of a view one to one, then adds parts of instances and drops joined ones.

    Args:
        ids: the view's segments, -1 unlabelled, 0 background, 1..S.
        count: number of segments, S.
        weights: (K, h * w) share of each pixel that is each instance's.
        same_class: whether classes agree; all do when not given.
        config: thresholds.
    """
    config = config or AssignmentConfig()
    instances = len(weights.indptr) - 1
    nothing = np.full(count, UNLABELLED, np.int32)
    if not count or not instances:
        return Assignment(nothing, nothing.copy())
    # Where the segmenter has no opinion, no segment can cover an instance: such pixels count nowhere.
    pixels = np.flatnonzero(ids >= BACKGROUND)
    flat = ids.ravel()[pixels]
    member = sparse.csr_matrix((np.ones(len(flat), np.float32), (flat, pixels)), shape=(count + 1, ids.size))
    table = sparse.csr_matrix(member @ weights.T).toarray()
    common, areas = table[1:], table.sum(0)
    sizes = np.bincount(flat, minlength=count + 1)[1:]
    of_segment = common / np.maximum(sizes, 1)[:, None]
    of_instance = common / np.maximum(areas, 1e-6)
    scores = 2 * common / np.maximum(sizes[:, None] + areas, 1e-6)
    if same_class is not None:
        scores = scores - config.other_class * ~same_class
    joins = _joins(of_segment, of_instance, config)
    scores[joins] = 0
    main = nothing.copy()
    dustbin = np.full((count, count), config.least)
    rows, columns = linear_sum_assignment(np.concatenate([scores, dustbin], 1), maximize=True)
    taken = columns < instances
    main[rows[taken]] = columns[taken] + 1
    result = main.copy()
    best = of_segment.argmax(1)
    part = (result < 0) & ~joins & (of_segment[np.arange(count), best] > config.part)
    if same_class is not None:
        part &= same_class[np.arange(count), best]
    result[part] = best[part] + 1
    return Assignment(result, main)


def _joins(
    of_segment: Float[np.ndarray, "S K"], of_instance: Float[np.ndarray, "S K"], config: AssignmentConfig
) -> Bool[np.ndarray, "S"]:
    """Segments with most of several instances. One that is a sliver of the segment does not count: ragged borders hold
    such instances whole."""
    return ((of_instance > config.several) & (of_segment > 0.02)).sum(1) > 1


def classes_agree(segments: tuple[str, ...], instances: tuple[str, ...]) -> Bool[np.ndarray, "S K"]:
    """Whether the class of a segment is that of an instance, or one of them is not known."""
    result = np.array([[a == b for b in instances] for a in segments], bool).reshape(len(segments), len(instances))
    for names, axis in ((segments, 0), (instances, 1)):
        unknown = np.isin(np.array(names, dtype=np.str_), UNKNOWN_CATEGORIES)
        result |= np.expand_dims(unknown, 1 - axis)
    return result


def abstain_where_missed(ids: Int32[np.ndarray, "H W"], expected: Int[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
    """Background that is expected to be an instance of which the map shows nothing: the segmenter missed it.

    Args:
        ids: a view's map of instances.
        expected: the instance that each pixel should show, 0 for none.
    """
    shown = np.unique(ids)
    missed = (ids == BACKGROUND) & (expected > 0) & ~np.isin(expected, shown)
    return np.where(missed, UNLABELLED, ids).astype(np.int32)
