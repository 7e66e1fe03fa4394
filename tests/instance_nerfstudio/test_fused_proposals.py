"""The fused proposal networks against nerfstudio's own networks and samplers, step by step."""

from typing import Any, cast

import pytest
import torch
from kernel_interpreter import run_interpreted
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.model_components.ray_samplers import PDFSampler, UniformLinDispPiecewiseSampler, UniformSampler
from nerfstudio.model_components.renderers import DepthRenderer

from instance_nerfstudio.fused_proposals import proposals_fit
from instance_nerfstudio.hash_grids.hash_grid import use_hash_grids


def some_rays(count: int, device: str) -> RayBundle:
    directions = torch.nn.functional.normalize(torch.randn(count, 3, device=device), dim=-1)
    ones = torch.ones(count, 1, device=device)
    near = 0.05 + 0.1 * torch.rand(count, 1, device=device)
    return RayBundle(torch.randn(count, 3, device=device), directions, ones, nears=near, fars=1000 * ones)


def network(device: str, hidden: int, levels: int) -> HashMLPDensityField:
    field = HashMLPDensityField(
        torch.tensor([[-1.0, -1, -1], [1, 1, 1]]), hidden_dim=hidden, num_levels=levels, max_res=128, base_res=16,
        log2_hashmap_size=10, average_init_density=0.1, implementation="torch",
        spatial_distortion=SceneContraction(order=float("inf")),
    ).to(device)  # fmt: skip
    use_hash_grids(field, input_gradients=False, fused=False)
    with torch.no_grad():
        field.encoding.hash_table.uniform_(-2, 2)
    return field


@torch.no_grad()
def compare_with_nerfstudio(device: str) -> None:
    from instance_nerfstudio.fused_proposals_triton import proposal_density, resample

    torch.manual_seed(0)
    for spacing_type, hidden, levels, old, new, anneal in (
        (UniformLinDispPiecewiseSampler, 16, 5, 19, 11, 1.0),
        (UniformSampler, 7, 3, 33, 8, 0.3),
    ):
        field, rays = network(device, hidden, levels), some_rays(7, device)
        if spacing_type is UniformSampler:
            assert rays.fars is not None
            rays.fars = rays.fars * 0 + 3
        spacing, placing = spacing_type(), PDFSampler(include_original=False)
        spacing.eval()
        placing.eval()
        bins = torch.linspace(0, 1, old + 1, device=device)[None]
        near, far = (spacing.spacing_fn(cast(Any, x)) for x in (rays.nears, rays.fars))
        ends = (near, far), spacing_type is UniformLinDispPiecewiseSampler
        samples = spacing(rays, num_samples=old)
        for _ in range(2):  # of the second time every ray has bins of its own
            expected = field.density_fn(samples.frustums.get_positions())
            encoding, mlp = field.mlp_base
            layers = [p for layer in mlp.layers for p in (layer.weight, layer.bias)]  # type: ignore[union-attr]
            density = proposal_density(
                (rays.origins, rays.directions), bins, *ends, encoding.hash_table,  # type: ignore[arg-type]
                encoding.scalings, tuple(layers), field.average_init_density,  # type: ignore[arg-type]
            )  # fmt: skip
            torch.testing.assert_close(density, expected[..., 0], atol=1e-4, rtol=1e-4)
            weights = samples.get_weights(expected)
            depth = DepthRenderer("median")(weights, samples)
            samples = placing(rays, samples, weights**anneal, num_samples=new)
            bins, found = resample(expected[..., 0].contiguous(), bins, *ends, torch.tensor(anneal).to(device), new)
            torch.testing.assert_close(found, depth, atol=1e-4, rtol=1e-4)
            assert samples.spacing_starts is not None
            assert samples.spacing_ends is not None
            torch.testing.assert_close(bins[:, :-1], samples.spacing_starts[..., 0], atol=2e-5, rtol=0)
            torch.testing.assert_close(bins[:, 1:], samples.spacing_ends[..., 0], atol=2e-5, rtol=0)
            bins = torch.cat([samples.spacing_starts[..., 0], samples.spacing_ends[:, -1:, 0]], dim=-1).contiguous()
            old, new = new, old
    empty, solid, odd = torch.zeros(1, 8), torch.full((1, 8), 1e30), torch.full((1, 8), float("nan"))
    bins, ends = torch.linspace(0, 1, 9, device=device)[None], (torch.zeros(3, 1), torch.ones(3, 1))
    ends = cast(Any, tuple(x.to(device) for x in ends))
    placed, _ = resample(torch.cat([empty, solid, odd]).to(device), bins, ends, False, torch.ones((), device=device), 4)
    torch.testing.assert_close(placed[0], (torch.arange(5, device=device) + 0.5) / 5)
    assert (placed[1, 1:-1] < 0.2).all()
    assert placed.isfinite().all()
    print("kernels agree")


def test_kernels_in_the_interpreter() -> None:
    result = run_interpreted(__file__)
    assert "kernels agree" in result.stdout, result.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_gpu() -> None:
    compare_with_nerfstudio("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pictures_stay_the_same(make_config, train, shared_scene, tmp_path) -> None:
    config = make_config(shared_scene, tmp_path, implementation="triton", use_label_regularization=False)
    config.machine.device_type = "cuda"
    pipeline = train(config).pipeline
    assert pipeline.model.fused_proposals
    camera, _ = pipeline.datamanager.next_eval_image(0)
    fused = pipeline.model.render(camera)
    pipeline.model.fused_proposals = False
    for name, expected in pipeline.model.render(camera).items():
        error = (fused[name].float() - expected.float()).abs()
        assert error.quantile(0.98) < 1e-3, name  # a median depth may jump to the next sample, an id may change


def test_nothing_is_fused_where_nothing_fits(trained) -> None:
    assert not trained.pipeline.model.fused_proposals
    assert not proposals_fit(trained.pipeline.model)


if __name__ == "__main__":
    compare_with_nerfstudio("cpu")
