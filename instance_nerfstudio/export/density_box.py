"""The box that a density grid covers: what the data say of the room, else where the cameras see surfaces."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.density_visibility import DepthMaps

# Shares of surface points outside of a box that is found from them, per axis and side: floaters, mirrors, windows.
SURFACE_QUANTILES = (0.01, 0.99)
# Found boxes are widened by this share of their extent on each side, so that walls are inside.
FOUND_MARGIN = 0.03
# A surface that a smaller share of the views sees is behind a window, or a wall's ghost behind the wall.
LEAST_COVERAGE = 0.1
_POINTS = 100_000


def scene_bbox(
    data: Path | None, views: DepthMaps, world_from_scene: Float[np.ndarray, "4 4"], tolerance: float
) -> tuple[Float[np.ndarray, "2 3"], str]:
    """Corners of the scene's box in world units, and where they are from.

    In this order: `room_bbox` of `transforms.json`; the point cloud that it names or that lies beside it; surfaces that
    the field shows to several cameras.

    Args:
        data: the scene's folder, or its JSON file.
        views: depth maps of the training views, in the scene frame.
        world_from_scene: scene -> world.
        tolerance: depth by which views may disagree on a surface, in scene units.

    Raises:
        InputError: the field shows no surface.
    """
    if data is not None:
        folder, transforms = (data.parent, data) if data.suffix == ".json" else (data, data / "transforms.json")
        meta = _read(transforms)
        from_saved = _world_from_saved(meta, folder)
        box = _room_bbox(meta, from_saved, transforms)
        if box is not None:
            return box, f"room_bbox of {transforms}"
        for cloud in [folder / str(meta["ply_file_path"])] if "ply_file_path" in meta else [folder / "sparse_pc.ply"]:
            points = _cloud(cloud)
            if points is not None:
                return robust_box(points @ from_saved[:3, :3].T + from_saved[:3, 3]), f"points of {cloud}"
    points = views.surface_points(max(1, _POINTS // len(views.depth)))
    covered = torch.cat([views.sees(part, tolerance).sum(dim=0) for part in points.split(1 << 14)] or [points[:, 0]])
    points = points[covered >= max(2.0, LEAST_COVERAGE * len(views.depth))]
    if len(points) < 100:
        raise InputError("the field shows the cameras no surface; train it longer, or give the room with --bbox")
    world = points.double().cpu().numpy() @ world_from_scene[:3, :3].T + world_from_scene[:3, 3]
    return robust_box(world), "surfaces that the cameras see"


def robust_box(points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "2 3"]:
    """Box around nearly all points, a little widened."""
    low, high = np.quantile(points, SURFACE_QUANTILES, axis=0)
    margin = FOUND_MARGIN * (high - low)
    return np.stack([low - margin, high + margin])


def _read(transforms: Path) -> dict[str, Any]:
    """What is in a nerfstudio JSON file; nothing when there is none, as with other dataparsers."""
    try:
        content = json.loads(transforms.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _world_from_saved(meta: dict[str, Any], folder: Path) -> Float[np.ndarray, "4 4"]:
    """From the frame of a transforms.json to the data's own, to which nerfstudio's dataparser leads back."""
    applied = np.eye(4)
    if "applied_transform" in meta:
        applied[:3] = np.array(meta["applied_transform"], np.float64)[:3]
    elif (folder / "colmap" / "sparse" / "0").exists():  # nerfstudio's default for data from COLMAP
        applied[:3, :3] = [[0, 1, 0], [1, 0, 0], [0, 0, -1]]
    applied[:3] *= float(meta.get("applied_scale", 1.0))
    return np.linalg.inv(applied)


def _room_bbox(meta: dict[str, Any], from_saved: np.ndarray, transforms: Path) -> np.ndarray | None:
    if "room_bbox" not in meta:
        return None
    try:
        box = np.array(meta["room_bbox"], np.float64).reshape(2, 3)
    except (ValueError, TypeError) as error:
        raise InputError(f"{transforms}: room_bbox is not [[x, y, z], [x, y, z]]; correct or remove it") from error
    if not (np.isfinite(box).all() and (box[1] > box[0]).all()):
        raise InputError(f"{transforms}: the first corner of room_bbox must lie below the second; correct it")
    corners = np.stack(np.meshgrid(*box.T, indexing="ij"), axis=-1).reshape(-1, 3)
    world = corners @ from_saved[:3, :3].T + from_saved[:3, 3]
    return np.stack([world.min(0), world.max(0)])


def _cloud(path: Path) -> np.ndarray | None:
    """Points of a PLY file; None without a usable one."""
    if not path.is_file():
        return None
    import trimesh

    try:
        points = np.asarray(trimesh.load(path).vertices, np.float64)  # type: ignore[union-attr]
    except Exception:  # a damaged file can raise nearly anything; there are other ways to a box
        return None
    points = points[np.isfinite(points).all(axis=1)]
    return points if len(points) >= 100 else None
