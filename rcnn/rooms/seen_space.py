"""What the training views of a room show of its space: surfaces with their colours, free space, and what is unseen.

A radiance field learns from the same pictures, so this is what it can know. Everything is fused from the room's files
(pictures, depth maps, poses): no mesh is needed, and grids line up with those of `instance-nerf fit-grids` voxel by
voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8, UInt16
from scipy import ndimage

from rcnn.errors import InputError
from rcnn.grids import DensityGrid
from rcnn.rooms.render import Pinhole
from rcnn.safe_files import read_json

# Depth maps hold millimetres.
METRES = 1e-3
# Distances to surfaces are cut off here, in voxels.
REACH = 12.0
# Up to this many voxels from a surface its plane is taken into account.
_PLANE = 3.0
# Pixels along the longer side of the maps that are fused, and voxel edges behind a surface that still count as seen:
# as in the grids of trained fields. More pixels show the same surfaces, as views are many.
_MAP_SIZE = 160
_SEEN_TOLERANCE = 1.5
# Up to this many voxels from surface points every voxel is asked for what sees it, farther away blocks of 2 x 2 x 2.
_NEAR = 2.0
# A voxel is free when a ray passes through its centre and ends at least this many voxel edges behind it.
_FREE_MARGIN = 0.75
# Points projected at once: few enough to stay in the processor's cache.
_CHUNK = 1 << 15
# Shorter mean normals are of sheets that are seen from both sides.
_ONE_SIDED = 0.5


@dataclass(frozen=True, eq=False)
class SeenSpace:
    """A room's space on a grid of cubes, index order (x, y, z), by what its training views show."""

    bbox_min: np.ndarray
    """(3,) float64, metres."""
    edge: float
    """Edge of a voxel, metres."""
    distance: Float32[np.ndarray, "W L H"]
    """Signed distance of voxel centres to the nearest surface, in voxels: negative in front of it, positive behind, at
    most +-`REACH`. Sheets seen from both sides have no behind."""
    seen: Bool[np.ndarray, "W L H"]
    """A view sees the voxel: it is in front of a surface, or at most 1.5 voxels behind it along a ray."""
    nearest: Int32[np.ndarray, "W L H"]
    """Number of the nearest voxel with a surface, into the arrays below."""
    surface: Int32[np.ndarray, " S"]
    """Flat indices of the S voxels with a surface, ascending."""
    colour: Float32[np.ndarray, "S 3"]
    """Their mean colours in the views, in [0, 1]."""
    views: UInt16[np.ndarray, " S"]
    """Views that show a surface there."""

    @property
    def bbox_max(self) -> np.ndarray:
        """(3,) float64, metres; the room's size rounded up to whole voxels."""
        return self.bbox_min + np.array(self.distance.shape) * self.edge

    def empty_grid(self) -> DensityGrid:
        """A grid over the same voxels that holds nothing."""
        values = np.zeros((*self.distance.shape, 4), np.float16)
        return DensityGrid(values, self.bbox_min, self.bbox_max, "sigma", "cells", np.eye(4), self.seen)


@dataclass(frozen=True)
class _View:
    """Every `step`-th pixel of a view, the first ones at (column, row) `start`."""

    camera: Pinhole
    """Of all pixels."""
    pose: np.ndarray
    """(4, 4) camera to world, OpenGL convention."""
    depth: Float32[np.ndarray, "rows columns"]
    """z-depth in metres; 0 where nothing is."""
    picture: UInt8[np.ndarray, "rows columns 3"]
    """sRGB."""
    step: int
    start: tuple[int, int]


def see_space(room: Path, resolution: int) -> SeenSpace:
    """Fuses the training views of a room made by `nerf-rcnn rooms make`.

    Args:
        room: its folder.
        resolution: voxels along the longest side of `room_bbox`.

    Raises:
        InputError: a file is missing or damaged, or the room was not made by that command.
    """
    path = room / "transforms.json"
    content = read_json(path)
    try:
        camera = Pinhole(int(content["w"]), int(content["h"]), float(content["fl_x"]))
        centred = (2 * content["cx"], 2 * content["cy"], content["fl_y"]) == (camera.width, camera.height, camera.focal)
        if not centred or any(content.get(key) for key in ("k1", "k2", "p1", "p2")):
            raise InputError(f"{path}: its camera is no plain pinhole; take rooms made by nerf-rcnn rooms make")
        box = np.array(content["room_bbox"], np.float64).reshape(2, 3)
        names = set(content["train_filenames"])
        frames = [frame for frame in content["frames"] if frame["file_path"] in names]
        if not frames or not (np.isfinite(box).all() and (box[1] > box[0]).all()):
            raise ValueError("no training views, or an empty room_bbox")
        files = [(room / frame["file_path"], room / frame["depth_file_path"]) for frame in frames]
        poses = [np.array(frame["transform_matrix"], np.float64).reshape(4, 4) for frame in frames]
    except InputError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: lacks what voxelize needs ({error!r}); take rooms made by nerf-rcnn rooms make"
        ) from error
    views = [
        _read_view(number, *pair, pose, camera) for number, (pair, pose) in enumerate(zip(files, poses, strict=True))
    ]
    edge = float((box[1] - box[0]).max()) / resolution
    shape = tuple(np.maximum(np.ceil((box[1] - box[0]) / edge - 1e-6), 1).astype(int).tolist())
    return _fuse(views, box[0], edge, shape)


