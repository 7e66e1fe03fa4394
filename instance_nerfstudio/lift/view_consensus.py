"""Which segments of different views are one object: view consensus (MaskClustering, Yan et al., CVPR 2024), on voxels.

A segment of a view covers voxels, those of the surfaces that its pixels see. Two segments are of one object if most of
the views that see both have them inside one segment of theirs. Views that saw neither, or found nothing there, have no
say, so that a segmenter may miss an object in many views and may number it differently in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int32
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from instance_nerfstudio.masks.instance_masks import BACKGROUND, UNLABELLED


@dataclass(frozen=True)
class ConsensusConfig:
    """When segments are one object."""

    visible: float = 0.2
    """A view has a say about a segment if the view's segments cover more than this share of its voxels."""
    contained: float = 0.8
    """A segment is inside another if that covers more than this share of what any segment of its view covers."""
    split: float = 0.5
    """A segment that more than this share of the views with a say find several objects in is of several objects; it is
    of none then."""
    consensus: float = 0.7
    """Segments are one object if at least this share of the views with a say about both has them in one segment."""
    overlap: float = 0.5
    """Groups of segments are one object already if half as many views agree, where they share more than this part of
    the smaller one's voxels."""
    foreground: float = 0.4
    """Voxels that a smaller share of the views that see them have in segments are of none: what ragged borders of
    segments let in."""
    min_views: int = 3
    """An object is in segments of so many views, at least."""
    min_voxels: int = 3
    """Segments with fewer voxels are left out: a pixel beside an edge sees anything."""
    rounds: int = 10
    """Rounds of merging. The first wants many views with a say about both, the last one view."""

    def __post_init__(self) -> None:
        shares = (self.visible, self.contained, self.split, self.consensus, self.overlap, self.foreground)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("visible, contained, split, consensus, overlap and foreground must lie in [0, 1]")
        if min(self.min_views, self.min_voxels, self.rounds) < 1:
            raise ValueError("min_views, min_voxels and rounds must be at least 1")


