"""Boxes of instances as wireframes in the viewer's 3D scene."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from viser import ViserServer

from instance_nerfstudio.masks.instances_json import InstanceInfo
from rcnn.visualization.box_frames import box_frames
from rcnn.visualization.colours import score_colours

# Thickness of a bar relative to the median of the boxes' diagonals.
_BAR = 0.012


class BoxLayer:
    """Boxes of one kind, as one object of the scene.

    Args:
        server: the viewer's.
        name: of the object.
        to_scene: world -> scene.
    """

    def __init__(self, server: ViserServer, name: str, to_scene: Float[np.ndarray, "4 4"]) -> None:
        self._server, self._name, self._to_scene = server, name, to_scene
        self._handle: Any = None

    def show(self, boxes: np.ndarray, colours: np.ndarray) -> None:
        """Draws boxes (K, 6 or 7), in world units, in place of those from before."""
        self.hide()
        if not len(boxes):
            return
        sizes = boxes[:, 3:6] if boxes.shape[1] == 7 else boxes[:, 3:] - boxes[:, :3]
        bar = _BAR * float(np.median(np.linalg.norm(sizes, axis=1))) + 1e-6
        faces = box_frames(boxes, colours, bar)
        vertices = faces.vertices @ self._to_scene[:3, :3].T + self._to_scene[:3, 3]
        mesh = trimesh.Trimesh(
            vertices * VISER_NERFSTUDIO_SCALE_RATIO, faces.triangles, vertex_colors=faces.colours, process=False
        )
        self._handle = self._server.scene.add_mesh_trimesh(self._name, mesh)

    def hide(self) -> None:
        """Removes what was drawn."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


class SceneBoxes:
    """The boxes of instances, and those of a detector.

    Args:
        server: the viewer's.
        to_scene: world -> scene.
        detections: the detector's boxes and their colours, if there are any.
    """

    def __init__(
        self,
        server: ViserServer,
        to_scene: Float[np.ndarray, "4 4"],
        detections: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        self.instances = BoxLayer(server, "/instance_boxes", to_scene)
        self._detector = BoxLayer(server, "/detector_boxes", to_scene)
        self._detections = detections

    def draw(self, infos: Sequence[InstanceInfo], with_detections: bool) -> None:
        """Shows the boxes of these instances, and the detector's or not, in place of what is drawn."""
        self.instances.show(*instance_boxes(infos))
        if self._detections is not None and with_detections:
            self._detector.show(*self._detections)
        else:
            self._detector.hide()


def instance_boxes(infos: Sequence[InstanceInfo]) -> tuple[np.ndarray, np.ndarray]:
    """Oriented boxes (K, 7), or upright ones where there are none, and their colours (K, 3) uint8."""
    boxes, colours = [], []
    for info in infos:
        if info.obb_world is not None:
            boxes.append(info.obb_world)
        elif info.box_world is not None:
            low, high = np.array(info.box_world[:3]), np.array(info.box_world[3:])
            boxes.append((*((low + high) / 2), *(high - low), 0.0))
        else:
            continue
        colours.append(info.colour)
    return np.array(boxes, float).reshape(-1, 7), np.array(colours, np.uint8).reshape(-1, 3)


def detector_boxes(path: Path | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Boxes (K, 6 or 7) in world units of a detector's output, and colours (K, 3) uint8 by score; None without any."""
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            boxes, scores = np.asarray(data["boxes"], float), np.asarray(data["scores"], float)
    except Exception:  # a damaged file can raise nearly anything, and boxes are an extra
        return None
    usable = boxes.ndim == 2 and boxes.shape[1] in (6, 7) and scores.shape == boxes.shape[:1] and len(boxes)
    return (boxes, score_colours(scores)) if usable and np.isfinite(boxes).all() else None
