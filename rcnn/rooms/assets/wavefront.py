"""Wavefront OBJ and MTL text as Sweet Home 3D writes it: polygons, Java 3D's built-in materials, dead texture paths.

trimesh reads OBJ as well, but forgets the material names of files without a material library, and those names are all
that the default catalogue's models have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

# Diffuse colours of the materials that Java 3D's OBJ loader knows by name. They are linear: its "dkgrey" is 0.047.
JAVA3D_COLOURS = {
    "amber": "#934400", "archwhite": "#fefefe", "archwhite2": "#d6d6d6", "black": "#010101", "bluegrey": "#30474a",
    "bluteal": "#144234", "bone": "#e6c26d", "bone2": "#fbdca6", "brown": "#160400", "brownlips": "#24110a",
    "brzskin": "#614a36", "dkblue": "#00010f", "dkdkgrey": "#030303", "dkgrey": "#0c0c0c", "dkred": "#3a0000",
    "flblack": "#010101", "flblonde": "#92540b", "flbrown": "#1c0300", "fldkdkgrey": "#030303", "fldkgrey": "#181818",
    "flesh": "#866956", "flgrey": "#808080", "flltbrown": "#471d0e", "flltgrey": "#d2d2d2", "florange": "#ff2b00",
    "fltan": "#a97421", "flwhite": "#fbedd6", "flwhite1": "#ffffff", "flyellow": "#ffaa00", "grey": "#2f2f2f",
    "iris": "#000f51", "jetflame": "#f37e19", "lavendar": "#381758", "lighttan": "#b36b38", "lighttan2": "#503019",
    "lighttannew": "#c99b52", "ltgrey": "#626262", "offwhite.warm": "#d5b072", "red": "#c50000", "redwood": "#420800",
    "ruby": "#ff0000", "sand_stone": "#201d19", "ship2": "#ffffff", "silver": "#9d9d9d", "sky_blue": "#2097cc",
    "tan": "#a98538", "teeth": "#fbcb78", "white": "#ffffff", "yellow": "#ffaa00", "yellow_green": "#306800",
    "yellowbrt": "#ffc800",
}  # fmt: skip
UNKNOWN_COLOUR = (0.35, 0.35, 0.35)


@dataclass(frozen=True)
class MtlMaterial:
    """One `newmtl` block."""

    colour: tuple[float, float, float] = UNKNOWN_COLOUR
    """`Kd` as linear RGB."""
    opacity: float = 1.0
    """`d`."""
    texture: str | None = None
    """`map_Kd`, a path relative to the file."""
    has_alpha_map: bool = False
    """Whether there is a `map_d`."""


@dataclass(frozen=True)
class ObjMesh:
    """Triangles of an OBJ file in its own axes and unit."""

    vertices: np.ndarray
    """(V, 3) float64."""
    faces: np.ndarray
    """(F, 3) int32."""
    uv: np.ndarray
    """(F, 3, 2) float64, v upwards as in the file; 0 where a corner has none."""
    material_names: tuple[str, ...]
    """Names given by `usemtl`."""
    material_of_face: np.ndarray
    """(F,) int32 into the names."""
    libraries: tuple[str, ...]
    """Files given by `mtllib`."""


def parse_obj(text: str) -> ObjMesh:
    """Reads vertices, texture coordinates, polygons and material names; polygons become triangles.

    Raises ValueError with a one-line reason when numbers are broken or indices point nowhere.
    """
    positions: list[str] = []
    coordinates: list[str] = []
    polygons: list[str] = []
    polygon_material: list[int] = []
    names: dict[str, int] = {}
    libraries: list[str] = []
    current = -1
    for line in text.replace("\\\n", " ").splitlines():
        line = line.lstrip()
        if line.startswith("v "):
            positions.append(line[2:])
        elif line.startswith("vt "):
            coordinates.append(line[3:])
        elif line.startswith("f "):
            if current < 0:
                current = names.setdefault("", len(names))
            polygons.append(line[2:])
            polygon_material.append(current)
        elif line.startswith("usemtl"):
            current = names.setdefault(line[6:].strip(), len(names))
        elif line.startswith("mtllib"):
            libraries.append(line[6:].strip())
    try:
        vertices = _rows(positions, 3)
        texture = _rows(coordinates, 2)
        corners, owner = _triangles(polygons, vertices, len(texture))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"broken OBJ text: {error}") from None
    if not len(corners):
        raise ValueError("broken OBJ text: it has no faces")
    with_blank = np.concatenate([texture, np.zeros((1, 2))])  # row -1: no coordinate
    return ObjMesh(
        vertices=vertices,
        faces=corners[..., 0].astype(np.int32),
        uv=with_blank[corners[..., 1]],
        material_names=tuple(names),
        material_of_face=np.array(polygon_material, np.int32)[owner],
        libraries=tuple(libraries),
    )


def _rows(lines: list[str], width: int) -> np.ndarray:
    """(N, width) float64 from text rows, which may carry more columns than wanted."""
    if not lines:
        return np.zeros((0, width))
    values = np.array(" ".join(lines).split(), float)
    columns = len(values) // len(lines)
    if len(values) != columns * len(lines) or columns < width:  # rows of different length
        values = np.array([[float(word) for word in line.split()[:width]] for line in lines])
        columns = width
    values = values.reshape(len(lines), columns)[:, :width]
    if not np.isfinite(values).all():
        raise ValueError("a coordinate is not finite")
    return values


def _triangles(polygons: list[str], vertices: np.ndarray, texture_count: int) -> tuple[np.ndarray, np.ndarray]:
    """(F, 3, 2) vertex and texture indices (-1: none) and (F,) polygon numbers."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, line in enumerate(polygons):
        polygons[number] = line = line.replace("//", "/0/")  # 0 is no index: it stands for "none"
        groups.setdefault((len(line.split()), line.count("/")), []).append(number)
    corners, owner = [], []
    for (size, slashes), members in groups.items():
        if size < 3:
            continue
        parts = slashes // size + 1
        words = " ".join(polygons[number] for number in members).replace("/", " ").split()
        if slashes % size or len(words) != size * parts * len(members):
            raise ValueError(f"face {members[0] + 1} is malformed")
        index = np.array(words, np.int64).reshape(len(members), size, parts)
        index = index[..., :2] if parts > 1 else np.concatenate([index, np.zeros_like(index)], 2)
        # counted from 1, or from the end; all of a file's vertices are taken to come before its faces
        index = np.where(index > 0, index - 1, index + np.where(index < 0, (len(vertices), texture_count), -1))
        wrong = (index[..., 0] < 0) | (index[..., 0] >= len(vertices)) | (index[..., 1] < -1)
        wrong = (wrong | (index[..., 1] >= texture_count)).any(1)
        if wrong.any():
            raise ValueError(f"face {members[int(np.argmax(wrong))] + 1} points at a missing vertex")
        convex = _is_convex(vertices[index[..., 0]])
        for k in range(1, size - 1):
            corners.append(index[convex][:, [0, k, k + 1]])
            owner.append(np.array(members)[convex])
        for row in np.nonzero(~convex)[0]:
            corners.append(index[row][_cut_ears(vertices[index[row, :, 0]])])
            owner.append(np.full(size - 2, members[row]))
    if not corners:
        return np.zeros((0, 3, 2), np.int64), np.zeros(0, np.int64)
    numbers = np.concatenate(owner)
    order = np.argsort(numbers, kind="stable")
    return np.concatenate(corners)[order], numbers[order]


