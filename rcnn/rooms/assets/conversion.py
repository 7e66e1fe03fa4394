"""From a packed model to a `Mesh` that rooms are built of, and the pictures that its materials name."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

from rcnn.rooms.assets.model import MAX_ALBEDO, Model, Surface
from rcnn.rooms.mesh import Material, Mesh, weld

# Light is stored at the vertices, so no edge may be much longer than this (metres) ...
LIGHT_STEP = 0.14
# ... unless the model would get more triangles than this, or than this many times its own.
FEW_FACES = 6000
MAX_GROWTH = 2.5
# Edges sharper than this stay sharp.
CREASE_COSINE = float(np.cos(np.radians(42)))
# The two sides of a sheet are shaded apart, so they must not coincide (metres).
SHEET_GAP = 0.001
# Surfaces without a picture get a faint grain: a radiance field finds nothing to hold on to in a flat colour.
PLAIN_TEXTURE = "paper"


def model_mesh(model: Model) -> Mesh:
    """The model about the origin: footprint centred, standing on z = 0, front towards -y, metres.

    Its triangles are cut where light needs that, its normals are smooth except at creases, and sheets that are seen
    from both sides have two.
    """
    group = weld(model.vertices, 1e-5 * max(model.info.size))
    vertices = model.vertices[np.unique(group, return_index=True)[1]]
    faces, uv, surface, two_sided = group[model.faces], model.uv, model.surface_of_face, model.two_sided
    solid = _normals(vertices, faces)[1] > 1e-10
    faces, uv, surface, two_sided = faces[solid], uv[solid], surface[solid], two_sided[solid]
    step = LIGHT_STEP
    limit = max(FEW_FACES, MAX_GROWTH * len(faces))
    while True:
        cut_vertices, cut_faces, cut_uv, source = subdivide(vertices, faces, uv, step)
        if len(cut_faces) <= limit:
            break
        step *= 1.3
    vertices, faces, uv = cut_vertices, cut_faces, cut_uv
    surface, two_sided = surface[source], two_sided[source]
    vertices, normals, faces = _split_at_creases(vertices, faces)
    back = np.unique(faces[two_sided])
    number = np.zeros(len(vertices), np.int64)
    number[back] = len(vertices) + np.arange(len(back))
    behind = vertices[back] - SHEET_GAP * normals[back]
    behind[:, 2] = np.maximum(behind[:, 2], 0.0)  # a sheet on the floor has nothing below it
    faces = np.concatenate([faces, number[faces[two_sided]][:, ::-1]])
    uv = np.concatenate([uv, uv[two_sided][:, ::-1]])
    surface = np.concatenate([surface, surface[two_sided]])
    vertices, normals = np.concatenate([vertices, behind]), np.concatenate([normals, -normals[back]])
    plain = np.array([part.image is None for part in model.surfaces])[surface]
    uv[plain] = _box_coordinates(vertices[faces[plain]])
    materials = [Material(texture_name(part), part.colour) for part in model.surfaces]
    return Mesh(
        vertices=vertices,
        normals=normals,
        faces=faces.astype(np.int64),
        uv=uv,
        materials=tuple(materials),
        material_of_face=surface.astype(np.int64),
    )


def model_images(model: Model) -> dict[str, np.ndarray]:
    """(H, W, 3) uint8 sRGB pictures by texture name, for `TextureAtlas.with_images`.

    Raises ValueError when a picture cannot be decoded.
    """
    images = {}
    for surface in model.surfaces:
        if surface.image is not None:
            pixels = cv2.imdecode(np.frombuffer(surface.image, np.uint8), cv2.IMREAD_COLOR)
            if pixels is None:
                raise ValueError(f"{model.info.model_id}: one of its pictures is damaged")
            # as with colours: light must settle
            images[texture_name(surface)] = np.minimum(pixels[..., ::-1], round(255 * MAX_ALBEDO ** (1 / 2.2)))
    return images


def texture_name(surface: Surface) -> str:
    """Name of the texture of a surface; equal pictures have equal names."""
    return PLAIN_TEXTURE if surface.image is None else f"image:{hashlib.sha256(surface.image).hexdigest()[:16]}"


def subdivide(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Halves all edges longer than `step` until none is left; neighbours agree on their common edge.

    Takes and returns vertices (V, 3), faces (F, 3) and corner coordinates (F, 3, 2); the last result (F,) is the number
    of the face that each piece was cut from.
    """
    source = np.arange(len(faces))
    while True:
        start, end = faces, faces[:, [1, 2, 0]]  # edge k runs from corner k to the next
        length = np.linalg.norm(vertices[start] - vertices[end], axis=2)
        long = length > step
        if not long.any():
            return vertices, faces, uv, source
        # only the longest edges of a triangle: halving all three of a sliver would never make it shorter
        long &= length > 0.6 * length.max(1, keepdims=True)
        key = np.minimum(start, end) * len(vertices) + np.maximum(start, end)
        cut = np.unique(key[long])
        middle = (vertices[cut // len(vertices)] + vertices[cut % len(vertices)]) / 2
        # a neighbour may cut an edge that this triangle alone would not
        at = np.minimum(np.searchsorted(cut, key), len(cut) - 1)
        halved = cut[at] == key
        middles = np.where(halved, len(vertices) + at, -1)
        vertices = np.concatenate([vertices, middle])
        faces, uv, source = _cut_faces(faces, uv, source, middles)


# How a triangle abc is cut, by how many of its edges are halved: x, y and z are the middles of ab, bc and ca. A single
# halved edge is turned to ab, a single whole one to ca.
PIECES = {0: ("abc",), 1: ("axc", "xbc"), 2: ("xby", "axy", "ayc"), 3: ("axz", "xby", "yzx", "zyc")}


def _cut_faces(
    faces: np.ndarray, uv: np.ndarray, source: np.ndarray, middles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces of faces (F, 3) with coordinates (F, 3, 2) and sources (F,); middles (F, 3) are vertices or -1."""
    halved = middles >= 0
    corner_index = np.concatenate([faces, middles], 1)
    corner_uv = np.concatenate([uv, (uv + uv[:, [1, 2, 0]]) / 2], 1)
    pieces = []
    for count, names in PIECES.items():
        rows = np.nonzero(halved.sum(1) == count)[0]
        turn = np.zeros(len(rows), np.int64)
        if count == 1:
            turn = np.argmax(halved[rows], axis=1)
        elif count == 2:
            turn = (np.argmin(halved[rows], axis=1) + 1) % 3
        for corners in names:
            columns = np.stack(
                ["abcxyz".index(name) // 3 * 3 + ("abcxyz".index(name) + turn) % 3 for name in corners], 1
            )
            pieces.append((corner_index[rows[:, None], columns], corner_uv[rows[:, None], columns], source[rows]))
    index, coordinates, origin = zip(*pieces, strict=True)
    return np.concatenate(index), np.concatenate(coordinates), np.concatenate(origin)


def _normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals (F, 3) and areas (F,)."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1)
    return normal / np.maximum(length, 1e-30)[:, None], length / 2


def _split_at_creases(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3), their normals and faces; a corner's normal is the mean over faces around it without a crease."""
    normal, area = _normals(vertices, faces)
    owner = faces.ravel()
    face = np.repeat(np.arange(len(faces)), 3)
    order = np.argsort(owner, kind="stable")
    degree = np.bincount(owner, minlength=len(vertices))
    first = np.cumsum(degree) - degree
    # all pairs of corners at one vertex
    pairs = degree[owner]
    left = np.repeat(np.arange(len(owner)), pairs)
    right = order[np.repeat(first[owner], pairs) + np.arange(len(left)) - np.repeat(np.cumsum(pairs) - pairs, pairs)]
    smooth = np.einsum("nk,nk->n", normal[face[left]], normal[face[right]]) > CREASE_COSINE
    left, right = left[smooth], face[right[smooth]]
    weighted = normal[right] * area[right, None]
    total = np.stack([np.bincount(left, weighted[:, axis], len(owner)) for axis in range(3)], 1)
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    group = weld(np.column_stack([owner, np.round(total * 50)]), 1.0)
    chosen = np.unique(group, return_index=True)[1]
    return vertices[owner[chosen]], total[chosen], group.reshape(-1, 3)


def _box_coordinates(corners: np.ndarray) -> np.ndarray:
    """(F, 3, 2) texture coordinates in metres: corners (F, 3, 3) seen along the axis that each face looks to."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    axis = np.argmax(np.abs(normal), axis=1)
    pick = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    return np.take_along_axis(corners, pick[:, None, :], 2)
