"""Small regions of a surface that belong together in nearly every view: what objects are put together from.

Segments themselves would make poor parts: one that shows two objects ties them together. A region is so small, and so
rarely divided by the borders of segments, that it nearly always is of one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from instance_nerfstudio.masks.instance_masks import BACKGROUND


@dataclass(frozen=True, eq=False)
class VoxelLabels:
    """The segments that voxels of surfaces are in, in each view that sees them."""

    voxels: Int64[np.ndarray, "V"]
    """Flat indices (x * Y + y) * Z + z, ascending: those that enough views have in segments."""
    members: sparse.csr_matrix
    """(V, S) 1 where a voxel is in a segment; in one of each view at most."""
    views: Int64[np.ndarray, "S"]
    """The view of each segment; segments go by view and number."""


def label_voxels(
    segments: Sequence[Int[np.ndarray, "H W"]], voxels: Sequence[Int[np.ndarray, "H W"]], foreground: float
) -> VoxelLabels:
    """Gives each voxel the segment that most of its pixels are in, view by view.

    Args:
        segments: of each view, -1 unlabelled, 0 background, 1.. segments.
        voxels: the voxel whose surface each pixel sees, -1 for none.
        foreground: a voxel is left out if it is in segments of a smaller share of the views that see it, unlabelled
            pixels aside: what ragged borders of segments let in.
    """
    seen_in: list[np.ndarray] = []
    voxel_parts, segment_parts, views = [], [], []
    first = 0
    for view, (ids, seen) in enumerate(zip(segments, voxels, strict=True)):
        chosen = (ids >= BACKGROUND) & (seen >= 0)
        count = int(ids.max(initial=0)) + 1
        keys, pixels = np.unique(seen[chosen].astype(np.int64) * count + ids[chosen], return_counts=True)
        # Of the segments of a voxel the one with the most pixels, of equal ones the first.
        order = np.lexsort((-pixels, keys // count))
        place, segment = keys[order] // count, keys[order] % count
        best = np.concatenate([[True], place[1:] != place[:-1]]) if len(place) else np.zeros(0, bool)
        place, segment = place[best], segment[best]
        seen_in.append(place)
        voxel_parts.append(place[segment > BACKGROUND])
        segment_parts.append(first + segment[segment > BACKGROUND] - 1)
        views.append(np.full(count - 1, view))
        first += count - 1
    none = np.zeros(0, np.int64)
    known, rows = np.unique(np.concatenate([none, *voxel_parts]), return_inverse=True)
    columns = np.concatenate([none, *segment_parts])
    every = np.concatenate([none, *seen_in])
    place = np.searchsorted(known, every)
    hit = place < len(known)
    hit[hit] = known[place[hit]] == every[hit]
    seen = np.bincount(place[hit], minlength=len(known))
    kept = np.bincount(rows.ravel(), minlength=len(known)) >= foreground * seen
    members = sparse.csr_matrix((np.ones(len(columns), np.float32), (rows.ravel(), columns)), shape=(len(known), first))
    return VoxelLabels(known[kept], sparse.csr_matrix(members[kept]), np.concatenate([none, *views]))


def find_regions(
    labels: VoxelLabels, shape: tuple[int, int, int], block: int, together: float, min_views: int
) -> Int64[np.ndarray, "V"]:
    """The region of each voxel, numbered from 0.

    Neighbours within a block of voxels are of one region if at least a share of the views that have both in segments
    have them in one. Blocks keep one wrong neighbour from joining whole objects.

    Args:
        labels: of V voxels.
        shape: voxels of the grid along x, y and z.
        block: voxels along the edge of a block.
        together: that share.
        min_views: views that have both in segments, at least.
    """
    if not len(labels.voxels):
        return np.zeros(0, np.int64)
    by_view = _by_view(labels)
    place = np.stack(np.unravel_index(labels.voxels, shape), -1)
    row_of = np.full(shape, -1, np.int64)
    row_of[tuple(place.T)] = np.arange(len(place))
    starts, ends = [], []
    offsets = [o for o in np.ndindex(3, 3, 3) if o > (1, 1, 1)]  # half of the 26 neighbours
    for offset in offsets:
        other = place + np.array(offset) - 1
        near = ((other >= 0) & (other < shape) & (other // block == place // block)).all(1)
        rows = np.flatnonzero(near)
        columns = row_of[tuple(other[near].T)]
        starts.append(rows[columns >= 0])
        ends.append(columns[columns >= 0])
    start, end = np.concatenate(starts), np.concatenate(ends)
    both, agree = np.zeros(len(start), np.int32), np.zeros(len(start), np.int32)
    for of_view in by_view:
        a, b = of_view[start], of_view[end]
        labelled = (a >= 0) & (b >= 0)
        both += labelled
        agree += labelled & (a == b)
    one = (both >= min_views) & (agree >= together * both)
    graph = sparse.csr_matrix((np.ones(one.sum()), (start[one], end[one])), shape=(len(place), len(place)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _by_view(labels: VoxelLabels) -> Int[np.ndarray, "views V"]:
    """The segment of each voxel in each view, -1 for none."""
    count = int(labels.views.max(initial=-1)) + 1
    result = np.full((count, len(labels.voxels)), -1, np.int32)
    members = labels.members.tocoo()
    result[labels.views[members.col], members.row] = members.col
    return result
