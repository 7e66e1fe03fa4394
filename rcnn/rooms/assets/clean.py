"""Cleaning of a downloaded mesh: no doubled or collapsed triangles, all fronts outwards, sheets marked as two-sided.

Such models are made for viewers that light both sides alike, so their windings are a matter of luck. Light baked at the
vertices needs the true outside; it is found by looking around from both sides of every triangle.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
from scipy import sparse

from rcnn.rooms.assets.model import Model, face_areas
from rcnn.rooms.mesh import weld

# Relative to the longest edge of a model.
WELD_TOLERANCE = 1e-6
RAYS = 32
# A triangle whose back sees this share of the outside is seen from behind.
TWO_SIDED_SHARE = 0.08
# A patch that sees hardly more on one side than on the other is turned by its volume instead.
UNDECIDED_SHARE = 0.02


def drop_useless_faces(model: Model) -> Model:
    """Without collapsed triangles, and with one of each set of triangles that cover each other."""
    group = weld(model.vertices, WELD_TOLERANCE * max(model.info.size))
    corners = np.sort(group[model.faces], axis=1)
    solid = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])
    solid &= face_areas(model.vertices, model.faces) > 1e-12
    first = np.zeros(len(solid), bool)
    first[np.unique(weld(corners, 1.0), return_index=True)[1]] = True
    return keep_faces(model, solid & first)


def keep_faces(model: Model, keep: np.ndarray) -> Model:
    """The triangles chosen by a mask (F,), and the vertices and surfaces that they use."""
    used, faces = np.unique(model.faces[keep], return_inverse=True)
    surfaces, surface_of_face = np.unique(model.surface_of_face[keep], return_inverse=True)
    return replace(
        model,
        vertices=model.vertices[used],
        faces=faces.reshape(-1, 3).astype(np.int32),
        uv=model.uv[keep],
        surfaces=tuple(model.surfaces[k] for k in surfaces),
        surface_of_face=surface_of_face.ravel().astype(np.int32),
        two_sided=model.two_sided[keep],
    )


def turn_outwards(model: Model) -> Model:
    """Every triangle counter-clockwise seen from outside; `two_sided` where its back can be seen as well."""
    front, back = visible_shares(model)
    patch, closed = _patches(model)
    area = face_areas(model.vertices, model.faces)
    vote = np.bincount(patch, area * (back - front))
    total = np.bincount(patch, area)
    corners = model.vertices[model.faces]
    volume = np.bincount(patch, np.einsum("fk,fk->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])))
    undecided = np.abs(vote) < UNDECIDED_SHARE * total
    flip_patch = np.where(undecided & closed, volume < 0, vote > 0)
    flip = flip_patch[patch]
    faces, uv = model.faces.copy(), model.uv.copy()
    faces[flip], uv[flip] = faces[flip][:, ::-1], uv[flip][:, ::-1]
    behind = np.where(flip, front, back)
    return replace(model, faces=faces, uv=uv, two_sided=behind > TWO_SIDED_SHARE)


def _patches(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """(F,) patch numbers: triangles joined over edges that both go through in opposite directions, and only they.

    The second result (patches,) tells which patches have no open edge.
    """
    group = weld(model.vertices, WELD_TOLERANCE * max(model.info.size))
    corners = group[model.faces]
    count = len(corners)
    start, end = corners.ravel(), corners[:, [1, 2, 0]].ravel()
    low, high = np.minimum(start, end), np.maximum(start, end)
    key = low * (int(group.max()) + 1) + high
    order = np.argsort(key, kind="stable")
    _, first, uses = np.unique(key[order], return_index=True, return_counts=True)
    pair = first[uses == 2]
    one, other = order[pair], order[pair + 1]
    opposite = start[one] == end[other]
    one, other = one[opposite], other[opposite]
    links = sparse.coo_matrix((np.ones(len(one), bool), (one // 3, other // 3)), (count, count))
    number, patch = sparse.csgraph.connected_components(links, directed=False)
    matched = np.zeros(3 * count, bool)
    matched[one] = matched[other] = True
    open_edges = np.bincount(patch[np.nonzero(~matched)[0] // 3], minlength=number)
    return patch, open_edges == 0


def visible_shares(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """(F,), (F,): how much of the hemisphere in front of and behind each triangle is not covered by the model.

    What stands on the floor cannot be looked into from below.
    """
    vertices, faces = model.vertices.astype(np.float32), model.faces
    scene = rtcore_scene.EmbreeScene()  # pyright: ignore[reportAttributeAccessIssue]
    triangles = np.ascontiguousarray(vertices[faces])
    geometry = TriangleMesh(scene, triangles)  # must outlive the scene's queries
    corners = model.vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    helper = np.eye(3)[np.where(np.abs(normal[:, 0]) < 0.7, 0, 1)]
    tangent = np.cross(helper, normal)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    bitangent = np.cross(normal, tangent)
    rng = np.random.default_rng(0)
    reach = max(model.info.size)
    half = np.array(model.info.size[:2]) / 2
    shares = []
    for sign in (1.0, -1.0):
        seen = np.zeros(len(faces))
        for k in range(RAYS):
            radius = np.sqrt((k + rng.random(len(faces))) / RAYS)
            angle = 2 * np.pi * (k * 0.618034 + rng.random(len(faces)))
            direction = (
                (radius * np.cos(angle))[:, None] * tangent
                + (radius * np.sin(angle))[:, None] * bitangent
                + (sign * np.sqrt(1 - radius**2))[:, None] * normal
            )
            share = np.sqrt(rng.random(len(faces)))
            second = rng.random(len(faces)) * share
            weights = np.stack([1 - share, share - second, second], 1)
            origin = np.einsum("fc,fck->fk", weights, corners) + sign * 1e-4 * reach * normal
            hit = scene.run(
                np.ascontiguousarray(origin, np.float32),
                np.ascontiguousarray(direction, np.float32),
                query="OCCLUDED",
            )
            free = np.asarray(hit) < 0
            if model.info.elevation == 0:
                down = direction[:, 2] < -1e-6
                distance = origin[:, 2] / np.maximum(-direction[:, 2], 1e-6)
                foot = np.abs(origin[:, :2] + direction[:, :2] * distance[:, None])
                free &= ~(down & (foot < half).all(1))
            seen += free
        shares.append(seen / RAYS)
    del geometry
    return shares[0], shares[1]


def open_column_share(model: Model, columns: int = 64) -> float:
    """Share of vertical lines through the model that do not leave it as often as they enter it.

    A solid has none. Lines through an open mesh cannot tell inside from outside, so voxels are not filled there.
    """
    low, high = model.vertices.min(0), model.vertices.max(0)
    edge = float((high - low)[:2].max()) / columns
    corners = (model.vertices[model.faces][..., :2] - low[:2]) / edge - 0.5 - (1.37e-4, 2.11e-4)
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    first = np.ceil(corners.min(1)).astype(int)
    extent = np.maximum(np.floor(corners.max(1)).astype(int) - first + 1, 0)
    size = extent[:, 0] * extent[:, 1]
    owner = np.repeat(np.arange(len(first)), size)
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    across = np.maximum(extent[owner, 1], 1)
    at = first[owner] + np.stack([within // across, within % across], 1)
    solid = np.abs(area[owner]) > 1e-12
    owner, at = owner[solid], at[solid]

    def side(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        p, q = p[owner], q[owner]
        return (q[:, 0] - p[:, 0]) * (at[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (at[:, 0] - p[:, 0])

    inside = (np.stack([side(b, c), side(c, a), side(a, b)], 1) / area[owner, None] >= 0).all(1)
    key = at[inside, 0] * (columns + 2) + at[inside, 1]
    if not len(key):
        return 1.0
    columns_hit, column = np.unique(key, return_inverse=True)
    # a two-sided sheet is entered and left at once
    sign = np.where(model.two_sided[owner[inside]], 0.0, np.sign(area[owner[inside]]))
    return float((np.bincount(column, sign, len(columns_hit)) != 0).mean())