def _flatten(points: np.ndarray) -> np.ndarray:
    """(P, N, 2) polygons (P, N, 3) seen along their main axis, from the side on which they are counter-clockwise."""
    normal = np.cross(points, np.roll(points, -1, axis=1)).sum(1)  # Newell's formula
    drop = np.argmax(np.abs(normal), axis=1)
    positive = np.take_along_axis(normal, drop[:, None], 1)[:, 0] > 0
    u, v = (drop + 1) % 3, (drop + 2) % 3
    axes = np.where(positive[:, None], np.stack([u, v], 1), np.stack([v, u], 1))
    return np.take_along_axis(points, axes[:, None, :], 2)


def _is_convex(points: np.ndarray) -> np.ndarray:
    """(P,) bool for polygons (P, N, 3)."""
    if points.shape[1] == 3:
        return np.ones(len(points), bool)
    flat = _flatten(points)
    edge = np.roll(flat, -1, axis=1) - flat
    following = np.roll(edge, -1, axis=1)
    turn = edge[..., 0] * following[..., 1] - edge[..., 1] * following[..., 0]
    scale = np.linalg.norm(edge, axis=2).max(1, keepdims=True) ** 2
    return (turn >= -1e-6 * scale).all(1)


def _cut_ears(points: np.ndarray) -> np.ndarray:
    """(N - 2, 3) corner numbers of the triangles of a polygon (N, 3), ears cut off one by one."""
    count = len(points)
    flat = _flatten(points[None])[0]
    remaining = list(range(count))
    triangles: list[tuple[int, int, int]] = []
    while len(remaining) > 3:
        for position in range(len(remaining)):
            i, j, k = (remaining[(position + step) % len(remaining)] for step in (-1, 0, 1))
            if _is_ear(flat, i, j, k, remaining):
                triangles.append((i, j, k))
                del remaining[position]
                break
        else:  # a polygon that crosses itself: no cut is right, a fan at least covers it
            return np.array([(0, k, k + 1) for k in range(1, count - 1)])
    return np.array([*triangles, tuple(remaining)])


