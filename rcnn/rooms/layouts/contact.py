"""Whether two pieces really meet, and on what height things can stand: tests on surfaces instead of boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rcnn.rooms.mesh import Mesh
from rcnn.rooms.piece import Piece

# Surfaces that share no cell of this size, nor neighbouring ones, are at least one cell apart.
CONTACT_CELL = 0.012
SUPPORT_CELL = 0.02
# Steps on a top that do not make a thing tilt (metres).
FLAT = 0.008


def sample_surface(corners: np.ndarray, spacing: float) -> np.ndarray:
    """(N, 3) points on triangles (F, 3, 3), at most about `spacing` apart."""
    if not len(corners):
        return np.zeros((0, 3))
    longest = np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=2).max(1)
    pieces = np.maximum(np.ceil(longest / spacing).astype(int), 1)
    points = []
    for n in np.unique(pieces):
        i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
        inside = i + j <= n
        second, third = i[inside] / n, j[inside] / n
        weights = np.stack([1 - second - third, second, third], 1)
        points.append(np.einsum("sc,fck->fsk", weights, corners[pieces == n]).reshape(-1, 3))
    return np.concatenate(points)


def surfaces_meet(a: Mesh, b: Mesh, cell: float = CONTACT_CELL) -> bool:
    """Whether two surfaces come closer than about `cell` metres.

    Never false for surfaces that cut each other: their samples then lie in the same or in neighbouring cells.
    """
    low = np.maximum(a.bounds()[0], b.bounds()[0]) - 2 * cell
    high = np.minimum(a.bounds()[1], b.bounds()[1]) + 2 * cell
    if (low > high).any():
        return False
    shape = np.ceil((high - low) / cell).astype(int) + 1
    grids = []
    for mesh in (a, b):
        corners = mesh.vertices[mesh.faces]
        near = ((corners.max(1) >= low) & (corners.min(1) <= high)).all(1)
        index = np.floor((sample_surface(corners[near], 0.45 * cell) - low) / cell).astype(int)
        index = index[((index >= 0) & (index < shape)).all(1)]
        grid = np.zeros(shape, bool)
        grid[tuple(index.T)] = True
        grids.append(grid)
    return bool((ndimage.binary_dilation(grids[0], np.ones((3, 3, 3))) & grids[1]).any())


@dataclass(frozen=True)
class Support:
    """The top of a piece as a height map in the piece's own frame."""

    heights: np.ndarray
    """(X, Y) float64, world height of what is seen from above, -inf beside the piece."""
    level: float
    """Height of its largest flat part."""
    corner: np.ndarray
    """(2,) metres from the box's centre to the map's first corner."""


def find_support(piece: Piece) -> Support:
    """Looks at a piece from above."""
    x, y, _, width, length, _, yaw = piece.box
    cos, sin = np.cos(yaw), np.sin(yaw)
    corners = piece.mesh.vertices[piece.mesh.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    points = sample_surface(corners[normal[:, 2] > 0], 0.8 * SUPPORT_CELL)
    flat = points[:, :2] - (x, y)
    local = np.stack([cos * flat[:, 0] + sin * flat[:, 1], -sin * flat[:, 0] + cos * flat[:, 1]], 1)
    corner = -np.array([width, length]) / 2
    shape = np.maximum(np.floor(np.array([width, length]) / SUPPORT_CELL).astype(int), 1)
    cell = np.floor((local - corner) / SUPPORT_CELL).astype(int)
    cell = np.clip(cell, 0, shape - 1)
    heights = np.full(shape, -np.inf)
    np.maximum.at(heights, tuple(cell.T), points[:, 2])
    seen = heights[np.isfinite(heights)]
    bins = np.floor(seen / FLAT).astype(int)
    count = np.bincount(bins - bins.min())
    together = count + np.append(count[1:], 0)
    best = int(np.argmax(together)) + bins.min()
    members = seen[(bins == best) | (bins == best + 1)]
    return Support(heights, float(np.median(members)), corner)


def place_on(
    support: Support, piece: Piece, size: tuple[float, float], shift: tuple[float, float], turn: float
) -> float | None:
    """Height at which something of `size` can stand on a piece, None when it would tilt or hang over.

    `shift` is its middle in the piece's frame, `turn` its yaw relative to the piece.
    """
    reach = np.abs(np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])) @ (np.array(size) / 2)
    low = np.floor((np.array(shift) - reach - support.corner) / SUPPORT_CELL).astype(int)
    high = np.ceil((np.array(shift) + reach - support.corner) / SUPPORT_CELL).astype(int)
    if (low < 0).any() or (high > support.heights.shape).any():
        return None
    under = support.heights[low[0] : high[0], low[1] : high[1]]
    known = under[np.isfinite(under)]
    if known.size < 0.9 * under.size or np.abs(known - support.level).max() > FLAT:
        return None
    return float(known.max())
