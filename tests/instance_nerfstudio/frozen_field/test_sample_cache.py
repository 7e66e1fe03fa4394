"""Samples cached per ray stand for all of them, and memory that runs out costs time, not the run."""

import pytest
import torch

from instance_nerfstudio.frozen_field.sample_cache import SampleCache, cache_samples
from instance_nerfstudio.weight_quantiles import weight_quantiles


def test_quantiles_of_simple_weights():
    weights = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.1, 0.3, 0.0], [0.0] * 4])
    index, total = weight_quantiles(weights, 4)
    assert index[:3].tolist() == [[1, 1, 1, 1], [0, 1, 2, 3], [1, 2, 2, 2]]
    torch.testing.assert_close(total, torch.tensor([1.0, 1.0, 0.4, 0.0]))
    assert ((index >= 0) & (index < 4)).all()


def test_quantiles_keep_what_the_heaviest_samples_miss():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(500, 48, generator=generator) ** 2
    weights = 0.9 * weights / weights.sum(-1, keepdim=True)
    features = torch.randn(500, 48, 6, generator=generator).cumsum(dim=1) / 7  # neighbours are alike
    full = (weights[..., None] * features).sum(1)

    index, total = weight_quantiles(weights, 8)
    kept = total[:, None] * features.take_along_dim(index[..., None], 1).mean(1)
    top, place = weights.topk(8, dim=-1)
    top = top * total[:, None] / top.sum(-1, keepdim=True)
    heaviest = (top[..., None] * features.take_along_dim(place[..., None], 1)).sum(1)
    assert (kept - full).norm() < 0.5 * (heaviest - full).norm()


@pytest.mark.parametrize("training", [False, True])
def test_cached_features_are_those_of_rendering(trained, training):
    model, cameras = trained.pipeline.model, trained.pipeline.datamanager.train_dataset.cameras
    model.train(training)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.stack([torch.randint(n, (300,), generator=generator) for n in (4, 24, 32)], dim=-1).int()
    rays = cameras.generate_rays(pixels[:, :1].long(), coords=pixels[:, 1:] + 0.5)
    with torch.no_grad():
        torch.manual_seed(3)
        positions, geometry, weights = model.field_samples(rays)
        full = (weights[..., None] * model.instance_head(positions, geometry)).sum(dim=-2)
        errors = []
        for samples in (2, 64):
            torch.manual_seed(3)
            cache = cache_samples(model, cameras, pixels, samples)
            features = cache.features(model, torch.arange(300))
            errors.append(float((features - full).norm() / full.norm()))
            assert not cache.positions.requires_grad
        torch.testing.assert_close(cache.accumulation, weights.sum(-1), atol=2e-3 if training else 1e-5, rtol=0)
    assert errors[1] < 0.05
    assert errors[0] > errors[1]


def test_bytes_per_ray_are_what_is_allocated(trained):
    model, cameras = trained.pipeline.model, trained.pipeline.datamanager.train_dataset.cameras
    cache = cache_samples(model, cameras, torch.zeros(10, 3, dtype=torch.int32), 3)
    tensors = (cache.positions, cache.geometry, cache.accumulation)
    assert sum(x.numel() * x.element_size() for x in tensors) == 10 * SampleCache.bytes_per_ray(
        3, model.field.geo_feat_dim
    )


def test_logits_are_rendered_ones(trained):
    """The whole way: what the cache gives for a camera's pixels is what rendering that camera shows."""
    pipeline = trained.pipeline
    model, cameras = pipeline.model, pipeline.datamanager.eval_dataset.cameras
    row, column = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    pixels = torch.stack([torch.ones_like(row), row, column], dim=-1).view(-1, 3).int()
    cache = cache_samples(model, cameras, pixels, 64)
    with torch.no_grad():
        ids = model.instance_head.predict(cache.features(model, slice(None)))[0].view(24, 32, 1)
    assert (ids == model.render(cameras[1:2])["instance_ids"]).float().mean() > 0.98
