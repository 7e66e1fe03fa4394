"""Pixels next to instance boundaries, and the sampler's use of them."""

import torch

from instance_nerfstudio import instance_boundaries
from instance_nerfstudio.instance_boundaries import boundary_mask, boundary_pixels
from instance_nerfstudio.instance_pixel_sampler import InstancePixelSamplerConfig


def two_halves(height: int = 12, width: int = 20) -> torch.Tensor:
    """Background on the left, instance 7 from the middle column on."""
    labels = torch.zeros(height, width, dtype=torch.int32)
    labels[:, width // 2 :] = 7
    return labels


def test_boundary_is_as_wide_as_asked_on_both_sides() -> None:
    for radius in (1, 3):
        columns = boundary_mask(two_halves(), radius).all(dim=0).nonzero()[:, 0].tolist()
        assert columns == list(range(10 - radius, 10 + radius))
        assert int(boundary_mask(two_halves(), radius).sum()) == 12 * 2 * radius


def test_step_to_unlabelled_is_no_boundary() -> None:
    labels = two_halves()
    labels[labels == 7] = -1
    assert not boundary_mask(labels, 4).any()


def test_pixels_name_their_image_and_respect_the_mask() -> None:
    labels = [torch.zeros(5, 6, 1, dtype=torch.int32), two_halves()[..., None]]
    masks = [torch.ones(5, 6, 1), torch.ones(12, 20, 1)]
    masks[1][:6] = 0
    pixels = boundary_pixels(labels, masks, radius=1)
    assert set(map(tuple, pixels.tolist())) == {(1, row, column) for row in range(6, 12) for column in (9, 10)}


def test_long_lists_are_thinned(monkeypatch) -> None:
    monkeypatch.setattr(instance_boundaries, "_MAX_PIXELS", 5)
    pixels = boundary_pixels([two_halves()[..., None]], None, radius=2)
    assert pixels.shape == (5, 3)
    assert len(set(map(tuple, pixels.tolist()))) == 5


def batch(labels: torch.Tensor) -> dict:
    shape = (2, *labels.shape, 1)
    return {
        "image": torch.rand(2, *labels.shape, 3),
        "image_idx": torch.tensor([4, 9]),
        "instances": labels[None, ..., None].expand(shape).contiguous(),
    }


def test_share_of_the_batch_lies_next_to_boundaries() -> None:
    sampler = InstancePixelSamplerConfig(boundary_fraction=0.75, boundary_radius=1).setup(num_rays_per_batch=400)
    near = {9, 10}
    sample = sampler.sample(batch(two_halves()))
    assert set(sample["indices"][:300, 2].tolist()) == near
    assert set(sample["indices"][300:, 2].tolist()) - near
    assert set(sample["indices"][:300, 0].tolist()) == {4, 9}

    sampler.use_boundaries = False
    assert set(sampler.sample(batch(two_halves()))["indices"][:300, 2].tolist()) - near


def test_scene_without_boundaries_is_sampled_evenly() -> None:
    sampler = InstancePixelSamplerConfig(boundary_fraction=0.75).setup(num_rays_per_batch=400)
    sample = sampler.sample(batch(torch.zeros(12, 20, dtype=torch.int32)))
    assert len(set(sample["indices"][:, 2].tolist())) == 20
