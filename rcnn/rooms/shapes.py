"""Closed parametric solids: rounded boxes, turned solids, tubes, cushions, leaves, and one flat panel.

Long faces are cut into pieces of about `STEP` because light is stored at the vertices. Lengths are metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from rcnn.rooms.mesh import Material, Mesh

STEP = 0.07
Vector = ArrayLike


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """(2(R-1)(C-1), 3) triangles of an R x C grid of vertices stored row by row."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def _single(vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray, uv: np.ndarray, material: Material) -> Mesh:
    corners = vertices[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    solid = area > 1e-12  # the poles of turned solids and tubes have collapsed triangles
    faces, uv = faces[solid], uv[solid]
    return Mesh(vertices, normals, faces, uv, (material,), np.zeros(len(faces), np.int64))


def _axis_points(half: float, radius: float, step: float) -> np.ndarray:
    flat = half - radius
    inner = np.linspace(-flat, flat, max(1, int(np.ceil(2 * flat / step))) + 1)
    if radius <= 0:
        return inner
    # equal angles on the quarter circle of a rounded edge, half of which belongs to this face
    corner = flat + radius * np.tan(np.linspace(0, np.pi / 4, 4 if radius > 0.03 else 3 if radius > 0.009 else 2)[1:])
    return np.concatenate([-corner[::-1], inner, corner])


def box(size: Vector, material: Material, centre: Vector = (0, 0, 0), radius: float = 0.0, step: float = STEP) -> Mesh:
    """Box of `size` (x, y, z) about `centre`; edges and corners are rounded by `radius`.

    Texture coordinates are metres with u along the longer side of each face, so that wood grain follows the boards.
    """
    half = np.asarray(size, float) / 2
    radius = min(radius, 0.98 * float(half.min()))
    points = [_axis_points(half[axis], radius, step) for axis in range(3)]
    all_vertices, all_normals, all_faces, all_uv, count = [], [], [], [], 0
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1.0, 1.0):
            cube = np.zeros((len(points[i]), len(points[j]), 3))
            cube[..., i], cube[..., j], cube[..., axis] = points[i][:, None], points[j][None, :], sign * half[axis]
            cube = cube.reshape(-1, 3)
            if radius > 0:
                core = np.clip(cube, -(half - radius), half - radius)
                normals = cube - core
                normals /= np.linalg.norm(normals, axis=1, keepdims=True)
                vertices = core + radius * normals
            else:
                normals = np.zeros_like(cube)
                normals[:, axis] = sign
                vertices = cube
            faces = _grid_faces(len(points[i]), len(points[j]))
            if sign < 0:
                faces = faces[:, ::-1]
            long, short = (i, j) if half[i] >= half[j] else (j, i)
            # neighbouring boards must not show the same stretch of grain
            shift = np.asarray(centre, float) @ np.array([[7.31, 3.17], [5.77, 9.13], [4.39, 6.11]])
            all_uv.append((vertices[:, [long, short]] + shift + 0.37 * axis)[faces])
            all_vertices.append(vertices)
            all_normals.append(normals)
            all_faces.append(faces + count)
            count += len(vertices)
    vertices = np.concatenate(all_vertices) + np.asarray(centre, float)
    return _single(vertices, np.concatenate(all_normals), np.concatenate(all_faces), np.concatenate(all_uv), material)


def cushion(size: Vector, material: Material, centre: Vector = (0, 0, 0), puff: float = 0.3) -> Mesh:
    """A stuffed box, swollen in the middle; `puff` is the share of its height lost at the rim."""
    half = np.asarray(size, float) / 2
    mesh = box(size, material, radius=0.9 * float(half.min()), step=0.05)
    x, y = mesh.vertices[:, 0] / half[0], mesh.vertices[:, 1] / half[1]
    bulge = np.clip(1 - x**4, 0, 1) * np.clip(1 - y**4, 0, 1)
    vertices = mesh.vertices.copy()
    vertices[:, 2] *= 1 - puff * (1 - np.sqrt(bulge))
    return mesh.deformed(vertices).moved(centre)