def _read_view(number: int, picture: Path, depth: Path, pose: np.ndarray, camera: Pinhole) -> _View:
    step = max(1, round(max(camera.width, camera.height) / _MAP_SIZE))
    column, row = number % step, number // step % step  # views take turns, so that together they use all pixels
    kept = (slice(row, None, step), slice(column, None, step))
    colours = _read_image(picture, cv2.IMREAD_COLOR, camera)[kept][..., ::-1]
    metres = _read_image(depth, cv2.IMREAD_UNCHANGED, camera)[kept].astype(np.float32) * np.float32(METRES)
    return _View(camera, pose, metres, colours, step, (column, row))


def _read_image(path: Path, flags: int, camera: Pinhole) -> np.ndarray:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make the room anew") from error
    image = cv2.imdecode(data, flags) if len(data) else None
    if image is None or image.shape[:2] != (camera.height, camera.width):
        raise InputError(f"{path}: is damaged or not {camera.width}x{camera.height}; make the room anew")
    return image


def _fuse(views: list[_View], bbox_min: np.ndarray, edge: float, shape: tuple[int, int, int]) -> SeenSpace:
    parts = [_surface_points(view, bbox_min, edge) for view in views]
    limit = np.array(shape, np.int32) - 1
    cells = [np.clip(np.floor(points).astype(np.int32), 0, limit) for points, _, _ in parts]
    flat = np.concatenate([(cell[:, 0] * shape[1] + cell[:, 1]) * shape[2] + cell[:, 2] for cell in cells])
    hit = np.zeros(int(np.prod(shape)), bool)
    hit[flat] = True
    if not len(flat):
        raise InputError("the depth maps show no surface; make the room anew")
    number = np.cumsum(hit, dtype=np.int32) - np.int32(1)
    owner = number[flat]
    surfaces = int(number[-1]) + 1
    count = np.bincount(owner, minlength=surfaces)

    def mean(index: int) -> Float32[np.ndarray, "S 3"]:
        """(S, 3) float32 of the points', normals' or colours' means."""
        values = np.concatenate([part[index] for part in parts])
        sums = [np.bincount(owner, values[:, axis], surfaces) / count for axis in range(3)]
        return np.stack(sums, axis=1).astype(np.float32)

    centre, normal, colour = mean(0), mean(1), mean(2)
    showing = np.zeros(surfaces, np.uint16)
    first = 0
    for points, _, _ in parts:
        marked = np.zeros(surfaces, bool)
        marked[owner[first : first + len(points)]] = True
        showing += marked
        first += len(points)

    transform: Any = ndimage.distance_transform_edt(~hit.reshape(shape), return_indices=True)
    far, where = transform
    nearest = number[(where[0] * shape[1] + where[1]) * shape[2] + where[2]]
    free, seen = _look_through(views, bbox_min, edge, shape, far <= _NEAR)
    far = np.minimum(far, REACH).astype(np.float32)
    distance = np.where(free, -far, far)
    near = np.nonzero(far <= _PLANE)
    distance[near] = _signed_distance(
        np.stack(near, axis=1).astype(np.float32) + np.float32(0.5),
        centre[nearest[near]],
        normal[nearest[near]],
        hit.reshape(shape)[near],
        free[near],
    )
    surface = np.nonzero(hit)[0].astype(np.int32)
    return SeenSpace(bbox_min, edge, distance, seen, nearest, surface, colour / 255, showing)


