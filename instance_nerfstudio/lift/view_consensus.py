"""Which surfaces are one object to most views, whatever each view numbers, misses, cuts and joins.

The measure is the view consensus rate of MaskClustering (Yan et al., CVPR 2024): of the views that have a say about
both of two things, the share that has them in one segment. There the things are segments, and a segment of two objects
ties these together; here they are small regions of surfaces, which segments of several objects cannot spoil.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int32, Int64
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from instance_nerfstudio.lift.voxel_regions import VoxelLabels, find_regions, label_voxels

# Pairs of groups whose views are gone through at once.
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
    rows, columns, rates, count = _rates(labels, objects, detected, config)
    if not len(rows):
        return None
    order = np.lexsort((columns, -rates, rows))
    rows, columns = rows[order], columns[order]
    first = np.concatenate([[True], rows[1:] != rows[:-1]])
    best = np.full(count, -1)
    best[rows[first]] = columns[first]
    some = best >= 0
    mutual = some.copy()
    mutual[some] = best[best[some]] == np.flatnonzero(some)
    follows = some & ~mutual
    follows[follows] = mutual[best[follows]]
    one = np.flatnonzero(mutual | follows)
    graph = sparse.csr_matrix((np.ones(len(one)), (one, best[one])), shape=(count, count))
    return connected_components(graph, directed=False)[1][objects].astype(np.int64)


def _rates(
    labels: VoxelLabels,
    objects: Int64[np.ndarray, "V"],
    detected: Int[np.ndarray, "V"] | None,
    config: ConsensusConfig,
) -> tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"], Float32[np.ndarray, "pairs"], int]:
    """Pairs of groups that reach the consensus, in both orders, their rates, and the number of groups."""
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
    agree = (inside @ inside.T).tocoo()
    pairs = agree.row != agree.col
    rows, columns, agreed = agree.row[pairs], agree.col[pairs], agree.data[pairs]
    both = np.zeros(len(rows), np.float32)
    found = _detected_shares(objects, detected, sizes)
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        both[part] = np.einsum("pv,pv->p", in_any[rows[part]], in_any[columns[part]])
        if found is not None:
            one, other = found[rows[part]], found[columns[part]]
            weight = np.minimum(both[part], 1)
            agreed[part] += weight * np.einsum("pd,pd->p", one, other)
            both[part] += weight * one.sum(1) * other.sum(1)
    rates = agreed / (both + config.doubt)
    enough = rates >= config.consensus
    return rows[enough], columns[enough], rates[enough], count


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