def sheet(
    corner: Vector, edge_u: Vector, edge_v: Vector, material: Material, stretched: bool = False, step: float = STEP
) -> Mesh:
    """Open parallelogram from `corner` along two edges (metres), facing `edge_u` x `edge_v`.

    The texture's u runs along `edge_u` and its rows go down against `edge_v`; `stretched` lays it over the sheet once.
    """
    edges = np.asarray([edge_u, edge_v], float)
    lengths = np.linalg.norm(edges, axis=1)
    u, v = np.meshgrid(*(np.linspace(0, 1, max(1, int(np.ceil(edge / step))) + 1) for edge in lengths), indexing="ij")
    share = np.stack([u.ravel(), v.ravel()], 1)
    normal = np.cross(edges[0], edges[1])
    normals = np.tile(normal / np.linalg.norm(normal), (len(share), 1))
    faces = _grid_faces(*u.shape)
    uv = np.stack([share[:, 0], 1 - share[:, 1]], 1) if stretched else share * lengths
    return _single(np.asarray(corner, float) + share @ edges, normals, faces, uv[faces], material)


def panel(width: float, height: float, material: Material) -> Mesh:
    """Upright open rectangle in the xz plane about the origin facing -y; the texture is stretched over it once."""
    return sheet((-width / 2, 0, -height / 2), (width, 0, 0), (0, 0, height), material, stretched=True)


def turned(
    profile: Sequence[tuple[float, float]], material: Material, centre: Vector = (0, 0, 0), segments: int = 24
) -> Mesh:
    """Solid of revolution about z. `profile` lists (radius, z) from the bottom up along the outside.

    It must begin and end on the axis, or end where it began (a ring such as a lamp shade). Bends above 40 degrees
    stay sharp.
    """
    points = [np.asarray(profile[0], float)]
    corner = [0]
    for target in profile[1:]:
        start, end = points[-1], np.asarray(target, float)
        pieces = max(1, int(np.ceil(np.linalg.norm(end - start) / STEP)))
        points += [start + (end - start) * k / pieces for k in range(1, pieces + 1)]
        corner.append(len(points) - 1)
    line = np.array(points)
    along = np.diff(line, axis=0)
    length = np.linalg.norm(along, axis=1)
    outward = np.stack([along[:, 1], -along[:, 0]], 1) / length[:, None]
    arc = np.concatenate([[0], np.cumsum(length)])
    theta = np.linspace(0, 2 * np.pi, segments + 1)
    theta_exact = np.concatenate([theta[:-1], [0.0]])  # the seam closes to the last bit
    is_ring = bool(np.allclose(line[0], line[-1]))
    around = max(float(line[:, 0].max()), 0.02)
    all_vertices, all_normals, all_faces, all_uv = [], [], [], []
    for k in range(len(along)):
        ends = []
        for neighbour in (k - 1, k + 1):
            if is_ring:
                neighbour %= len(along)
            smooth = 0 <= neighbour < len(along) and outward[k] @ outward[neighbour] > np.cos(np.radians(40))
            normal = outward[k] + outward[neighbour] if smooth else outward[k]
            ends.append(normal / np.linalg.norm(normal))
        for row, normal in zip((k, k + 1), ends, strict=True):
            cos, sin = np.cos(theta_exact), np.sin(theta_exact)
            radius, height = line[row]
            all_vertices.append(np.stack([radius * cos, radius * sin, np.full_like(cos, height)], 1))
            all_normals.append(np.stack([normal[0] * cos, normal[0] * sin, np.full_like(cos, normal[1])], 1))
        faces = _grid_faces(2, segments + 1)[:, ::-1]
        uv = np.stack([np.tile(theta * around, 2), np.repeat(arc[[k, k + 1]], segments + 1)], 1)
        all_uv.append(uv[faces])
        all_faces.append(faces + 2 * k * (segments + 1))
    vertices = np.concatenate(all_vertices) + np.asarray(centre, float)
    return _single(vertices, np.concatenate(all_normals), np.concatenate(all_faces), np.concatenate(all_uv), material)


