"""Which surfaces are one object to most views, whatever each view numbers, misses, cuts and joins.

The measure is the view consensus rate of MaskClustering (Yan et al., CVPR 2024): of the views that have a say about
both of two things, the share that has them in one segment. There the things are segments, and a segment of two objects
ties these together; here they are small regions of surfaces, which segments of several objects cannot spoil.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from instance_nerfstudio.lift.voxel_regions import VoxelLabels, find_regions, label_voxels

# Pairs of groups that are looked at at once, and whose views are.
_PAIRS_OF_CHUNK = 1 << 22
_PAIRS = 1 << 15


@dataclass(frozen=True)
class ConsensusConfig:
    """When surfaces are one object."""

    foreground: float = 0.4
    """Voxels that a smaller share of the views that see them have in segments are of none."""
    block: int = 4
    """Voxels along the edge of the blocks in which regions lie."""
    together: float = 0.9
    """Neighbouring voxels are of one region if this share of the views has them in one segment."""
    region_views: int = 2
    """Views that must have both in segments for that."""
    consensus: float = 0.5
    """Groups of regions are one object if, of the pairs of a voxel of each that a view has in segments, summed over the
    views, this share is in one segment."""
    doubt: float = 0.3
    """So many more views are counted that have all of them apart: the fewer views, the more of them must agree."""
    min_voxels: int = 3
    """Objects with fewer voxels are none."""

    def __post_init__(self) -> None:
        shares = (self.foreground, self.together, self.consensus)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("foreground, together and consensus must lie in [0, 1]")
        if min(self.block, self.region_views, self.min_voxels) < 1 or self.doubt < 0:
            raise ValueError("block, region_views and min_voxels must be at least 1, doubt at least 0")


def find_objects(
    segments: Sequence[Int[np.ndarray, "H W"]],
    voxels: Sequence[Int[np.ndarray, "H W"]],
    shape: tuple[int, int, int],
    config: ConsensusConfig | None = None,
    detected: Int[np.ndarray, "X Y Z"] | None = None,
) -> Int32[np.ndarray, "X Y Z"]:
    """Objects out of the segments of views, as the voxels of their surfaces.

    A detector has a say like one view that sees all surfaces, but never more than the views that see the same: where
    few do, as on the noisy surfaces of a small field, its mistakes would join what no view has ever seen together.

    Args:
        segments: of each view, -1 unlabelled, 0 background, 1.. segments, whose numbers mean nothing beyond the view.
        voxels: the flat voxel (x * Y + y) * Z + z whose surface each pixel sees, -1 for none.
        shape: voxels of the grid along x, y and z.
        config: when surfaces are one object.
        detected: a detector's instance of each voxel, 0 for none: there it has no opinion.

    Returns:
        0 for none, 1..K by descending number of voxels.

    Raises:
        ValueError: maps of different shapes in a view.
    """
    config = config or ConsensusConfig()
    if len(segments) != len(voxels) or any(s.shape != v.shape for s, v in zip(segments, voxels, strict=True)):
        raise ValueError("every view needs a map of segments and a map of voxels of the same shape")
    labels = label_voxels(segments, voxels, config.foreground)
    ids = np.zeros(shape, np.int32)
    if not len(labels.voxels):
        return ids
    objects = find_regions(labels, shape, config.block, config.together, config.region_views)
    found = None if detected is None else detected.ravel()[labels.voxels]
    while (joined := _join(labels, objects, found, config)) is not None:
        objects = joined
    sizes = np.bincount(objects)
    order = np.argsort(-sizes, kind="stable")
    number = np.zeros(len(sizes), np.int32)
    number[order] = np.arange(1, len(sizes) + 1)
    number[sizes < config.min_voxels] = 0
    ids.reshape(-1)[labels.voxels] = number[objects]
    return ids


def _join(
    labels: VoxelLabels,
    objects: Int64[np.ndarray, "V"],
    detected: Int[np.ndarray, "V"] | None,
    config: ConsensusConfig,
) -> Int64[np.ndarray, "V"] | None:
    """Joins groups that agree best with each other, and those that agree best with one of these; None if none do.

    Args:
        labels: of V voxels.
        objects: the group of each voxel.
        detected: the detector's instance of each voxel, 0 for none.
        config: when groups agree.
    """
    best = _best_partners(labels, objects, detected, config)
    if (best < 0).all():
        return None
    some = best >= 0
    mutual = some.copy()
    mutual[some] = best[best[some]] == np.flatnonzero(some)
    follows = some & ~mutual
    follows[follows] = mutual[best[follows]]
    one = np.flatnonzero(mutual | follows)
    graph = sparse.csr_matrix((np.ones(len(one)), (one, best[one])), shape=(len(best), len(best)))
    return connected_components(graph, directed=False)[1][objects].astype(np.int64)


def _best_partners(
    labels: VoxelLabels,
    objects: Int64[np.ndarray, "V"],
    detected: Int[np.ndarray, "V"] | None,
    config: ConsensusConfig,
) -> Int64[np.ndarray, "G"]:
    """The group that each group agrees best with, -1 where none reaches the consensus; of equal ones the first."""
    voxels, segments = len(labels.voxels), len(labels.views)
    views, count = int(labels.views.max()) + 1, int(objects.max()) + 1
    group = sparse.csr_matrix((np.ones(voxels, np.float32), (objects, np.arange(voxels))), shape=(count, voxels))
    of_view = sparse.csr_matrix(
        (np.ones(segments, np.float32), (np.arange(segments), labels.views)), shape=(segments, views)
    )
    covered = sparse.coo_matrix(group @ labels.members)
    # Shares of the groups' voxels: a view that sees a part of one counts for that part.
    sizes = np.bincount(objects)
    inside = sparse.csr_matrix((covered.data / sizes[covered.row], (covered.row, covered.col)), shape=covered.shape)
    in_any = sparse.csr_matrix(inside @ of_view).toarray().astype(np.float32)
    found = _detected_shares(objects, detected, sizes)
    partners = sparse.csr_matrix(inside.T)
    best = np.full(count, -1, np.int64)
    # Thousands of regions in one segment are millions of pairs: never all of them at once.
    work = np.cumsum(np.concatenate([[0], _pairs_at_most(inside)]))
    start = 0
    while start < count:
        end = max(start + 1, int(np.searchsorted(work, work[start] + _PAIRS_OF_CHUNK, "right")) - 1)
        agree = (inside[start:end] @ partners).tocoo()
        rows, columns = agree.row.astype(np.int64) + start, agree.col.astype(np.int64)
        pairs = rows != columns
        rows, columns = rows[pairs], columns[pairs]
        rates = _rates(rows, columns, agree.data[pairs], in_any, found, config.doubt)
        enough = rates >= config.consensus
        rows, columns, rates = rows[enough], columns[enough], rates[enough]
        order = np.lexsort((columns, -rates, rows))
        rows, first = np.unique(rows[order], return_index=True)
        best[rows] = columns[order[first]]
        start = end
    return best


def _pairs_at_most(inside: sparse.csr_matrix) -> Int64[np.ndarray, "G"]:
    """How many groups share a segment with each group, those that share several counted as often."""
    of_segment = np.bincount(inside.indices)
    return np.add.reduceat(np.append(of_segment[inside.indices], 0), inside.indptr[:-1]) * (np.diff(inside.indptr) > 0)


def _rates(
    rows: Int64[np.ndarray, "P"],
    columns: Int64[np.ndarray, "P"],
    agree: Float[np.ndarray, "P"],
    in_any: Float32[np.ndarray, "G views"],
    found: Float32[np.ndarray, "G D"] | None,
    doubt: float,
) -> Float[np.ndarray, "P"]:
    """The consensus rates of pairs of groups.

    Args:
        rows, columns: the pairs.
        agree: views that have both in one segment.
        in_any: share of each group's voxels that each view has in segments.
        found: share of each group's voxels in each detected instance.
        doubt: as configured.
    """
    rates = np.zeros(len(rows))
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        both, agreed = np.einsum("pv,pv->p", in_any[rows[part]], in_any[columns[part]]), agree[part]
        if found is not None:
            one, other = found[rows[part]], found[columns[part]]
            weight = np.minimum(both, 1)
            agreed = agreed + weight * np.einsum("pd,pd->p", one, other)
            both = both + weight * one.sum(1) * other.sum(1)
        rates[part] = agreed / (both + doubt)
    return rates


def _detected_shares(
    objects: Int64[np.ndarray, "V"], detected: Int[np.ndarray, "V"] | None, sizes: Int64[np.ndarray, "G"]
) -> Float32[np.ndarray, "G D"] | None:
    """The share of each group's voxels in each detected instance; None where nothing is detected."""
    if detected is None or not detected.any():
        return None
    some = detected > 0
    rows = (np.ones(some.sum(), np.float32), (objects[some], detected[some] - 1))
    shares = sparse.csr_matrix(rows, shape=(len(sizes), int(detected.max()))).toarray()
    return (shares / sizes[:, None]).astype(np.float32)
