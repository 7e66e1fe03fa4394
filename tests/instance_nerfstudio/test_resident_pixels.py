"""Pixels on the device give the rays, colours and labels that nerfstudio's own path gives for them."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from instance_nerfstudio.resident_pixels import resident_pixels

CPU = torch.device("cpu")


def make_cameras(count: int, sizes: list[tuple[int, int]], types: list[CameraType], distorted: bool) -> Cameras:
    poses = torch.linalg.qr(torch.randn(count, 3, 3, generator=torch.Generator().manual_seed(0)))[0]
    poses *= torch.linalg.det(poses)[:, None, None]
    height, width = (torch.tensor(sides)[:, None] for sides in zip(*sizes, strict=True))
    return Cameras(
        camera_to_worlds=torch.cat([poses, torch.randn(count, 3, 1)], dim=-1),
        fx=torch.full((count, 1), 20.0),
        fy=torch.full((count, 1), 21.0),
        cx=width / 2.0,
        cy=height / 2.0 + 0.3,
        width=width,
        height=height,
        distortion_params=torch.tensor([[0.1, -0.02, 0, 0, 0.001, 0.002]]).repeat(count, 1) if distorted else None,
        camera_type=torch.tensor([[kind.value] for kind in types]),
    )


@pytest.mark.parametrize("distorted", [False, True])
@pytest.mark.parametrize("jagged", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_nerfstudios_rays_and_pixels(distorted: bool, jagged: bool, masked: bool) -> None:
    sizes = [(12, 16), (12, 16), (10, 14) if jagged else (12, 16)]
    cameras = make_cameras(4, [*sizes, (12, 16)], [CameraType.PERSPECTIVE] * 3 + [CameraType.FISHEYE], distorted)
    images = [torch.randint(0, 256, (*size, 3)).float() / 255 for size in sizes]
    labels = [torch.randint(-1, 3, (*size, 1), dtype=torch.int32) for size in sizes]
    masks = [torch.rand(*size, 1) < 0.5 for size in sizes]
    order = torch.tensor([3, 0, 2])  # views may come in any order
    sized = make_cameras(4, [sizes[1], (12, 16), sizes[2], sizes[0]], [CameraType.PERSPECTIVE] * 4, distorted)
    cameras = sized if jagged else cameras
    batch = {"image": images, "instances": labels, "image_idx": order} | ({"mask": masks} if masked else {})
    resident = resident_pixels(batch, cameras, 2, 1 << 30, CPU)
    assert resident is not None
    assert resident.images.dtype == torch.uint8
    rays, sampled = resident.sample(400, 0.5)
    assert rays.camera_indices is not None
    camera, row, column = sampled["indices"].unbind(dim=-1)
    assert set(camera.tolist()) == {0, 2, 3}
    expected = cameras.generate_rays(camera_indices=camera[:, None], coords=torch.stack([row, column], dim=-1) + 0.5)
    torch.testing.assert_close(rays.origins, expected.origins)
    torch.testing.assert_close(rays.directions, expected.directions, atol=2e-6, rtol=0)
    assert torch.equal(rays.camera_indices[:, 0], camera)
    for k in range(400):
        view = order.tolist().index(int(camera[k]))
        torch.testing.assert_close(sampled["image"][k], images[view][row[k], column[k]])
        assert sampled["instances"][k] == labels[view][row[k], column[k]]
        assert not masked or masks[view][row[k], column[k]]


def test_cameras_alike_share_their_directions() -> None:
    cameras = make_cameras(3, [(12, 16)] * 3, [CameraType.PERSPECTIVE] * 3, True)
    batch = {
        "image": torch.rand(3, 12, 16, 3),
        "instances": torch.zeros(3, 12, 16, 1, dtype=torch.int32),
        "image_idx": torch.arange(3),
    }
    resident = resident_pixels(batch, cameras, 2, 1 << 30, CPU)
    assert resident is not None
    assert resident.directions.shape == (12 * 16, 3)
    assert resident.images.dtype == torch.float32  # no eight bits hold these colours
    assert len(resident.boundaries) == 0
    assert resident.sample(64, 0.5)[1]["image"].shape == (64, 3)


def test_half_of_the_rays_lie_at_boundaries() -> None:
    labels = torch.zeros(1, 40, 40, 1, dtype=torch.int32)
    labels[:, :3, :3] = 1
    batch = {"image": torch.zeros(1, 40, 40, 3), "instances": labels, "image_idx": torch.zeros(1, dtype=torch.int64)}
    resident = resident_pixels(batch, make_cameras(1, [(40, 40)], [CameraType.PERSPECTIVE], False), 1, 1 << 30, CPU)
    assert resident is not None
    indices = resident.sample(1000, 0.5)[1]["indices"]
    near = (indices[:, 1:] <= 3).all(dim=-1)
    assert near[:500].all()
    assert near[500:].sum() < 50


def test_what_does_not_fit_stays() -> None:
    cameras = make_cameras(1, [(12, 16)], [CameraType.PERSPECTIVE], False)
    batch = {
        "image": torch.rand(1, 12, 16, 3),
        "instances": torch.zeros(1, 12, 16, 1, dtype=torch.int32),
        "image_idx": torch.zeros(1, dtype=torch.int64),
    }
    assert resident_pixels(batch, cameras, 2, 1000, CPU) is None


def test_rays_that_start_elsewhere_stay_with_nerfstudio() -> None:
    cameras = make_cameras(1, [(12, 16)], [CameraType.ORTHOPHOTO], False)
    batch = {
        "image": torch.rand(1, 12, 16, 3),
        "instances": torch.zeros(1, 12, 16, 1, dtype=torch.int32),
        "image_idx": torch.zeros(1, dtype=torch.int64),
    }
    assert resident_pixels(batch, cameras, 2, 1 << 30, CPU) is None
