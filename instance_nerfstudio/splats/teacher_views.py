"""Views that nobody took: a trained field renders them, between the photos, for splats to learn from.

Splats fit each photo by itself where few photos see a place: floaters before one camera, smears for the others. A field
is smooth there; pictures of it from in between teach splats as much (RadSplat, Niemeyer et al. 2024, learns from
pictures at the cameras of the photos). Depths do so where surfaces have no texture: any heap of Gaussians has the
colour of a white table, and its instance is then a mixture.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from rich.progress import track
from torch import Tensor

from instance_nerfstudio.export.views import corrected_cameras, scene_to_world, shrink_cameras, world_to_scene
from instance_nerfstudio.instance_model import InstanceModel, render_unedited
from instance_nerfstudio.masks.instance_masks import UNLABELLED, read_instance_mask, write_instance_mask
from instance_nerfstudio.masks.instances_json import MASKS_FOLDER
from instance_nerfstudio.splats.lens import has_lens, pinhole_view
from instance_nerfstudio.splats.pinhole import ray_lengths
from rcnn.safe_files import write_atomically

_CAMERAS_FILE, _DEPTHS_FOLDER = "transforms.json", "depths"
# The farther apart photos are that a view lies between, the more it shows what each photo sees at a flat angle.
_NEIGHBOURS = 40
# Cosine of the widest angle between two photos that have a view between them.
_SAME_WAY = -0.2
# Pixels of the longer side of a view at most: shapes show in small ones, and large ones would fill the GPU's memory.
_LONGEST_SIDE = 800
# Pixels of the longer side of the pictures that tell whether a camera stands free.
_GLANCE = 48
# A camera stands free where this share of its pixels is no nearer than half of what photos have before them.
_NEAREST = 0.05
# Less sure of its instance, a pixel is unlabelled.
_SURE = 0.5
# Less covered, a pixel has no depth.
_SURFACE = 0.5


@torch.no_grad()
def render_teacher_views(pipeline: Any, folder: Path, count: int, with_masks: bool, seed: int = 0) -> None:
    """Renders a field from places between the photos, as a scene of its own, with depths and masks.

    Args:
        pipeline: of a NeRF, in evaluation mode.
        folder: gets the files.
        count: views; there are fewer where the field leaves few places to stand.
        with_masks: whether its instances are wanted.
        seed: of the places.
    """
    model, parsed = pipeline.model, pipeline.datamanager.train_dataparser_outputs
    photos = corrected_cameras(pipeline.datamanager.train_dataset.cameras, model.camera_optimizer)
    with_masks = with_masks and isinstance(model, InstanceModel) and model.options.use_instances
    before_photos = torch.tensor([_nearest(model, photos[i : i + 1]) for i in range(len(photos))])
    room = 0.5 * float(before_photos.quantile(0.1))
    for name in ("images", _DEPTHS_FOLDER):
        (folder / name).mkdir()
    frames = []
    candidates = poses_between(photos.camera_to_worlds, 3 * count, seed)
    for photo, pose in track(candidates, "Looking from in between", transient=True):
        camera = photos[photo : photo + 1]
        if has_lens(camera):
            camera = pinhole_view(camera)[0]
        camera.camera_to_worlds = pose[None].to(camera.camera_to_worlds)
        if _nearest(model, camera) < room:
            continue
        camera = _shrunken(camera, _LONGEST_SIDE)
        name = f"{len(frames):04d}.png"
        outputs = render_unedited(model, camera)
        picture = (outputs["rgb"].clamp(0, 1) * 255).round().byte().cpu().numpy()
        Image.fromarray(picture).save(folder / "images" / name)
        depth = outputs["depth"] / ray_lengths(camera).to(outputs["depth"]) / parsed.dataparser_scale
        depth = depth.masked_fill(outputs["accumulation"] < _SURFACE, 0)
        np.save(folder / _DEPTHS_FOLDER / f"{Path(name).stem}.npy", depth.float().cpu().numpy(), allow_pickle=False)
        if with_masks:
            ids, sure = (outputs[key][..., 0].cpu().numpy() for key in ("instance_ids", "instance_confidence"))
            write_instance_mask(folder / MASKS_FOLDER / name, np.where(sure < _SURE, UNLABELLED, ids))
        frames.append({"file_path": f"images/{name}", **_frame(camera, parsed)})
        if len(frames) == count:
            break
    if len(frames) < count:
        CONSOLE.print(f"The field has room for {len(frames)} of {count} views between its photos.")
    write_atomically(folder / _CAMERAS_FILE, json.dumps({"frames": frames}).encode())


def read_teacher_views(folder: Path, parsed: DataparserOutputs) -> list[tuple[Cameras, dict[str, Tensor]]]:
    """Cameras of shape (1,), in the scene frame of the splats and on the CPU, with what they see.

    That is `image`, uint8 (H, W, 3), `instances`, int32 (H, W, 1): -1 unlabelled, 0 background, else the id, and
    `teacher_depth`, float32 (H, W, 1): along the optical axis, in scene units; 0 where nothing is.

    Args:
        folder: what `render_teacher_views` wrote.
        parsed: has the scene frame.
    """
    views = []
    turn = parsed.dataparser_transform[:, :3].double()
    for frame in json.loads((folder / _CAMERAS_FILE).read_text())["frames"]:
        image = torch.from_numpy(np.array(Image.open(folder / frame["file_path"]).convert("RGB")))
        labels = np.full(image.shape[:2], UNLABELLED, np.int32)
        mask = folder / MASKS_FOLDER / Path(frame["file_path"]).name
        if mask.is_file():
            labels = read_instance_mask(mask)
        depth = np.load(folder / _DEPTHS_FOLDER / f"{mask.stem}.npy", allow_pickle=False)
        world = torch.tensor(frame["transform_matrix"], dtype=torch.float64)[:3]
        position = world_to_scene(world[None, :, 3], parsed.dataparser_transform, parsed.dataparser_scale)[0]
        camera = Cameras(
            torch.cat([turn @ world[:, :3], position[:, None]], dim=-1).float()[None],
            *(torch.tensor([[float(frame[key])]]) for key in ("fl_x", "fl_y", "cx", "cy")),
            width=torch.tensor([[frame["w"]]]),
            height=torch.tensor([[frame["h"]]]),
            camera_type=CameraType.PERSPECTIVE,
        )
        view = {"image": image, "instances": torch.from_numpy(labels)[..., None]}
        views.append((camera, view | {"teacher_depth": torch.from_numpy(depth) * parsed.dataparser_scale}))
    return views


def poses_between(
    camera_to_worlds: Float[Tensor, "photos 3 4"], count: int, seed: int
) -> list[tuple[int, Float[Tensor, "3 4"]]]:
    """Poses on the way from a camera to a near one that looks the same way, each with the place of the first camera.

    There are fewer where most cameras have no such neighbour.
    """
    from scipy.spatial.transform import Rotation, Slerp  # not with nerfstudio's list of methods

    random = np.random.default_rng(seed)
    poses = camera_to_worlds.double().cpu().numpy()
    forward, positions = -poses[:, :, 2], poses[:, :, 3]
    between = []
    for _ in range(4 * count):
        first = int(random.integers(len(poses)))
        distances = np.linalg.norm(positions - positions[first], axis=-1)
        distances[(forward @ forward[first] < _SAME_WAY) | (np.arange(len(poses)) == first)] = np.inf
        near = np.argsort(distances)[:_NEIGHBOURS]
        near = near[np.isfinite(distances[near])]
        if not len(near):
            continue
        second, way = int(random.choice(near)), random.uniform(0.25, 0.75)
        turned = Slerp([0, 1], Rotation.from_matrix(poses[[first, second], :, :3]))(way).as_matrix()
        moved = (1 - way) * positions[first] + way * positions[second]
        between.append((first, torch.from_numpy(np.concatenate([turned, moved[:, None]], axis=-1))))
        if len(between) == count:
            break
    return between


def _nearest(model: Any, camera: Cameras) -> float:
    """Distance, in scene units, beyond which nearly all is that the camera sees."""
    depth = render_unedited(model, _shrunken(camera, _GLANCE))["depth"]
    return float(depth.float().flatten().quantile(_NEAREST))


def _shrunken(camera: Cameras, longest_side: int) -> Cameras:
    """The camera on the CPU, with a picture of no more pixels along a side."""
    small = camera.to("cpu")[0:1]
    shrink_cameras(small, longest_side)
    return small


def _frame(camera: Cameras, parsed: DataparserOutputs) -> dict[str, Any]:
    """The camera as a frame of transforms.json, in the world frame."""
    transform = parsed.dataparser_transform.double()
    pose = camera.camera_to_worlds[0].double().cpu()
    rotation = torch.linalg.solve(transform[:, :3], pose[:, :3])
    position = scene_to_world(pose[None, :, 3], parsed.dataparser_transform, parsed.dataparser_scale)[0]
    matrix = torch.cat([rotation, position[:, None]], dim=-1).tolist()
    numbers = {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy}
    return {
        "transform_matrix": [*matrix, [0.0, 0.0, 0.0, 1.0]],
        **{name: float(value.flatten()[0]) for name, value in numbers.items()},
        "w": int(camera.width.flatten()[0]),
        "h": int(camera.height.flatten()[0]),
    }
