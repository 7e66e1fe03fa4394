"""Whole photos with their instance masks, as splats train on them, both free of lens distortion."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int32
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from torch import Tensor

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.instance_dataset import InstanceDataset
from instance_nerfstudio.labelled_scene import LabelledScene, MaskOptions
from instance_nerfstudio.masks.instance_masks import UNLABELLED
from instance_nerfstudio.splats.pinhole import VIEW
from instance_nerfstudio.splats.start_points import use_start_points
from instance_nerfstudio.splats.teacher_views import read_teacher_views


@dataclass
class SplatDataManagerConfig(MaskOptions, FullImageDatamanagerConfig):
    """nerfstudio's data manager of whole photos plus instance masks."""

    _target: type = field(default_factory=lambda: SplatDataManager)
    """Target class to instantiate."""
    start_points: Path | None = None
    """PLY point cloud in the world frame of the data where Gaussians start, in place of the data's own."""
    teacher_views: Path | None = None
    """Folder of a teacher's pictures from between the photos, which are trained on in their turn."""


class SplatDataManager(LabelledScene, FullImageDatamanager[InstanceDataset]):
    """Reads a scene through any nerfstudio dataparser. nerfstudio undistorts photos; labels follow them here."""

    config: SplatDataManagerConfig

    def create_train_dataset(self) -> InstanceDataset:
        if self.config.start_points is not None and self.test_mode == "val":  # later commands have a checkpoint
            use_start_points(self.train_dataparser_outputs, self.config.start_points)
        return super().create_train_dataset()

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """A photo, or a view of the teacher's, and its camera: each as often as the others, photos at least half.

        The camera stays on the CPU: nerfstudio sends its ten tensors one by one, and waits.
        """
        photos = len(self.train_dataset)
        views = min(len(self._teacher_views), photos)
        if step * views // (photos + views) != (step + 1) * views // (photos + views):  # evenly among the photos
            camera, view = self._teacher_views[int(self._turns.integers(len(self._teacher_views)))]
            return camera, dict(view)
        index = self.train_unseen_cameras.pop(0)
        if not self.train_unseen_cameras:
            self.train_unseen_cameras = self.sample_train_cameras()
        photo = dict(self.cached_train[index])
        photo["image"] = photo["image"].to(self.device)
        return self._photo_cameras[index], photo

    @cached_property
    def _photo_cameras(self) -> list[Cameras]:
        """The camera of each training photo by itself."""
        cameras = self.train_dataset.cameras.to("cpu")
        alone = [cameras[index : index + 1] for index in range(len(cameras))]
        for index, camera in enumerate(alone):
            camera.metadata = {**(camera.metadata or {}), "cam_idx": index, VIEW: index}
        return alone

    @cached_property
    def _teacher_views(self) -> list[tuple[Cameras, dict[str, Any]]]:
        """Those that are no photos: without `cam_idx`, by which photos have poses and colours of their own."""
        folder = self.config.teacher_views if self.test_mode == "val" else None  # later commands train on nothing
        views = [] if folder is None else read_teacher_views(folder, self.train_dataparser_outputs)
        for index, (camera, view) in enumerate(views):
            camera.metadata = {VIEW: len(self.train_dataset) + index}
            for name, picture in view.items():
                view[name] = picture.to(self.device)
        return views

    @cached_property
    def _turns(self) -> np.random.Generator:
        return np.random.default_rng(self.config.train_cameras_sampling_seed)

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list[dict[str, Tensor]]:
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        taken = dataset.cameras
        check_cameras(taken)
        intrinsics, distortion = taken.get_intrinsics_matrices().numpy().copy(), taken.distortion_params
        photos = super()._load_images(split, cache_images_device)
        for index, photo in enumerate(photos):
            labels = photo["instances"][..., 0].numpy()
            if distortion is not None and bool(distortion[index].any()):
                camera = dataset.cameras[index].reshape(())
                labels = undistort_labels(labels, intrinsics[index], distortion[index].numpy(), camera)
            photo["instances"] = torch.from_numpy(labels)[..., None].to(self.device)
        dataset.cameras.distortion_params = None  # as the photos are by now
        return photos


def check_cameras(cameras: Cameras) -> None:
    """Splats are rendered by pinhole cameras; nerfstudio undistorts these kinds to one.

    Raises:
        InputError: another kind.
    """
    known = (CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value)
    other = next((kind for kind in cameras.camera_type.flatten().tolist() if kind not in known), None)
    if other is not None:
        raise InputError(
            f"camera type {CameraType(other).name}: splats take perspective and fisheye photos; "
            "train instance-nerfacto on this scene"
        )


def undistort_labels(
    labels: Int32[np.ndarray, "height width"],
    intrinsics: Float[np.ndarray, "3 3"],
    distortion: Float[np.ndarray, " 6"],
    camera: Cameras,
) -> Int32[np.ndarray, "height_out width_out"]:
    """Labels of the photo as nerfstudio undistorts it, by nearest neighbour.

    Args:
        labels: of the photo as it was taken.
        intrinsics: of the photo as it was taken, pixel centres at 0.5.
        distortion: nerfstudio's (k1, k2, k3, k4, p1, p2).
        camera: what nerfstudio made of it.

    Returns:
        Labels; unlabelled where the photo shows nothing.
    """
    # OpenCV has pixel centres at integers.
    before, after = intrinsics.astype(np.float64), camera.get_intrinsics_matrices().numpy().astype(np.float64)
    before[:2, 2] -= 0.5
    after[:2, 2] -= 0.5
    size = int(camera.width), int(camera.height)
    k1, k2, k3, k4, p1, p2 = distortion.astype(np.float64)
    maps: Any
    if int(camera.camera_type) == CameraType.FISHEYE.value:
        lens = np.array([k1, k2, k3, k4])
        maps = cv2.fisheye.initUndistortRectifyMap(before, lens, np.eye(3), after, size, cv2.CV_32FC1)
    else:
        lens = np.array([k1, k2, p1, p2, k3])
        maps = cv2.initUndistortRectifyMap(before, lens, np.eye(3), after, size, cv2.CV_32FC1)
    columns, rows = (np.rint(places).astype(int) for places in maps)
    height, width = labels.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = labels[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return np.where(inside, found, UNLABELLED).astype(np.int32)
