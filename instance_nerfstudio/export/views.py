"""The views that an export renders: cameras as training saw them, and a file name for each."""

import json
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Int32, UInt8
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras, CameraType
from numpy import ndarray
from torch import Tensor

from instance_nerfstudio.errors import InputError

# Captured views are too far apart for a film's rate.
DATASET_FPS = 10.0
DEFAULT_PATH_FPS = 24.0


@dataclass(frozen=True)
class View:
    """A camera to render, and what its files are called."""

    name: str
    """Path of its files without suffix, relative to each output folder, with forward slashes; unique."""
    image_name: str
    """The photo's path, relative to the folder that all photos share."""
    camera: Cameras
    """Cameras of shape (1,) in the scene frame, on the CPU."""


@dataclass(frozen=True)
class Frame:
    """A rendered view, as every writer takes it."""

    view: View
    ids: Int32[ndarray, "height width"]
    """-1 unlabelled, 0 background, else the instance."""
    confidence: Float32[ndarray, "height width"]
    """Probability of that id."""
    colour: UInt8[ndarray, "height width 3"]
    """Instance colours."""
    overlay: UInt8[ndarray, "height width 3"]
    """Instance colours over the rendered photo."""


def dataset_views(datamanager: Any, camera_optimizer: Any, which: Literal["train", "eval", "all"]) -> list[View]:
    """Views of the scene's photos, ordered by name.

    An image that both splits hold is a training view. Names don't depend on `which`: the name of an image is its path
    below the folder that the images of both splits share, so that its mask is found again when the export is trained
    on; of two images that differ by suffix only, one keeps its suffix.

    Args:
        datamanager: has `train_dataset` and `eval_dataset`, each with `cameras` and `image_filenames`.
        camera_optimizer: nerfstudio's; its learned poses move the training views.
        which: the split.

    Raises:
        InputError: the split has no views.
    """
    splits = {"train": datamanager.train_dataset, "eval": datamanager.eval_dataset}
    split_cameras = {
        "train": corrected_cameras(datamanager.train_dataset.cameras, camera_optimizer),
        "eval": datamanager.eval_dataset.cameras,
    }
    cameras: dict[Path, Cameras] = {}
    chosen: set[Path] = set()
    for split, dataset in splits.items():
        for i, image in enumerate(dataset.image_filenames):
            path = Path(os.path.abspath(image))
            cameras.setdefault(path, split_cameras[split][i : i + 1])
            if which in (split, "all"):
                chosen.add(path)
    if not chosen:
        raise InputError(f"--cameras {which}: the scene has no such views; choose --cameras all")

    root = photos_root(datamanager)
    taken: set[str] = set()
    views: list[View] = []
    for path, camera in cameras.items():
        image_name = path.relative_to(root)
        stem, full = image_name.with_suffix("").as_posix(), image_name.as_posix()
        candidates = chain([stem, full], (f"{full}_{number}" for number in count(2)))
        name = next(name for name in candidates if name not in taken)
        taken.add(name)
        if path in chosen:
            views.append(View(name, full, camera))
    return sorted(views, key=lambda view: view.name)


def photos_root(datamanager: Any) -> Path:
    """The folder that the photos of both splits share, to which `View.image_name` is relative."""
    photos = [*datamanager.train_dataset.image_filenames, *datamanager.eval_dataset.image_filenames]
    return Path(os.path.commonpath([Path(os.path.abspath(photo)).parent for photo in photos]))


def corrected_cameras(cameras: Cameras, camera_optimizer: CameraOptimizer) -> Cameras:
    """Training cameras where the camera optimizer has moved them to, on the CPU.

    nerfstudio moves rays, and in training only: origin + t, R · direction, both in the scene frame. A camera's ray
    directions are the columns' combinations of its rotation, so R multiplies from the left.

    Args:
        cameras: all training cameras, in the optimizer's order.
        camera_optimizer: nerfstudio's, in any mode.
    """
    cameras = deepcopy(cameras).to("cpu")
    if camera_optimizer.config.mode != "off":
        with torch.no_grad():
            correction = camera_optimizer.get_correction_matrices().cpu()
        poses = cameras.camera_to_worlds
        rotation = correction[:, :3, :3] @ poses[:, :3, :3]
        cameras.camera_to_worlds = torch.cat([rotation, poses[:, :3, 3:] + correction[:, :3, 3:]], dim=-1)
    return cameras