def tube(path: Sequence[Vector], radius: float | Sequence[float], material: Material, segments: int = 8) -> Mesh:
    """Round rod along a polyline (N, 3) with one radius or one per point; closed by flat ends."""
    line = np.asarray(path, float)
    radii = np.broadcast_to(np.asarray(radius, float), (len(line),))
    dense, dense_radii = [line[0]], [radii[0]]
    for k in range(len(line) - 1):
        pieces = max(1, int(np.ceil(np.linalg.norm(line[k + 1] - line[k]) / (2 * STEP))))
        for p in range(1, pieces + 1):
            dense.append(line[k] + (line[k + 1] - line[k]) * p / pieces)
            dense_radii.append(radii[k] + (radii[k + 1] - radii[k]) * p / pieces)
    line, radii = np.array(dense), np.array(dense_radii)
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent[0], [1.0, 0, 0] if abs(tangent[0, 0]) < 0.7 else [0, 1.0, 0])
    theta = np.linspace(0, 2 * np.pi, segments + 1)
    theta[-1] = 0.0
    rings, normals = [], []
    for k in range(len(line)):
        side = side - tangent[k] * (side @ tangent[k])
        side /= np.linalg.norm(side)
        other = np.cross(tangent[k], side)
        normal = np.cos(theta)[:, None] * side + np.sin(theta)[:, None] * other
        rings.append(line[k] + radii[k] * normal)
        normals.append(normal)
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    ends = [np.tile(line[k], (segments + 1, 1)) for k in (0, -1)]
    caps = [np.tile(sign * tangent[k], (segments + 1, 1)) for sign, k in ((-1, 0), (1, -1))]
    # flat caps: a second copy of the end rings with the axis as normal
    vertices = np.concatenate([ends[0], rings[0], *rings, rings[-1], ends[1]])
    all_normals = np.concatenate([caps[0], caps[0], *normals, caps[1], caps[1]])
    faces = _grid_faces(len(line) + 4, segments + 1)[:, ::-1]
    across = np.linspace(0, 2 * np.pi * max(float(radii.max()), 0.01), segments + 1)
    along = np.concatenate([[0, 0], arc, [arc[-1]] * 2])
    uv = np.stack(np.meshgrid(along, across, indexing="ij"), -1).reshape(-1, 2)
    return _single(vertices, all_normals, faces, uv[faces], material)


def leaf(length: float, width: float, droop: float, material: Material, thickness: float = 0.005) -> Mesh:
    """Pointed blade from the origin along +x, arching down: after `length` it has turned by `droop` radians."""
    s = np.linspace(0, 1, max(5, int(length / 0.05)))
    t = np.linspace(-1, 1, 5)
    angle = -droop * s
    step = length / (len(s) - 1)
    spine = np.stack([np.cumsum(np.cos(angle)) * step, np.cumsum(np.sin(angle)) * step], 1)
    spine -= spine[0]
    half_width = width / 2 * np.sin(np.pi * s**0.8) ** 0.8
    half_width[[0, -1]] = 0.0
    sheets = []
    for side in (1.0, -1.0):
        lift = (
            side * thickness / 2 * (1 - np.abs(t)) * (half_width[:, None] > 0) + 0.15 * np.abs(t) * half_width[:, None]
        )
        x = spine[:, :1] - np.sin(angle)[:, None] * lift
        z = spine[:, 1:] + np.cos(angle)[:, None] * lift
        sheets.append(np.stack([x, half_width[:, None] * t, z], -1).reshape(-1, 3))
    grid = _grid_faces(len(s), len(t))
    vertices = np.concatenate(sheets)
    faces = np.concatenate([grid, grid[:, ::-1] + len(sheets[0])])
    uv = np.stack(np.meshgrid(s, (t + 1) / 2, indexing="ij"), -1).reshape(-1, 2)
    uv = np.concatenate([uv, uv])[faces]
    mesh = _single(vertices, np.zeros_like(vertices), faces, uv, material)
    # the two sheets share their rim, so they are shaded apart
    upper = mesh.faces[:, 0] < len(sheets[0])
    corners = mesh.vertices[mesh.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for sheet in (upper, ~upper):
        for corner in range(3):
            np.add.at(normals, mesh.faces[sheet, corner], normal[sheet])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return replace(mesh, normals=normals)
