"""Photos through a lens: labels are undistorted as nerfstudio undistorts photos, pictures are distorted back."""

from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.splats.lens import has_lens, pinhole_view, through_lens
from instance_nerfstudio.splats.splat_datamanager import check_cameras, undistort_labels

LENSES: dict[str, tuple[CameraType, list[float]]] = {
    "perspective": (CameraType.PERSPECTIVE, [-0.12, 0.03, 0.002, 0.0, 0.004, -0.003]),
    "fisheye": (CameraType.FISHEYE, [0.05, -0.01, 0.002, 0.001, 0.0, 0.0]),
}
WIDTH, HEIGHT = 96, 72


def _camera(kind: CameraType, lens: list[float] | None) -> Cameras:
    pose = torch.tensor([[0.0, 0.0, -1.0, 0.3], [-1.0, 0.0, 0.0, 0.1], [0.0, 1.0, 0.0, -0.2]])
    distortion = None if lens is None else torch.tensor([lens])
    return Cameras(
        pose[None], 70.0, 72.0, 47.0, 36.5, WIDTH, HEIGHT, distortion_params=distortion, camera_type=kind.value
    )


@pytest.mark.parametrize("name", LENSES)
def test_labels_follow_the_undistorted_photo(name: str) -> None:
    from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image

    kind, lens = LENSES[name]
    camera = _camera(kind, lens)
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    labels = (1 + row // 18 * 4 + column // 24).astype(np.int32)
    photo = np.repeat(labels[..., None], 3, axis=-1).astype(np.float32)
    intrinsics = camera[0].get_intrinsics_matrices().numpy()
    made, undistorted, _ = _undistort_image(camera[0], np.array(lens), {}, photo, intrinsics.copy())
    height, width = undistorted.shape[:2]
    fx, fy, cx, cy = (float(made[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
    after = Cameras(camera.camera_to_worlds[0], fx, fy, cx, cy, width, height, camera_type=kind.value)
    found = undistort_labels(labels, intrinsics, np.array(lens, np.float32), after)
    assert found.shape == (height, width)
    assert found.dtype == np.int32
    sharp = np.abs(undistorted[..., 0] - np.rint(undistorted[..., 0])) < 1e-3  # not interpolated between labels
    inside = sharp & (undistorted[..., 0] >= 1)
    assert inside.mean() > 0.7
    assert (found == undistorted[..., 0])[inside].mean() > 0.98


@pytest.mark.parametrize("name", LENSES)
def test_pictures_are_seen_through_the_lens(name: str) -> None:
    """A picture of directions, rendered by the pinhole camera, holds the lens camera's own directions afterwards."""
    kind, lens = LENSES[name]
    camera = _camera(kind, lens)
    assert has_lens(camera)
    pinhole, places = pinhole_view(camera)
    assert not has_lens(pinhole)
    rays = pinhole.generate_rays(camera_indices=0).directions
    ids = torch.arange(rays.shape[0] * rays.shape[1], dtype=torch.int32).view(*rays.shape[:2], 1)
    seen = through_lens({"rgb": rays, "instance_ids": ids}, places)
    expected = camera.generate_rays(camera_indices=0).directions
    assert seen["rgb"].shape == (HEIGHT, WIDTH, 3)
    known = places.isfinite().all(dim=-1)
    assert known.float().mean() > 0.9
    assert float((seen["rgb"] - expected)[known].norm(dim=-1).quantile(0.99)) < 1.5e-3
    nearest = rays.flatten(0, 1)[seen["instance_ids"].flatten().long()].view_as(expected)
    assert seen["instance_ids"].dtype == torch.int32
    assert float((nearest - expected)[known].norm(dim=-1).max()) < 1.0 / 70, "within a pixel"


def test_pinholes_stay() -> None:
    assert not has_lens(_camera(CameraType.PERSPECTIVE, None))
    assert not has_lens(_camera(CameraType.PERSPECTIVE, [0.0] * 6))


def test_other_cameras_are_refused() -> None:
    check_cameras(_camera(CameraType.FISHEYE, LENSES["fisheye"][1]))
    wrong: Any = _camera(CameraType.EQUIRECTANGULAR, None)
    with pytest.raises(InputError, match="EQUIRECTANGULAR: splats take perspective and fisheye photos"):
        check_cameras(wrong)
