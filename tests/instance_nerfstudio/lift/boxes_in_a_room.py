"""Boxes on a floor, seen from above and aslant: maps of objects and of the voxels that pixels see, both exact."""

import numpy as np

SIZE = 24
SHAPE = (SIZE, SIZE, SIZE)
# Low and high corner of every object; the last stands on the third.
BOXES = [
    ((2, 2, 1), (9, 8, 9)),
    ((13, 3, 1), (20, 9, 7)),
    ((4, 14, 1), (10, 20, 8)),
    ((14, 14, 1), (21, 21, 5)),
    ((5, 15, 8), (9, 19, 13)),
]
FLOOR = 99


def solid() -> np.ndarray:
    """Ids of voxels: 0 air, 1.. objects, 99 the floor."""
    ids = np.zeros(SHAPE, np.int32)
    ids[:, :, 0] = FLOOR
    for number, (low, high) in enumerate(BOXES, 1):
        ids[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = number
    return ids


def look(ids: np.ndarray, slope: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The object of each pixel, 0 for the floor, and the voxel that it sees."""
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    owner, voxel = np.zeros((SIZE, SIZE), np.int32), np.full((SIZE, SIZE), -1, np.int64)
    for z in range(SIZE - 1, -1, -1):
        a, b = (np.floor(p + s * (SIZE - z)).astype(int) for p, s in ((x, slope[0]), (y, slope[1])))
        inside = (a >= 0) & (a < SIZE) & (b >= 0) & (b < SIZE) & (voxel < 0)
        a, b = a.clip(0, SIZE - 1), b.clip(0, SIZE - 1)
        hit = inside & (ids[a, b, z] > 0)
        voxel[hit] = ((a * SIZE + b) * SIZE + z)[hit]
        owner[hit] = np.where(ids[a, b, z] == FLOOR, 0, ids[a, b, z])[hit]
    return owner, voxel


def views(count: int = 12) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Maps of objects and of voxels, from all around."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    pairs = [look(solid(), (0.5 * np.cos(a), 0.5 * np.sin(a))) for a in angles]
    return [owner for owner, _ in pairs], [voxel for _, voxel in pairs]


def shuffled(owners: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Numbers of segments that mean nothing beyond their view; none is skipped. Unlabelled pixels stay so."""
    result = []
    for owner in owners:
        known = np.unique(owner[owner > 0])
        names = np.zeros(int(owner.max(initial=0)) + 1, np.int32)
        names[known] = 1 + rng.permutation(len(known))
        result.append(np.where(owner < 0, -1, names[np.maximum(owner, 0)]).astype(np.int32))
    return result


def ragged(owners: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Maps whose pixels each come from a place up to a pixel away."""
    result = []
    for owner in owners:
        rows, columns = (np.indices(owner.shape) + rng.integers(-1, 2, (2, *owner.shape))).clip(0, SIZE - 1)
        result.append(owner[rows, columns])
    return result
