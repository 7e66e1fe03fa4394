"""Where Gaussians start: a coloured point cloud in the world frame."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from rich.progress import track
from torch import Tensor

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.instance_statistics import SURFACE_ACCUMULATION
from instance_nerfstudio.export.views import corrected_cameras, scene_to_world, shrink_cameras, world_to_scene
from instance_nerfstudio.instance_model import render_unedited

# Pixels of the longer side of the views whose surfaces are taken.
_LONGEST_SIDE = 320


def use_start_points(outputs: DataparserOutputs, path: Path) -> None:
    """Puts the points of a PLY file in the place of those of the data.

    Args:
        outputs: what the training views were parsed to; gets the points in its scene frame.
        path: PLY with vertices in the world frame, and colours where it has them.

    Raises:
        InputError: no such file, or no points in it.
    """
    import trimesh

    if not path.is_file():
        raise InputError(f"{path}: no such file; give a PLY point cloud with --pipeline.datamanager.start-points")
    try:
        cloud: Any = trimesh.load(path, file_type="ply", process=False)
        points = np.asarray(cloud.vertices, np.float64)
        colours = np.asarray(cloud.visual.vertex_colors if cloud.visual.kind == "vertex" else cloud.colors)
    except Exception as error:  # trimesh raises whatever its parser meets
        raise InputError(f"{path}: not a PLY point cloud ({str(error) or type(error).__name__})") from error
    finite = np.isfinite(points).all(axis=-1)
    if not finite.any():
        raise InputError(f"{path}: has no points")
    if len(colours) != len(points):
        colours = np.full((len(points), 3), 128, np.uint8)
    world = torch.from_numpy(points[finite])
    scene = world_to_scene(world, outputs.dataparser_transform, outputs.dataparser_scale)
    outputs.metadata["points3D_xyz"] = scene.float()
    outputs.metadata["points3D_rgb"] = torch.from_numpy(colours[finite, :3].astype(np.uint8))


@torch.no_grad()
def surface_points(pipeline: Any, most: int) -> tuple[Float[Tensor, "points 3"], UInt8[Tensor, "points 3"]]:
    """Where the rays of a field's training views end, in the world frame, and the colours there.

    Args:
        pipeline: of a NeRF, in evaluation mode.
        most: points that are kept, drawn at random.
    """
    model, datamanager = pipeline.model, pipeline.datamanager
    cameras = corrected_cameras(datamanager.train_dataset.cameras, model.camera_optimizer)
    shrink_cameras(cameras, _LONGEST_SIDE)
    cameras = cameras.to(model.device)
    share = -(-most // len(cameras))
    points, colours = [], []
    for view in track(range(len(cameras)), "Looking for surfaces", transient=True):
        camera = cameras[view : view + 1]
        outputs = render_unedited(model, camera)
        solid = (outputs["accumulation"] > SURFACE_ACCUMULATION) & outputs["depth"].isfinite()
        places = solid.flatten().nonzero()[:, 0]
        places = places[torch.randperm(len(places), device=places.device)[:share]]
        rays = camera.generate_rays(camera_indices=0).flatten()
        depth = outputs["depth"].flatten()[places, None]
        points.append((rays.origins[places] + rays.directions[places] * depth).cpu())
        colours.append(outputs["rgb"].flatten(0, 1)[places].cpu())
    parsed = datamanager.train_dataparser_outputs
    world = scene_to_world(torch.cat(points), parsed.dataparser_transform, parsed.dataparser_scale)
    return world.float(), (torch.cat(colours).clamp(0, 1) * 255).round().byte()
