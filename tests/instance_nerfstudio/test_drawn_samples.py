"""Samples drawn by the fused kernel against those of plain torch."""

from types import SimpleNamespace

import pytest
import torch
from kernel_interpreter import run_interpreted
from nerfstudio.cameras.rays import RayBundle

from instance_nerfstudio.hash_grids.hash_grid import CubicContraction
from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel


def compare_with_torch(device: str) -> None:
    from instance_nerfstudio.drawn_samples_triton import draw_samples

    torch.manual_seed(0)
    rays, count, draws = 21, 13, 6
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, device=device), dim=-1)
    bundle = RayBundle(torch.randn(rays, 3, device=device), directions, torch.ones(rays, 1, device=device))
    edges = torch.rand(rays, count + 1, device=device).cumsum(-1)
    samples = bundle.get_ray_samples(edges[:, :-1, None], edges[:, 1:, None])
    weights = torch.rand(rays, count, device=device) * (torch.rand(rays, count, device=device) > 0.4)
    weights[3] = 0
    features = torch.randn(rays, count, 8, device=device)
    geometry, jitter = features[..., 1:], torch.rand(rays, draws, device=device)
    positions, drawn, total = draw_samples(weights, jitter, samples, geometry)

    cumulated = weights.cumsum(-1)
    quantiles = (torch.arange(draws, device=device) + jitter) / draws * cumulated[:, -1:]
    index = torch.searchsorted(cumulated, quantiles).clamp(max=count - 1)[..., None]
    model = SimpleNamespace(field=SimpleNamespace(spatial_distortion=CubicContraction(order=float("inf"))))
    scene = samples.frustums.get_positions().take_along_dim(index, dim=1)
    expected = InstanceNerfactoModel.normalized_positions(model, scene)  # type: ignore[arg-type]
    torch.testing.assert_close(total, cumulated[:, -1])
    torch.testing.assert_close(drawn, geometry.take_along_dim(index, dim=1))
    torch.testing.assert_close(positions, expected, atol=1e-5, rtol=1e-5)
    print("kernel agrees")


def test_kernel_in_the_interpreter() -> None:
    result = run_interpreted(__file__)
    assert "kernel agrees" in result.stdout, result.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_gpu() -> None:
    compare_with_torch("cuda")


if __name__ == "__main__":
    compare_with_torch("cpu")