def shrink_cameras(cameras: Cameras, longest_side: int) -> None:
    """Rescales cameras in place, so that no picture has a side of more pixels; smaller ones stay."""
    sizes = torch.stack([cameras.height.flatten(), cameras.width.flatten()]).max(dim=0).values.cpu()
    cameras.rescale_output_resolution((longest_side / sizes).clamp(max=1.0)[:, None], "round")


def path_views(camera_path: Path) -> tuple[list[View], float]:
    """Views along a camera path as nerfstudio's viewer saves it, named by frame number, and its frames per second.

    The path's crop box is left out of account: masks show all instances.

    Raises:
        InputError: no such file, no camera path in it, or a stereo camera, which is two views in one.
    """
    from nerfstudio.cameras.camera_paths import get_path_from_json

    if not camera_path.is_file():
        raise InputError(f"{camera_path}: no such file; save a camera path in the viewer and give it to --camera-path")
    try:
        content = json.loads(camera_path.read_text(encoding="utf-8"))
        cameras = get_path_from_json(content)
        seconds = float(content.get("seconds") or 0.0)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"{camera_path}: not a camera path ({error!r}); save one in the render tab of nerfstudio's viewer"
        ) from error
    flat = (CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value, CameraType.EQUIRECTANGULAR.value)
    if int(cameras.camera_type[0]) not in flat:
        raise InputError(f"{camera_path}: is a stereo path; save it with the camera type perspective, fisheye or 360")
    names = [f"{frame:05d}" for frame in range(len(cameras))]
    views = [View(name, f"{name}.png", cameras[i : i + 1]) for i, name in enumerate(names)]
    return views, len(views) / seconds if seconds > 0 else DEFAULT_PATH_FPS


def scaled_views(views: Sequence[View], scale: float) -> list[View]:
    """The views at another resolution; the given ones stay as they are.

    Raises:
        InputError: `scale` is not positive, or leaves a view without a pixel.
    """
    if not scale > 0:
        raise InputError(f"--scale {scale}: must be positive; 0.5 renders half as many rows and columns")
    scaled = []
    for view in views:
        camera = deepcopy(view.camera).to("cpu")
        camera.rescale_output_resolution(scale, scale_rounding_mode="round")
        if min(view_size(camera)) < 1:
            raise InputError(f"--scale {scale}: leaves no pixel of {view.image_name}; choose a larger scale")
        scaled.append(View(view.name, view.image_name, camera))
    return scaled


def view_size(camera: Cameras) -> tuple[int, int]:
    """(height, width) of one camera in pixels."""
    return int(camera.height.flatten()[0]), int(camera.width.flatten()[0])


def scene_to_world(
    points: Float[Tensor, "points 3"], dataparser_transform: Float[Tensor, "3 4"], dataparser_scale: float
) -> Float[Tensor, "points 3"]:
    """Undoes nerfstudio's scene = scale · (R · world + t); float64."""
    transform = dataparser_transform.double().cpu()
    unscaled = points.double().cpu() / dataparser_scale - transform[:, 3]
    return torch.linalg.solve(transform[:, :3], unscaled.T).T


def world_to_scene(
    points: Float[Tensor, "points 3"], dataparser_transform: Float[Tensor, "3 4"], dataparser_scale: float
) -> Float[Tensor, "points 3"]:
    """nerfstudio's scene = scale · (R · world + t); float64."""
    transform = dataparser_transform.double().cpu()
    return dataparser_scale * (points.double().cpu() @ transform[:, :3].T + transform[:, 3])