def _surface_points(view: _View, bbox_min: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the pixels of a view show: points (N, 3) in voxels, unit normals (N, 3), colours (N, 3) uint8."""
    depth, camera = view.depth, view.camera
    height, width = depth.shape
    columns = view.start[0] + 0.5 + view.step * np.arange(width, dtype=np.float32) - camera.width / 2
    rows = camera.height / 2 - view.start[1] - 0.5 - view.step * np.arange(height, dtype=np.float32)
    columns, rows = columns / np.float32(camera.focal), rows / np.float32(camera.focal)
    points = np.stack([depth * columns, depth * rows[:, None], -depth], axis=-1)

    def along(axis: int) -> np.ndarray:
        """Steps on the surface from pixel to pixel, over the side on which depth changes less."""
        step = np.diff(points, axis=axis)
        ends = [(1, 0) if k == axis else (0, 0) for k in range(3)]
        before = np.pad(step, ends, mode="edge")
        after = np.pad(step, [pad[::-1] for pad in ends], mode="edge")
        return np.where(np.abs(before[..., 2:]) < np.abs(after[..., 2:]), before, after)

    normals = np.cross(along(0), along(1))
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), np.float32(1e-12))
    solid = depth > 0
    turn = view.pose[:3, :3].astype(np.float32)
    world = points[solid] @ turn.T + (view.pose[:3, 3] - bbox_min).astype(np.float32)
    return world / np.float32(edge), normals[solid] @ turn.T, view.picture[solid]


def _signed_distance(
    position: np.ndarray, centre: np.ndarray, normal: np.ndarray, on_surface: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """(N,) voxels behind the nearest surface's points, of which (N, 3) `centre` and `normal` are the means."""
    offset = position - centre
    length = np.linalg.norm(normal, axis=1)
    plane = -np.einsum("nk,nk->n", offset, normal) / np.maximum(length, 1e-6)
    plane[length < _ONE_SIDED] = 0
    euclid = np.linalg.norm(offset, axis=1)
    # beyond the rim of a surface its plane says nothing
    size = np.where(np.abs(plane) > 0.7 * euclid, np.abs(plane), euclid)
    outside = np.where(free, -size, size)
    return np.where(on_surface, np.clip(plane, -_PLANE, _PLANE), outside)


def _look_through(
    views: list[_View], bbox_min: np.ndarray, edge: float, shape: tuple[int, int, int], near: np.ndarray
) -> tuple[Bool[np.ndarray, "W L H"], Bool[np.ndarray, "W L H"]]:
    """Voxels that a ray passes through, and voxels that a view sees.

    Far from surfaces (not `near`) both hardly change from voxel to voxel: there blocks of 2 x 2 x 2 are asked once.
    """
    half = tuple(-(-n // 2) for n in shape)
    coarse = np.zeros(half, bool)
    padded = np.pad(near, [(0, n % 2) for n in shape], constant_values=True)
    np.logical_not(padded.reshape(half[0], 2, half[1], 2, half[2], 2).all(axis=(1, 3, 5)), out=coarse)
    blocks, voxels = np.nonzero(coarse), np.nonzero(near)
    centres = np.concatenate([2.0 * np.stack(blocks, 1) + 1.0, np.stack(voxels, 1) + 0.5]).astype(np.float32)
    free, seen = _visible(views, edge, centres * np.float32(edge) + bbox_min.astype(np.float32))
    results = []
    for flags in (free, seen):
        whole = np.zeros(half, bool)
        whole[blocks] = flags[: len(blocks[0])]
        full = whole.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: shape[0], : shape[1], : shape[2]]
        full[voxels] = flags[len(blocks[0]) :]
        results.append(full)
    return results[0], results[1]


def _visible(views: list[_View], edge: float, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    free, seen = np.zeros(len(points), bool), np.zeros(len(points), bool)
    points = np.ascontiguousarray(points.T)
    for view in views:
        camera, step = view.camera, view.step
        height, width = view.depth.shape
        # index i holds the pixels i - 1 and i along both axes: a ray between their centres may end at either
        depth = np.pad(np.where(view.depth > 0, view.depth, np.float32(np.inf)), 1, mode="edge")
        four = np.stack([depth[:-1, :-1], depth[1:, :-1], depth[:-1, 1:], depth[1:, 1:]])
        nearest, farthest = four.min(0).ravel(), four.max(0).ravel()
        turn = view.pose[:3, :3].T.astype(np.float32)
        shift = turn @ view.pose[:3, 3].astype(np.float32)
        slopes = np.float32(0.5 / camera.focal) * np.array([camera.width, camera.height], np.float32)
        top = np.float32((camera.height / 2 - 0.5 - view.start[1]) / step + 1)
        left = np.float32((camera.width / 2 - 0.5 - view.start[0]) / step + 1)
        for first in range(0, points.shape[1], _CHUNK):
            x, y, z = turn @ points[:, first : first + _CHUNK] - shift[:, None]
            chosen = np.nonzero((np.abs(x) < -z * slopes[0]) & (np.abs(y) < -z * slopes[1]))[0]
            if not len(chosen):
                continue
            x, y, z = x[chosen], y[chosen], -z[chosen]
            scale = np.float32(camera.focal / step) / z
            i = np.clip((top - y * scale).astype(np.int32), 0, height)
            j = np.clip((left + x * scale).astype(np.int32), 0, width)
            pixel = i * (width + 1) + j
            along = np.float32(edge) * z / np.sqrt(x * x + y * y + z * z)  # a voxel edge on the ray, as z-depth
            free[first + chosen] |= z < nearest[pixel] - _FREE_MARGIN * along
            seen[first + chosen] |= z <= farthest[pixel] + _SEEN_TOLERANCE * along
    return free, seen