@dataclass(frozen=True, eq=False)
class Consensus:
    """What the views agree on."""

    instances: list[Int32[np.ndarray, "_"]]
    """For each view, by the number of a segment: its object, 1..K by size, or -1 for none; background stays 0."""
    count: int
    """Number of objects, K."""
    views: Int[np.ndarray, "K"]
    """Views with a segment of each object."""

    def instance_map(self, view: int, segments: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
        """A view's map of segments, as a map of objects: -1 unlabelled, 0 background, 1..K."""
        return np.where(segments < 0, UNLABELLED, self.instances[view][np.maximum(segments, 0)]).astype(np.int32)


def find_consensus(
    segments: Sequence[Int32[np.ndarray, "H W"]],
    voxels: Sequence[Int[np.ndarray, "H W"]],
    config: ConsensusConfig | None = None,
) -> Consensus:
    """Objects out of the segments of views.

    Args:
        segments: of each view, -1 unlabelled, 0 background, 1.. segments, whose numbers mean nothing beyond the view.
        voxels: the voxel whose surface each pixel sees, any number from 0 on, -1 for none.
        config: when segments are one object.

    Raises:
        ValueError: maps of different shapes in a view.
    """
    config = config or ConsensusConfig()
    if len(segments) != len(voxels) or any(s.shape != v.shape for s, v in zip(segments, voxels, strict=True)):
        raise ValueError("every view needs a map of segments and a map of voxels of the same shape")
    nodes, covers = _segment_voxels(segments, voxels, config.foreground)
    large = np.asarray(covers.sum(1)).ravel() >= config.min_voxels
    nodes, covers = nodes[large], covers[large]
    if len(nodes) == 0:
        return _consensus(np.zeros(0, np.int64), nodes, covers, segments, config)
    # Segments of several objects would tie them together, as containers and as parts.
    single = ~_votes(covers, covers, nodes, len(segments), config).several(config.split)
    nodes, covers = nodes[single], covers[single]
    objects = _cluster(covers, nodes, len(segments), config)
    return _consensus(objects, nodes, covers, segments, config)


@dataclass(frozen=True, eq=False)
class _Votes:
    """What the views say about groups of voxels."""

    has_say: sparse.csr_matrix
    """(groups, views) 1 where a view has a say."""
    inside: sparse.csr_matrix
    """(groups, segments) 1 where the group is inside a segment of a view with a say."""

    def several(self, share: float) -> Bool[np.ndarray, "groups"]:
        """Groups that more than a share of the views find several objects in."""
        views = np.asarray(self.has_say.sum(1)).ravel()
        agree = np.asarray(self.inside.sum(1)).ravel()
        return views - agree > share * views


def _segment_voxels(
    segments: Sequence[np.ndarray], voxels: Sequence[np.ndarray], foreground: float
) -> tuple[Int[np.ndarray, "S 2"], sparse.csr_matrix]:
    """View and number of every segment, and the voxels that it covers, as 0 and 1: `(S, V)`."""
    parts = []
    for view, (ids, seen) in enumerate(zip(segments, voxels, strict=True)):
        chosen = (ids >= BACKGROUND) & (seen >= 0)
        pairs = np.stack([ids[chosen].astype(np.int64), seen[chosen].astype(np.int64)], 1)
        # The number of pixels doesn't matter: near views would count more than far ones.
        pairs = np.unique(pairs, axis=0)
        parts.append(np.concatenate([np.full((len(pairs), 1), view), pairs], 1))
    every = np.concatenate(parts) if parts else np.zeros((0, 3), np.int64)
    places, columns = np.unique(every[:, 2], return_inverse=True)
    columns = columns.ravel()
    in_segment = every[:, 1] > BACKGROUND
    shares = np.bincount(columns, in_segment, len(places)) / np.maximum(np.bincount(columns, minlength=len(places)), 1)
    kept = in_segment & (shares[columns] >= foreground)
    nodes, rows = np.unique(every[kept][:, :2], axis=0, return_inverse=True)
    ones = np.ones(kept.sum(), np.float32)
    return nodes, sparse.csr_matrix((ones, (rows.ravel(), columns[kept])), shape=(len(nodes), len(places)))


def _votes(
    groups: sparse.csr_matrix, covers: sparse.csr_matrix, nodes: np.ndarray, views: int, config: ConsensusConfig
) -> _Votes:
    """About groups of voxels `(G, V)`, of the views whose segments cover `covers` `(S, V)`."""
    of_view = sparse.csr_matrix(
        (np.ones(len(nodes), np.float32), (np.arange(len(nodes)), nodes[:, 0])), shape=(len(nodes), views)
    )
    # Segments of a view share voxels at their edges, which are to count once.
    in_segments = _united(sparse.csr_matrix(of_view.T), covers)
    found = (groups @ in_segments.T).tocsr()
    sizes = np.asarray(groups.sum(1)).ravel()
    say = found.tocoo()
    enough = say.data > config.visible * sizes[say.row]
    has_say = sparse.csr_matrix((np.ones(enough.sum(), np.float32), (say.row[enough], say.col[enough])), found.shape)
    common = (groups @ covers.T).tocoo()
    view = nodes[common.col, 0]
    within = np.asarray(found[common.row, view]).ravel()
    inside = (common.data > config.contained * within) & (np.asarray(has_say[common.row, view]).ravel() > 0)
    ones = np.ones(inside.sum(), np.float32)
    return _Votes(has_say, sparse.csr_matrix((ones, (common.row[inside], common.col[inside])), common.shape))


def _united(member: sparse.csr_matrix, covers: sparse.csr_matrix) -> sparse.csr_matrix:
    """The voxels of groups `(G, V)`, as 0 and 1, of the segments `(G, S)` in them."""
    groups = sparse.csr_matrix(member @ covers)
    groups.data = np.ones_like(groups.data)
    return groups


def _cluster(covers: sparse.csr_matrix, nodes: np.ndarray, views: int, config: ConsensusConfig) -> Int[np.ndarray, "S"]:
    """The object of each segment, numbered from 0."""
    objects = np.arange(len(nodes))
    wanted: Float[np.ndarray, "rounds"] = np.zeros(0)
    for step in range(config.rounds):
        count = int(objects.max()) + 1
        member = sparse.csr_matrix(
            (np.ones(len(nodes), np.float32), (objects, np.arange(len(nodes)))), shape=(count, len(nodes))
        )
        groups = _united(member, covers)
        votes = _votes(groups, covers, nodes, views, config)
        both = (votes.has_say @ votes.has_say.T).tocoo()
        if step == 0:  # from what 19 of 20 pairs have not, down to one view
            wanted = np.maximum(np.quantile(both.data, np.linspace(0.95, 0, config.rounds)), 1)
        agree = np.asarray((votes.inside @ votes.inside.T).tocsr()[both.row, both.col]).ravel()
        sizes = np.asarray(groups.sum(1)).ravel()
        common = np.asarray((groups @ groups.T).tocsr()[both.row, both.col]).ravel()
        same_place = common > config.overlap * np.minimum(sizes[both.row], sizes[both.col])
        needed = np.where(same_place, 0.5 * config.consensus, config.consensus)
        one = (both.data >= wanted[step]) & (agree >= needed * both.data)
        graph = sparse.csr_matrix((np.ones(one.sum()), (both.row[one], both.col[one])), shape=(count, count))
        objects = connected_components(graph, directed=False)[1][objects]
    return objects


def _consensus(
    objects: np.ndarray,
    nodes: np.ndarray,
    covers: sparse.csr_matrix,
    segments: Sequence[np.ndarray],
    config: ConsensusConfig,
) -> Consensus:
    """Objects of enough views, numbered by the voxels that they cover, the largest first."""
    found = []
    for number in range(int(objects.max(initial=-1)) + 1):
        members = np.flatnonzero(objects == number)
        views = len(np.unique(nodes[members, 0]))
        if views >= config.min_views:
            size = int((np.asarray(covers[members].sum(0)) > 0).sum())
            found.append((size, views, members))
    found.sort(key=lambda one: -one[0])
    instances = [np.full(max(int(ids.max(initial=0)), 0) + 1, UNLABELLED, np.int32) for ids in segments]
    for of_view in instances:
        of_view[BACKGROUND] = BACKGROUND
    for number, (_, _, members) in enumerate(found, 1):
        for view, segment in nodes[members]:
            instances[view][segment] = number
    return Consensus(instances, len(found), np.array([views for _, views, _ in found], np.int64))
