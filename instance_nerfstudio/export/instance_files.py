"""The files of an exported instance: mesh as GLB and PLY, points as PLY, thumbnail as PNG."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from scipy import ndimage
from torch import Tensor

from instance_nerfstudio.edits.instance_edits import InstanceEdits
from instance_nerfstudio.export.density_visibility import project
from rcnn.safe_files import write_atomically, write_rgb_png
from rcnn.visualization.scene_files import parts_as_glb

if TYPE_CHECKING:
    import trimesh

    from instance_nerfstudio.instance_model import InstanceModel

MESHES_FOLDER, POINTS_FOLDER, THUMBNAILS_FOLDER = "meshes", "points", "thumbnails"
_SMALLEST_THUMBNAIL = 16
# What is rendered around the points of an instance that are known, relative to their extent and in pixels.
_RIM, _RIM_PIXELS = 0.1, 4


def file_stem(instance: int) -> str:
    """What the files of an instance are called, without suffix."""
    return f"{instance:05d}"


def write_mesh(folder: Path, name: str, mesh: "trimesh.Trimesh") -> dict[str, str]:
    """Writes `meshes/NAME.glb` (unlit, y up as glTF wants) and `meshes/NAME.ply` (world axes); paths in `folder`."""
    files = {kind: f"{MESHES_FOLDER}/{name}.{kind}" for kind in ("glb", "ply")}
    write_atomically(folder / files["glb"], parts_as_glb({name: mesh}))
    ply = mesh.export(file_type="ply")
    assert isinstance(ply, bytes)
    write_atomically(folder / files["ply"], ply)
    return files


def write_points(
    folder: Path, name: str, points: Float[np.ndarray, "points 3"], colours: UInt8[np.ndarray, "points 4"]
) -> dict[str, str]:
    """Writes `points/NAME.ply` in the world frame."""
    path = f"{POINTS_FOLDER}/{name}.ply"
    write_point_cloud(folder / path, points, colours)
    return {"points": path}


def write_point_cloud(
    path: Path, points: Float[np.ndarray, "points 3"], colours: UInt8[np.ndarray, "points channels"]
) -> None:
    """Writes points with RGB or RGBA colours as PLY, whole or not at all."""
    import trimesh

    data = trimesh.PointCloud(points, colors=colours).export(file_type="ply")
    assert isinstance(data, bytes)
    write_atomically(path, data)


def write_thumbnail(
    folder: Path,
    name: str,
    model: "InstanceModel",
    camera: Cameras,
    instance: int,
    edits: InstanceEdits,
    size: int,
    surface: Float[Tensor, "points 3"],
) -> dict[str, str]:
    """Writes `thumbnails/NAME.png`: the instance alone on black, from `camera`; nothing if it isn't there.

    Args:
        folder: the export's.
        name: of the instance's files.
        model: `InstanceModel`.
        camera: one camera of shape (1,) in the scene frame, whose picture is as large as the training photo's.
        instance: its id after the merges.
        edits: those of the run.
        size: pixels of the longer side of the whole view, of which the thumbnail is cut out.
        surface: points on the instance, in the scene frame: nothing is rendered far from them.
    """
    alone = edits.with_everything_shown()
    alone = InstanceEdits(merged=alone.merged, isolated=frozenset({instance}))
    longest = max(int(camera.height.max()), int(camera.width.max()))
    camera.rescale_output_resolution(size / longest, scale_rounding_mode="round")
    outputs = model.render(_cropped_to(camera.to(model.device), surface.to(model.device)), edits=alone)
    shown = (outputs["instance_ids"][..., 0] == instance).cpu().numpy()
    if not shown.any():
        return {}
    pieces: np.ndarray = ndimage.label(shown)[0]  # type: ignore[assignment,index]
    # Labels leak to a few pixels elsewhere: the largest piece is cut out.
    rows, columns = np.nonzero(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())
    top, bottom, left, right = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
    if min(bottom - top, right - left) < 1 or max(bottom - top, right - left) < _SMALLEST_THUMBNAIL:
        return {}
    picture = (outputs["rgb"][top:bottom, left:right].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    path = f"{THUMBNAILS_FOLDER}/{name}.png"
    write_rgb_png(folder / path, picture)
    return {"thumbnail": path}


def _cropped_to(camera: Cameras, points: Float[Tensor, "points 3"]) -> Cameras:
    """The part of a camera's picture that shows points, with a rim; all of it when it shows none."""
    rows, columns, _, inside = project(camera, points)
    if not inside.any():
        return camera
    width, height = int(camera.width), int(camera.height)
    (left, right), (top, bottom) = _with_rim(columns[inside], width), _with_rim(rows[inside], height)
    return Cameras(
        camera.camera_to_worlds,
        camera.fx,
        camera.fy,
        camera.cx - left,
        camera.cy - top,
        right - left,
        bottom - top,
        camera.distortion_params,
        camera.camera_type,
        camera.times,
        camera.metadata,
    )


def _with_rim(places: Float[Tensor, " points"], size: int) -> tuple[int, int]:
    low, high = int(places.min()), int(places.max()) + 1
    rim = round(_RIM * (high - low)) + _RIM_PIXELS
    return max(0, low - rim), min(size, high + rim)