def _side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def _is_ear(flat: np.ndarray, i: int, j: int, k: int, remaining: list[int]) -> bool:
    a, b, c = flat[i], flat[j], flat[k]
    if _side(a, b, c) <= 0:
        return False
    for other in remaining:
        if other in (i, j, k):
            continue
        p = flat[other]
        if _side(a, b, p) >= 0 and _side(b, c, p) >= 0 and _side(c, a, p) >= 0:
            return False
    return True


def parse_mtl(text: str) -> dict[str, MtlMaterial]:
    """Materials by name. Lines that make no sense are skipped, as every viewer of such files does."""
    materials: dict[str, MtlMaterial] = {}
    for block in re.split(r"^\s*newmtl\b", text, flags=re.MULTILINE)[1:]:
        lines = [line.strip() for line in block.splitlines()]
        values: dict[str, str] = {}
        for line in lines[1:]:
            key, _, value = line.partition(" ") if " " in line else line.partition("\t")
            values[key.lower()] = value.strip()
        texture = values.get("map_kd") or None
        materials[lines[0]] = MtlMaterial(
            colour=_colour(values.get("kd")),
            opacity=_number(values.get("d"), 1.0),
            # options such as "-s 1 1 1" precede the file name
            texture=texture and re.sub(r"^(-\w+(\s+[-+.\deE]+|\s+on|\s+off)*\s+)+", "", texture).strip('"'),
            has_alpha_map="map_d" in values,
        )
    return materials


def _number(value: str | None, default: float) -> float:
    try:
        return min(1.0, max(0.0, float((value or "").split()[0])))
    except (ValueError, IndexError):
        return default


def _colour(value: str | None) -> tuple[float, float, float]:
    """Linear RGB; `Kd` is what a screen shows."""
    try:
        red, green, blue = (min(1.0, max(0.0, float(word))) for word in (value or "").split()[:3])
    except ValueError:
        return UNKNOWN_COLOUR
    return (_linear(red), _linear(green), _linear(blue))


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def built_in_material(name: str) -> MtlMaterial:
    """The material that a name without a library stands for."""
    if "glass" in name.lower() or "cristal" in name.lower():
        return MtlMaterial(opacity=0.3)
    base = name.removesuffix("_trans")
    code = JAVA3D_COLOURS.get(base) or JAVA3D_COLOURS.get(re.sub(r"\.\d+$", "", base))
    if code is None:
        return MtlMaterial()
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return MtlMaterial(colour=(red, green, blue), opacity=0.3 if base != name else 1.0)
