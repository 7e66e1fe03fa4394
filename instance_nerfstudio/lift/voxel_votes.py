"""One id for every voxel of a surface: what most of the pixels that see it say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32
from scipy import sparse

from instance_nerfstudio.masks.instance_masks import UNLABELLED


def vote(
    maps: Sequence[Int32[np.ndarray, "H W"]], voxels: Sequence[Int[np.ndarray, "H W"]], share: float = 0.5
) -> list[Int32[np.ndarray, "H W"]]:
    """Maps of objects in which all pixels that see a voxel have one id: what more than a share of them had.

    Args:
        maps: of each view, -1 unlabelled, 0 background, 1..K; unlabelled pixels have no vote.
        voxels: the voxel that each pixel sees, -1 for none: such pixels stay as they are.
        share: of the votes; where nothing has more, and where nobody votes, pixels are unlabelled.
    """
    known, winner = _winners(maps, voxels, share)
    winner = np.append(winner, np.int32(UNLABELLED))
    results = []
    for ids, seen in zip(maps, voxels, strict=True):
        row = np.searchsorted(known, seen).clip(max=max(len(known) - 1, 0))
        found = known[row] == seen if len(known) else np.zeros(seen.shape, bool)
        voted = winner[np.where(found, row, len(known))]
        results.append(np.where(seen < 0, ids, voted).astype(np.int32))
    return results


def vote_voxels(
    maps: Sequence[Int32[np.ndarray, "H W"]],
    voxels: Sequence[Int[np.ndarray, "H W"]],
    shape: tuple[int, int, int],
    share: float = 0.5,
) -> Int32[np.ndarray, "X Y Z"]:
    """The same for the voxels themselves: 0 where no object has more than a share of the votes.

    Args:
        maps, voxels, share: as for `vote`.
        shape: voxels of the grid along x, y and z.
    """
    known, winner = _winners(maps, voxels, share)
    result = np.zeros(shape, np.int32)
    result.reshape(-1)[known] = np.maximum(winner, 0)
    return result


def _winners(
    maps: Sequence[np.ndarray], voxels: Sequence[np.ndarray], share: float
) -> tuple[Int[np.ndarray, "V"], Int32[np.ndarray, "V"]]:
    """Voxels with any vote, ascending, and what each is."""
    none = np.zeros(0, np.int64)
    every, place = (np.concatenate([none, *(part.ravel() for part in parts)]) for parts in (maps, voxels))
    voting = (every >= 0) & (place >= 0)
    known, rows = np.unique(place[voting], return_inverse=True)
    if not len(known):
        return known, np.zeros(0, np.int32)
    shape = (len(known), int(every.max()) + 1)
    votes = sparse.csr_matrix((np.ones(voting.sum(), np.float32), (rows.ravel(), every[voting])), shape=shape)
    most = votes.max(1).toarray().ravel() > share * np.asarray(votes.sum(1)).ravel()
    return known, np.where(most, np.asarray(votes.argmax(1)).ravel(), UNLABELLED).astype(np.int32)
