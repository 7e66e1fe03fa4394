"""A furnished room as flat arrays, ready to be sent to ray casting processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnn.rooms.mesh import Mesh, weld
from rcnn.rooms.piece import FurnishedRoom
from rcnn.rooms.shell import AreaLight
from rcnn.rooms.textures import TextureAtlas


@dataclass(frozen=True)
class Scene:
    """All triangles of a room; vertices of one instance with the same position and normal are merged."""

    vertices: np.ndarray
    """(V, 3) float32, metres, world frame."""
    normals: np.ndarray
    """(V, 3) float32, unit length."""
    faces: np.ndarray
    """(F, 3) int32."""
    uv: np.ndarray
    """(F, 3, 2) float32, texture coordinates of the corners."""
    metres_per_uv: np.ndarray
    """(F,) float32, length on the triangle of one unit of texture coordinates."""
    texture: np.ndarray
    """(F,) int32 into the atlas."""
    colour: np.ndarray
    """(F, 3) float32, linear albedo to be multiplied by the texture."""
    emission: np.ndarray
    """(F,) float32, radiance per unit of albedo."""
    gloss: np.ndarray
    """(F,) float32, strength of mirrored lights."""
    instance: np.ndarray
    """(F,) int32: 0 for the shell, 1..K for the pieces."""
    lights: tuple[AreaLight, ...]
    """Rectangles that are sampled for direct light."""
    size: np.ndarray
    """(3,) float64, inner size of the room in metres."""
    atlas: TextureAtlas
    """Textures of all faces."""

    @property
    def num_instances(self) -> int:
        """K."""
        return int(self.instance.max())


def build_scene(room: FurnishedRoom, atlas: TextureAtlas) -> Scene:
    """Flattens the shell and all pieces."""
    meshes = [room.shell.mesh, *(piece.mesh for piece in room.pieces)]
    numbers = {name: number for number, name in enumerate(atlas.names)}
    vertices, normals, faces, count = [], [], [], 0
    textures, colours, emissions, glosses = [], [], [], []
    for mesh in meshes:
        # a hundredth of the normal, so that normals merge within about half a degree
        used, corner = np.unique(mesh.faces, return_inverse=True)  # the tips of leaves belong to no triangle
        group = weld(np.concatenate([mesh.vertices[used], 0.01 * mesh.normals[used]], 1))
        first = np.unique(group, return_index=True)[1]
        vertices.append(mesh.vertices[used[first]])
        normals.append(mesh.normals[used[first]])
        faces.append(group[corner.reshape(-1, 3)] + count)
        count += len(first)
        textures.append(np.array([numbers[material.texture] for material in mesh.materials])[mesh.material_of_face])
        colours.append(np.array([material.colour for material in mesh.materials])[mesh.material_of_face])
        emissions.append(np.array([material.emission for material in mesh.materials])[mesh.material_of_face])
        glosses.append(np.array([material.gloss for material in mesh.materials])[mesh.material_of_face])
    return Scene(
        vertices=np.concatenate(vertices).astype(np.float32),
        normals=np.concatenate(normals).astype(np.float32),
        faces=np.concatenate(faces).astype(np.int32),
        uv=np.concatenate([mesh.uv for mesh in meshes]).astype(np.float32),
        metres_per_uv=np.concatenate([_metres_per_uv(mesh) for mesh in meshes]).astype(np.float32),
        texture=np.concatenate(textures).astype(np.int32),
        colour=np.concatenate(colours).astype(np.float32),
        emission=np.concatenate(emissions).astype(np.float32),
        gloss=np.concatenate(glosses).astype(np.float32),
        instance=np.repeat(np.arange(len(meshes), dtype=np.int32), [len(mesh.faces) for mesh in meshes]),
        lights=room.shell.lights,
        size=np.array(room.shell.size),
        atlas=atlas,
    )


def _metres_per_uv(mesh: Mesh) -> np.ndarray:
    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    a, b = mesh.uv[:, 1] - mesh.uv[:, 0], mesh.uv[:, 2] - mesh.uv[:, 0]
    uv_area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    return np.sqrt(area / np.maximum(uv_area, 1e-12)).clip(1e-3, 1e2)
