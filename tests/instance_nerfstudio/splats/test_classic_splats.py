"""Antialiased splats as viewers without antialiasing see them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from instance_nerfstudio.splats.classic_splats import classic_splats
from instance_nerfstudio.splats.gaussians import Gaussians
from instance_nerfstudio.splats.gsplat_ready import why_gsplat_cannot_run
from instance_nerfstudio.splats.pinhole import PinholeView
from instance_nerfstudio.splats.rasterize import Picture, Rasterizer, rasterize
from instance_nerfstudio.splats.splat_parameters import SplatParameters

FOCAL, SIZE = 40.0, 32
LOST_BLUR, FILTER = 0.2, 0.05


def _cameras(distances: list[float]) -> Cameras:
    """Looking along -z at the origin, from places on the z axis."""
    poses = torch.eye(4)[:3].repeat(len(distances), 1, 1)
    poses[:, 2, 3] = torch.tensor(distances)
    return Cameras(poses, FOCAL, FOCAL, SIZE / 2, SIZE / 2, SIZE, SIZE, camera_type=CameraType.PERSPECTIVE)


def _splats(means: Tensor, scales: Tensor, opacity: float) -> SplatParameters:
    count = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
    colours, rest = torch.ones(count, 3), torch.zeros(count, 3, 3)
    return SplatParameters(means, scales.log(), quats, colours, rest, torch.full((count, 1), opacity).logit())


def _threads() -> SplatParameters:
    """As thin as a tenth of a pixel: viewers would draw a fog."""
    random = torch.Generator().manual_seed(0)
    means = torch.cat([2 * torch.rand(1500, 2, generator=random) - 1, 0.1 * torch.rand(1500, 1, generator=random)], 1)
    return _splats(means, torch.tensor([0.05, 0.005, 0.005]).repeat(1500, 1), 0.9)


def _draw(
    splats: SplatParameters, camera: Cameras, antialiased: bool, zoom: int = 1, rasterizer: Rasterizer = "reference"
) -> Picture:
    view = PinholeView.of(camera, 1, splats.means.device)
    intrinsics = view.intrinsics * view.intrinsics.new_tensor([zoom, zoom, 1.0])[:, None]
    gaussians = Gaussians(splats.means, splats.quats, splats.scales.exp(), splats.opacities.sigmoid()[:, 0])
    return rasterize(
        gaussians, splats.features_dc, view.viewmat, intrinsics, zoom * view.width, zoom * view.height,
        sh_degree=None, depth=False, absgrad=False, antialiased=antialiased, rasterizer=rasterizer,
    )  # fmt: skip


def _classic(
    splats: SplatParameters, cameras: Cameras, mode: str = "antialiased", rasterizer: Rasterizer = "reference"
) -> SplatParameters:
    model: Any = SimpleNamespace(
        config=SimpleNamespace(rasterize_mode=mode),
        gauss_params=vars(splats),
        picture=lambda camera: _draw(splats, camera, antialiased=True, rasterizer=rasterizer),
    )
    return classic_splats(model, cameras)


def test_a_round_one() -> None:
    distances, size, opacity = [2.0, 4.0], 0.02, 0.8
    splats = _splats(torch.zeros(1, 3), torch.full((1, 3), size), opacity)
    classic = _classic(splats, _cameras(distances))
    variances = [(FOCAL * size / distance) ** 2 for distance in distances]
    kept = sum(variance / (variance + LOST_BLUR) for variance in variances) / 2
    pixel = sum(distance / FOCAL for distance in distances) / 2
    assert classic.opacities.sigmoid().item() == pytest.approx(opacity * kept, rel=1e-3)
    assert classic.scales.exp().flatten().tolist() == pytest.approx(
        [(size**2 + FILTER * pixel**2) ** 0.5] * 3, rel=1e-4
    )


def test_large_ones_hardly_change() -> None:
    splats = _splats(torch.zeros(1, 3), torch.full((1, 3), 0.5), 0.8)
    classic = _classic(splats, _cameras([2.0]))
    torch.testing.assert_close(classic.opacities.sigmoid(), splats.opacities.sigmoid(), rtol=0.01, atol=0)
    torch.testing.assert_close(classic.scales, splats.scales, rtol=0, atol=0.01)


def test_what_no_view_sees_stays() -> None:
    means = torch.tensor([[0.0, 0, 0], [0, 0, 9.0], [50.0, 0, 0]])
    splats = _splats(means, torch.full((3, 3), 0.01), 0.5)
    classic = _classic(splats, _cameras([2.0]))
    assert (classic.opacities != splats.opacities)[:, 0].tolist() == [True, False, False]
    assert (classic.scales != splats.scales).all(dim=1).tolist() == [True, False, False]
    for name in ("means", "quats", "features_dc", "features_rest"):
        torch.testing.assert_close(getattr(classic, name), getattr(splats, name), rtol=0, atol=0)


def test_splats_of_classic_training_stay() -> None:
    splats = _splats(torch.zeros(1, 3), torch.full((1, 3), 0.01), 0.5)
    assert torch.equal(_classic(splats, _cameras([2.0]), "classic").opacities, splats.opacities)


@pytest.mark.parametrize(("zoom", "times_better"), [(1, 4.0), (2, 1.5)])
def test_viewers_come_near_to_the_antialiased_picture(zoom: int, times_better: float) -> None:
    splats, cameras = _threads(), _cameras([2.0, 2.2])
    classic = _classic(splats, cameras)
    truth = _draw(splats, cameras[:1], antialiased=True, zoom=zoom).accumulation
    errors = [
        (_draw(each, cameras[:1], antialiased=False, zoom=zoom).accumulation - truth).square().mean()
        for each in (splats, classic)
    ]
    assert errors[0] > times_better * errors[1]


@pytest.mark.gpu
def test_the_same_by_kernels() -> None:
    if why := why_gsplat_cannot_run():
        pytest.skip(why)
    splats, cameras = _threads(), _cameras([2.0, 2.2])
    on_gpu = SplatParameters(**{name: values.cuda() for name, values in vars(splats).items()})
    got, expected = _classic(on_gpu, cameras, rasterizer="gsplat"), _classic(splats, cameras)
    torch.testing.assert_close(got.opacities.sigmoid().cpu(), expected.opacities.sigmoid(), rtol=0.01, atol=1e-3)
    torch.testing.assert_close(got.scales.cpu(), expected.scales, rtol=0, atol=1e-2)
