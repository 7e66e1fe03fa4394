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
    every, place = (np.concatenate([part.ravel() for part in parts]) for parts in (maps, voxels))
    voting = (every >= 0) & (place >= 0)
    known, rows = np.unique(place[voting], return_inverse=True)
    shape = (len(known), int(every.max(initial=0)) + 1)
    votes = sparse.csr_matrix((np.ones(voting.sum(), np.float32), (rows.ravel(), every[voting])), shape=shape)
    winner = np.full(len(known) + 1, UNLABELLED, np.int32)
    if len(known):
        most = votes.max(1).toarray().ravel() > share * np.asarray(votes.sum(1)).ravel()
        winner[:-1] = np.where(most, np.asarray(votes.argmax(1)).ravel(), UNLABELLED)
    results = []
    for ids, seen in zip(maps, voxels, strict=True):
        row = np.searchsorted(known, seen).clip(max=max(len(known) - 1, 0))
        found = known[row] == seen if len(known) else np.zeros(seen.shape, bool)
        voted = winner[np.where(found, row, len(known))]
        results.append(np.where(seen < 0, ids, voted).astype(np.int32))
    return results
