"""The visible faces of a grid's opaque voxels, as coloured squares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8


@dataclass(frozen=True, eq=False)
class ColouredFaces:
    """Triangles of one colour each, in voxel units, counter-clockwise seen from outside."""

    vertices: Float32[np.ndarray, "V 3"]
    triangles: Int64[np.ndarray, "T 3"]
    colours: UInt8[np.ndarray, "V 3"]
    """sRGB of each vertex; no two squares share vertices."""


def voxel_surface(
    features: Float32[np.ndarray, "4 X Y Z"],
    seen: Bool[np.ndarray, "X Y Z"] | None,
    min_alpha: float,
    max_faces: int,
) -> ColouredFaces:
    """Faces between opaque voxels and free ones.

    What lies outside the grid or was not seen counts as opaque, so a room's walls and ceiling have an inner face only,
    and viewers that cull back faces show the room from outside as an open doll's house.

    If there were more than `max_faces`, voxels are merged 2 by 2 by 2 until there are not: the most opaque of the
    eight counts, and colours are averaged by opacity.

    Args:
        features: red, green, blue and opacity in [0, 1].
        seen: voxels that a camera saw; None for all.
        min_alpha: voxels of less opacity are free.
        max_faces: limit on squares.
    """
    size = 1
    while True:
        opaque = features[3] >= min_alpha
        drawn = opaque if seen is None else opaque & seen
        solid = opaque if seen is None else opaque | ~seen
        solid = np.pad(solid, 1, constant_values=True)
        sides = [(axis, step) for axis in range(3) for step in (-1, 1)]
        places = [np.argwhere(drawn & ~_neighbours(solid, axis, step)) for axis, step in sides]
        if sum(map(len, places)) <= max_faces or max(features.shape[1:]) == 1:
            break
        features, seen, size = _halved(features), None if seen is None else _any_of_eight(seen), 2 * size
    squares = [at[:, None] + _square(axis, step) for (axis, step), at in zip(sides, places, strict=True)]
    at = np.concatenate(places)
    colours = np.round(255 * features[:3, at[:, 0], at[:, 1], at[:, 2]].T).astype(np.uint8)
    first = 4 * np.arange(len(at))[:, None, None]
    return ColouredFaces(
        size * np.concatenate(squares).reshape(-1, 3).astype(np.float32),
        (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3),
        colours.repeat(4, axis=0),
    )


def _neighbours(padded: np.ndarray, axis: int, step: int) -> np.ndarray:
    inner = [slice(1, -1)] * 3
    inner[axis] = slice(1 + step, padded.shape[axis] - 1 + step)
    return padded[tuple(inner)]


def _square(axis: int, step: int) -> np.ndarray:
    """Corners (4, 3) of a voxel's face, counter-clockwise seen from outside."""
    right, up = (axis + 1) % 3, (axis + 2) % 3
    corners = np.zeros((4, 3), np.int64)
    corners[:, axis] = (step + 1) // 2
    corners[[1, 2], right] = 1
    corners[[2, 3], up] = 1
    return corners if step > 0 else corners[::-1]


def _eights(volume: np.ndarray) -> np.ndarray:
    """(..., X, Y, Z) -> (..., ceil(X / 2), ceil(Y / 2), ceil(Z / 2), 8), padded with zeros."""
    x, y, z = volume.shape[-3:]
    padding = [(0, 0)] * (volume.ndim - 3) + [(0, n % 2) for n in (x, y, z)]
    x, y, z = -(-x // 2), -(-y // 2), -(-z // 2)
    parts = np.pad(volume, padding).reshape(*volume.shape[:-3], x, 2, y, 2, z, 2)
    return np.moveaxis(parts, (-5, -3, -1), (-3, -2, -1)).reshape(*volume.shape[:-3], x, y, z, 8)


def _any_of_eight(volume: np.ndarray) -> np.ndarray:
    return _eights(volume).any(-1)


def _halved(features: np.ndarray) -> np.ndarray:
    parts = _eights(features)
    weights = parts[3] + np.float32(1e-6)
    colours = (parts[:3] * weights).sum(-1) / weights.sum(-1)
    return np.concatenate([colours, parts[3].max(-1)[None]])
