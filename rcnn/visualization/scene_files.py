"""A scene in 3D, in world units: one GLB with everything, or a PLY for each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from rcnn.data.sample import GridFrame
from rcnn.errors import InputError
from rcnn.grids.grid_truth import scale_boxes
from rcnn.safe_files import write_atomically
from rcnn.visualization.box_frames import box_frames
from rcnn.visualization.colours import TRUTH, score_colours
from rcnn.visualization.scene_contents import SceneContents
from rcnn.visualization.voxel_surface import ColouredFaces, voxel_surface

_UNLIT = {
    "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": 0, "roughnessFactor": 1},
    "extensions": {"KHR_materials_unlit": {}},
}
# glTF points up along y; the parts themselves keep the world's coordinates, and z up.
_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class SceneFilesConfig:
    """What a scene in 3D shows, and how large it may get."""

    min_alpha: float = 0.1
    """Opacity from which voxels are drawn."""
    max_faces: int = 300_000
    """Of the grid; beyond, voxels are merged (see `voxel_surface`). A face takes 88 bytes."""
    max_detections: int = 30
    """Detections that are drawn, the best ones."""
    min_score: float = 0.2
    """Detections below are not drawn."""
    min_heat: float = 0.2
    """Objectness from which voxels are points."""
    max_points: int = 100_000
    """Of the heatmap, those of the highest objectness."""
    bar_thickness: float = 0.4
    """Of the bars of boxes, in voxels."""


def write_scene_glb(
    path: Path, contents: SceneContents, frame: GridFrame, config: SceneFilesConfig | None = None
) -> None:
    """Writes a GLB with the nodes `grid`, `truth`, `detections`, `instances` and `heatmap`, those that there are.

    Colours are shown as they are, without lights. Back faces are not shown by viewers, so rooms are open.

    Raises:
        InputError: the scene is empty.
    """
    config = config or SceneFilesConfig()
    parts = _parts(contents, frame, config)
    if not parts:
        raise InputError(f"{path}: nothing to show, no voxel has an opacity of {config.min_alpha}; lower min_alpha")
    write_atomically(path, parts_as_glb(parts))


def parts_as_glb(parts: Mapping[str, trimesh.Trimesh | trimesh.PointCloud]) -> bytes:
    """A GLB with a node for each part, their colours as they are, without lights; the nodes turn z up into y up."""
    scene = trimesh.Scene()
    for name, part in parts.items():
        part = part.copy()
        part.visual.vertex_colors = _linear(np.asarray(part.visual.vertex_colors))  # type: ignore[union-attr]
        scene.add_geometry(part, node_name=name, geom_name=name, transform=_Y_UP)
    data = scene.export(file_type="glb", include_normals=False, tree_postprocessor=_without_lights)
    assert isinstance(data, bytes)
    return data


def write_scene_plys(
    folder: Path, contents: SceneContents, frame: GridFrame, config: SceneFilesConfig | None = None
) -> list[Path]:
    """Writes `grid.ply`, `truth.ply`, `detections.ply`, `instances.ply` (meshes) and `heatmap.ply` (points), those that
    there are.

    Returns:
        The files.
    """
    paths = []
    for name, part in _parts(contents, frame, config or SceneFilesConfig()).items():
        paths.append(folder / f"{name}.ply")
        data = part.export(file_type="ply")
        assert isinstance(data, bytes)
        write_atomically(paths[-1], data)
    return paths


def _parts(
    contents: SceneContents, frame: GridFrame, config: SceneFilesConfig
) -> dict[str, trimesh.Trimesh | trimesh.PointCloud]:
    """In world units; parts without anything in them are left out."""
    shown = contents.best(config.max_detections, config.min_score)
    faces = voxel_surface(shown.features, shown.seen, config.min_alpha, config.max_faces)
    parts: dict[str, Any] = {"grid": _mesh(faces, frame.voxel_size, frame.box_min)}
    bar = config.bar_thickness * float(frame.voxel_size.min())
    if shown.truth is not None:
        colours = np.tile(np.array(TRUTH, np.uint8), (len(shown.truth), 1))
        # A little thicker: where a detection agrees with the truth, both are seen.
        parts["truth"] = _mesh(
            box_frames(scale_boxes(shown.truth, frame.voxel_size, frame.box_min), colours, 1.4 * bar)
        )
    if shown.boxes is not None and shown.scores is not None:
        boxes = scale_boxes(shown.boxes, frame.voxel_size, frame.box_min)
        parts["detections"] = _mesh(box_frames(boxes, score_colours(shown.scores), bar))
    if shown.instances is not None:
        parts["instances"] = _mesh(_instance_surface(shown, config), frame.voxel_size, frame.box_min)
    if shown.heatmap is not None:
        parts["heatmap"] = _points(shown.heatmap, frame, config)
    return {name: part for name, part in parts.items() if len(part.vertices)}


def _instance_surface(contents: SceneContents, config: SceneFilesConfig) -> ColouredFaces:
    """Faces of the masks, a hair larger than those of the grid that they cover."""
    assert contents.instances is not None
    features = contents.coloured_by_instance().features
    features[3] = contents.instances > 0
    faces = voxel_surface(features, None, 0.5, config.max_faces)
    corners = faces.vertices.reshape(-1, 4, 3)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-6)
    lifted = (corners + 0.02 * normal[:, None]).reshape(-1, 3).astype(np.float32)
    return replace(faces, vertices=lifted)


def _mesh(faces: ColouredFaces, scale: np.ndarray | float = 1.0, shift: np.ndarray | float = 0.0) -> trimesh.Trimesh:
    vertices = faces.vertices * scale + shift
    return trimesh.Trimesh(vertices, faces.triangles, vertex_colors=faces.colours, process=False)


def _points(heatmap: np.ndarray, frame: GridFrame, config: SceneFilesConfig) -> trimesh.PointCloud:
    heat = heatmap.reshape(-1)
    chosen = np.flatnonzero(heat >= config.min_heat)
    if len(chosen) > config.max_points:
        chosen = chosen[np.argpartition(-heat[chosen], config.max_points)[: config.max_points]]
    centres = np.stack(np.unravel_index(chosen, heatmap.shape), 1) + 0.5
    return trimesh.PointCloud(centres * frame.voxel_size + frame.box_min, colors=score_colours(heat[chosen]))


def _linear(colours: np.ndarray) -> np.ndarray:
    """sRGB as glTF wants colours of vertices; opacity stays."""
    srgb = colours[:, :3] / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.concatenate([np.round(255 * linear).astype(np.uint8), colours[:, 3:]], axis=1)


def _without_lights(tree: dict[str, Any]) -> None:
    tree["materials"] = [_UNLIT]
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), "KHR_materials_unlit"})
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0
