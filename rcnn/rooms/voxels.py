"""Voxel truth: which instance fills which cell of a grid over the room.

Voxel i covers [i, i + 1) in voxel units, its centre is `min + (i + 0.5) * edge`. A voxel belongs to a piece when its
centre lies inside one of the piece's solids, or when the piece's surface passes through it and no piece has its centre;
so leaves and screens thinner than a voxel are there too. What its surface encloses is inside as well: whether closed
furniture is solid or has shelves inside is the modeller's choice, and no photo tells it. Models made by hand are not
always solid: a vertical line that enters a piece more often than it leaves it says nothing about inside and outside, so
there a voxel is inside only when the piece's surface and the floor enclose it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rcnn.rooms.piece import Piece

# Column centres are shifted by this share of a voxel: a ray exactly along an edge would count two triangles or none.
NUDGE = (1.37e-4, 2.11e-4)


@dataclass(frozen=True)
class VoxelGrid:
    """Instance numbers on a regular grid of cubes."""

    instances: np.ndarray
    """(W, L, H) int32, index order (x, y, z); 0 is background."""
    surface: np.ndarray
    """(W, L, H) int32: the piece with most surface in a voxel; 0 where there is none."""
    bbox_min: np.ndarray
    """(3,) float64, metres."""
    bbox_max: np.ndarray
    """(3,) float64, metres; the room's size rounded up to whole voxels."""


def voxelise(pieces: Sequence[Piece], size: np.ndarray, resolution: int, standing: Collection[int] = ()) -> VoxelGrid:
    """Grid over (0, 0, 0)..size with `resolution` voxels along the longest side.

    `standing` are indices of pieces that stand on others. They own every voxel that their surface touches: a laptop is
    thinner than a voxel, and the desk below it would take all of its voxels.
    """
    edge = float(np.max(size)) / resolution
    shape = np.ceil(size / edge - 1e-6).astype(int)
    instances = np.zeros(shape, np.int32)
    surface_count = np.zeros(shape, np.int64)
    skin, skin_count = np.zeros(shape, np.int32), np.zeros(shape, np.int64)
    order = [k for k in range(len(pieces)) if k not in standing] + sorted(standing)
    for number, piece in ((k + 1, pieces[k]) for k in order):
        low = np.clip(np.floor(piece.mesh.bounds()[0] / edge).astype(int) - 1, 0, shape - 1)
        high = np.clip(np.ceil(piece.mesh.bounds()[1] / edge).astype(int) + 1, 1, shape)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        corners = piece.mesh.vertices[piece.mesh.faces] / edge - low
        inside, unbalanced = _crossings(corners, high - low)
        surface = _surface(corners, high - low)
        if unbalanced.any():
            inside = np.where(unbalanced[..., None], _enclosed(surface > 0, on_floor=True), inside)
        ids, counts = instances[window], surface_count[window]
        # where two pieces touch, the one with its centre there wins, then the one with more surface
        touched = (surface > counts) & ~inside
        ids[touched] = number
        counts[touched] = surface[touched]
        ids[inside] = number
        counts[inside] = np.iinfo(np.int64).max
        if number - 1 in standing:
            ids[surface > 0] = number
            counts[surface > 0] = np.iinfo(np.int64).max
        # what other pieces have there, now or later, stays theirs
        ids[_enclosed(surface > 0, on_floor=low[2] == 0) & (ids == 0)] = number
        most = surface > skin_count[window]
        skin[window][most] = number
        skin_count[window][most] = surface[most]
    return VoxelGrid(instances, skin, np.zeros(3), shape * edge)


def _inside(corners: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Voxels (W, L, H) bool whose centres have a positive winding number; corners (F, 3, 3) in voxel units."""
    return _crossings(corners, shape)[0]


def _enclosed(surface: np.ndarray, on_floor: bool) -> np.ndarray:
    """(W, L, H) bool: voxels without surface that cannot be reached from outside; the floor closes what is on it."""
    free = np.pad(~surface, 1, constant_values=True)
    if on_floor:
        free[..., 0] = False
    seed = np.zeros_like(free)
    seed[[0, -1]] = seed[:, [0, -1]] = seed[..., [0, -1]] = True
    reached = ndimage.binary_propagation(seed & free, mask=free)
    return ~np.asarray(reached, bool)[1:-1, 1:-1, 1:-1] & ~surface


def _crossings(corners: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (W, L, H) bool with a positive winding number, and columns (W, L) bool that do not end at zero.

    Solids of one piece may overlap: crossing into a second one only raises the winding number.
    """
    flat = corners[..., :2] - 0.5 - np.array(NUDGE)
    a, b, c = flat[:, 0], flat[:, 1], flat[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    first = np.ceil(flat.min(1)).astype(int)
    extent = np.maximum(np.floor(flat.max(1)).astype(int) - first + 1, 0)
    triangle, column = _spread(first, extent)
    keep = np.abs(area[triangle]) > 1e-12
    triangle, column = triangle[keep], column[keep]

    def edge(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        p, q = p[triangle], q[triangle]
        return (q[:, 0] - p[:, 0]) * (column[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (column[:, 0] - p[:, 0])

    weights = np.stack([edge(b, c), edge(c, a), edge(a, b)], 1) / area[triangle, None]
    hit = (weights >= 0).all(1) & (column >= 0).all(1) & (column < shape[:2]).all(1)
    triangle, column, weights = triangle[hit], column[hit], weights[hit]
    height = np.einsum("nc,nc->n", weights, corners[triangle, :, 2])
    level = np.clip(np.ceil(height - 0.5).astype(int), 0, shape[2])
    winding = np.zeros((shape[0], shape[1], shape[2] + 1), np.int32)
    # going up, a face that looks down is where a solid begins
    np.add.at(winding, (column[:, 0], column[:, 1], level), -np.sign(area[triangle]).astype(np.int32))
    total = np.cumsum(winding, axis=2)
    return total[:, :, :-1] > 0, total[:, :, -1] != 0


def _spread(first: np.ndarray, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All columns of all rectangles: rectangle numbers (N,) and integer positions (N, 2)."""
    count = extent[:, 0] * extent[:, 1]
    owner = np.repeat(np.arange(len(first)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    across = np.maximum(extent[owner, 1], 1)
    return owner, first[owner] + np.stack([within // across, within % across], 1)


def _surface(corners: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """(W, L, H) int64 number of surface samples in each voxel, from points at most about 0.4 voxels apart."""
    longest = np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=2).max(1)
    pieces = np.ceil(longest / 0.4).astype(int)
    counts = np.zeros(int(np.prod(shape)), np.int64)
    for n in np.unique(pieces):
        i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
        # centres of the n * n small triangles
        upright = (i + j) < n
        inverted = (i + j) < n - 1
        second = np.concatenate([i[upright] + 1 / 3, i[inverted] + 2 / 3]) / n
        third = np.concatenate([j[upright] + 1 / 3, j[inverted] + 2 / 3]) / n
        weights = np.stack([1 - second - third, second, third], 1)
        points = np.einsum("sc,fck->fsk", weights, corners[pieces == n]).reshape(-1, 3)
        cell = np.floor(points).astype(int)
        cell = cell[((cell >= 0) & (cell < shape)).all(1)]
        counts += np.bincount(np.ravel_multi_index(tuple(cell.T), tuple(shape)), minlength=len(counts))
    return counts.reshape(shape)
