"""The files of an exported instance: mesh as GLB and PLY, points as PLY, thumbnail as PNG."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from scipy import ndimage

from instance_nerfstudio.edits.instance_edits import InstanceEdits
from rcnn.safe_files import write_atomically, write_rgb_png
from rcnn.visualization.scene_files import parts_as_glb

if TYPE_CHECKING:
    import trimesh

MESHES_FOLDER, POINTS_FOLDER, THUMBNAILS_FOLDER = "meshes", "points", "thumbnails"
_SMALLEST_THUMBNAIL = 16


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
    import trimesh

    path = f"{POINTS_FOLDER}/{name}.ply"
    data = trimesh.PointCloud(points, colors=colours).export(file_type="ply")
    assert isinstance(data, bytes)
    write_atomically(folder / path, data)
    return {"points": path}


def write_thumbnail(
    folder: Path, name: str, model: Any, camera: Cameras, instance: int, edits: InstanceEdits, size: int
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
    """
    alone = edits.with_everything_shown()
    alone = InstanceEdits(merged=alone.merged, isolated=frozenset({instance}))
    longest = max(int(camera.height.max()), int(camera.width.max()))
    camera.rescale_output_resolution(size / longest, scale_rounding_mode="round")
    outputs = model.render(camera.to(model.device), edits=alone)
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
