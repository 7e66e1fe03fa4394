"""Triangle meshes with baked-in materials: the common currency of all shape, furniture and shell builders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

# One millimetre of rounding tolerance would merge the two faces of a leaf; a tenth does not.
WELD_DISTANCE = 1e-4


@dataclass(frozen=True)
class Material:
    """What a surface is made of."""

    texture: str
    """Name of a procedural texture (see `textures.py`); its values multiply the colour."""
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Diffuse albedo, linear RGB in [0, 1]."""
    emission: float = 0.0
    """Radiance given off per unit of albedo, in the same units as the lights' radiance."""
    gloss: float = 0.0
    """Share of the mirror-like reflection of the lights that the surface shows: 0 is matt, 1 is polished."""


def hex_colour(code: str) -> tuple[float, float, float]:
    """Linear RGB in [0, 1] of an sRGB colour written as `"#rrggbb"`."""
    srgb = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(linear[0]), float(linear[1]), float(linear[2])


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in metres, z up; solids are closed and wound counter-clockwise seen from outside."""

    vertices: np.ndarray
    """(V, 3) float64."""
    normals: np.ndarray
    """(V, 3) float64, unit length; vertices are split where the surface has a crease."""
    faces: np.ndarray
    """(F, 3) int64 into the vertices."""
    uv: np.ndarray
    """(F, 3, 2) float64, texture coordinates of the three corners: metres, or 0..1 over a stretched panel."""
    materials: tuple[Material, ...]
    """The distinct materials."""
    material_of_face: np.ndarray
    """(F,) int64 into the materials."""

    @cached_property
    def _bounds(self) -> np.ndarray:
        return np.stack([self.vertices.min(0), self.vertices.max(0)])

    def bounds(self) -> np.ndarray:
        """(2, 3) smallest and largest coordinates."""
        return self._bounds

    def moved(self, offset: ArrayLike = (0.0, 0.0, 0.0), yaw: float = 0.0, pitch: float = 0.0) -> Mesh:
        """Rotated by `pitch` about x, then by `yaw` about z (radians, counter-clockwise), then shifted (metres)."""
        cp, sp, cy, sy = np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
        rotation = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        vertices = self.vertices @ rotation.T + np.asarray(offset, float)
        return replace(self, vertices=vertices, normals=self.normals @ rotation.T)

    def deformed(self, vertices: np.ndarray) -> Mesh:
        """The same surface with other vertex positions (V, 3), shaded smoothly everywhere."""
        corners = vertices[self.faces]
        face_normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        group = weld(vertices)
        summed = np.zeros((group.max() + 1, 3))
        for corner in range(3):
            np.add.at(summed, group[self.faces[:, corner]], face_normal)
        normals = summed[group]
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        return replace(self, vertices=vertices, normals=normals)


def weld(rows: np.ndarray, tolerance: float = WELD_DISTANCE) -> np.ndarray:
    """(N,) group number of every row of (N, D): rows equal after rounding to `tolerance` share a group.

    Groups are numbered by first appearance, so the result depends on nothing but the rows.
    """
    keys = np.ascontiguousarray(np.round(rows / tolerance).astype(np.int64))
    _, first, inverse = np.unique(
        keys.view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1]))).ravel(),
        return_index=True,
        return_inverse=True,
    )
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(len(first))
    return rank[inverse.ravel()]


def join(meshes: Sequence[Mesh]) -> Mesh:
    """All meshes as one."""
    materials: dict[Material, int] = {}
    faces, material_of_face, vertex_count = [], [], 0
    for mesh in meshes:
        renumber = np.array([materials.setdefault(material, len(materials)) for material in mesh.materials])
        material_of_face.append(renumber[mesh.material_of_face])
        faces.append(mesh.faces + vertex_count)
        vertex_count += len(mesh.vertices)
    return Mesh(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        normals=np.concatenate([mesh.normals for mesh in meshes]),
        faces=np.concatenate(faces),
        uv=np.concatenate([mesh.uv for mesh in meshes]),
        materials=tuple(materials),
        material_of_face=np.concatenate(material_of_face),
    )
