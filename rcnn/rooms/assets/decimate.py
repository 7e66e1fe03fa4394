"""Fewer triangles at a bounded error; texture seams and borders between surfaces stay where they are.

meshoptimizer collapses edges onto existing vertices. Vertices here are split by texture coordinates and surface, and
the library keeps such split vertices together, so textures are never smeared over a seam.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rcnn.rooms.assets.clean import WELD_TOLERANCE, drop_useless_faces
from rcnn.rooms.assets.model import Model
from rcnn.rooms.mesh import weld

# Edges may always be collapsed where that moves the surface by less than this share of the longest extent.
FREE_ERROR = 0.0006
# How far the surface may move, as a share of the longest extent, to reach the wanted number of triangles.
MAX_ERROR = 0.02


def decimate(model: Model, max_faces: int) -> Model:
    """At most about `max_faces` triangles if an error of 2 % of the longest extent allows that; ordered for packing.

    Raises ValueError with the remedy when meshoptimizer is not installed.
    """
    try:
        import meshoptimizer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("decimating models needs meshoptimizer: pip install 'instance-nerf[assets]'") from None

    vertices, uv, surface_of_vertex, faces = _split_vertices(model)
    positions = np.ascontiguousarray(vertices, np.float32)
    indices = np.ascontiguousarray(faces.ravel(), np.uint32)
    prune = meshoptimizer.SIMPLIFY_PRUNE
    for target, error, options in (
        (0, FREE_ERROR, 0),
        (3 * max_faces, MAX_ERROR, 0),
        (3 * max_faces, MAX_ERROR, prune),
    ):
        if target >= len(indices):
            continue
        result = np.zeros(len(indices), np.uint32)
        count = meshoptimizer.simplify(
            result, indices, positions, target_index_count=target, target_error=error, options=options
        )
        indices = np.ascontiguousarray(result[:count])
    faces = indices.reshape(-1, 3).astype(np.int64)
    surface = surface_of_vertex[faces[:, 0]]
    parts = []
    for number in np.unique(surface):
        part = np.ascontiguousarray(faces[surface == number].ravel(), np.uint32)
        ordered = np.zeros_like(part)
        meshoptimizer.optimize_vertex_cache(ordered, part, len(part), len(vertices))
        parts.append(ordered.reshape(-1, 3).astype(np.int64))
    faces = np.concatenate(parts)
    surface = np.repeat(np.unique(surface), [len(part) for part in parts])
    thinned = replace(
        model,
        vertices=vertices,
        faces=faces.astype(np.int32),
        uv=uv[faces],
        surface_of_face=surface.astype(np.int32),
        two_sided=np.zeros(len(faces), bool),
    )
    return drop_useless_faces(thinned)


def _split_vertices(model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3) that differ in place, texture coordinates (V, 2) or surface (V,), and faces (F, 3) of them."""
    place = weld(model.vertices, WELD_TOLERANCE * max(model.info.size))
    corner_uv = model.uv.reshape(-1, 2)
    surface = np.repeat(model.surface_of_face, 3)
    key = np.stack([place[model.faces.ravel()], *np.round(corner_uv.T * 65536), surface], 1)
    group = weld(key, 1.0)
    first = np.unique(group, return_index=True)[1]
    return model.vertices[model.faces.ravel()[first]], corner_uv[first], surface[first], group.reshape(-1, 3)
