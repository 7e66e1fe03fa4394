"""The pixel sampler on maps that hold their own coordinates."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from instance_nerfstudio.instance_pixel_sampler import InstancePixelSampler, InstancePixelSamplerConfig

PATCH = 4
IMAGE_IDX = [7, 2, 11]


def make_sampler(rays: int = 200, use_patches: bool = True, **options: Any) -> InstancePixelSampler:
    config = InstancePixelSamplerConfig(num_rays_per_batch=rays, patch_size=PATCH, patch_fraction=0.5, **options)
    sampler: InstancePixelSampler = config.setup()
    sampler.use_patches = use_patches
    sampler.use_boundaries = False
    return sampler


def make_images(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Each pixel's colour is (position of the image in the list, row, column), its label a number made of them."""
    images, labels = [], []
    for i, (height, width) in enumerate(sizes):
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        images.append(torch.stack([torch.full_like(row, i), row, column], dim=-1).float())
        labels.append((10000 * i + 100 * row + column)[..., None].int())
    batch: dict[str, Any] = {"image": images, "instances": labels, "image_idx": torch.tensor(IMAGE_IDX[: len(sizes)])}
    if len(set(sizes)) == 1:
        batch |= {key: torch.stack(batch[key]) for key in ("image", "instances")}
    return batch


EQUAL = [(12, 16)] * 3
MIXED = [(12, 16), (9, 20), (30, 6)]


def check_batch(batch: dict[str, Any], rays: int) -> Tensor:
    """Colours and labels are those of the pixels named in `indices`; returns (position of the image, row, column)."""
    pixel = batch["image"].long()
    assert pixel.shape == (rays, 3)
    assert torch.equal(batch["indices"][:, 1:], pixel[:, 1:])
    assert torch.equal(batch["indices"][:, 0], torch.tensor(IMAGE_IDX)[pixel[:, 0]])
    assert batch["instances"].dtype == torch.int32
    assert torch.equal(batch["instances"], (pixel @ torch.tensor([10000, 100, 1])).int()[:, None])
    assert "image_idx" not in batch
    return pixel


@pytest.mark.parametrize("sizes", [EQUAL, MIXED])
def test_patches_come_first_and_are_whole_squares(sizes):
    torch.manual_seed(0)
    batch = make_sampler().sample(make_images(sizes))
    pixel = check_batch(batch, 200)
    assert batch["patch_rays"] == 96  # 100 rays would be six patches and a quarter
    assert batch["patch_size"] == PATCH
    patches = pixel[:96].view(-1, PATCH, PATCH, 3)
    assert torch.equal(patches - patches[:, :1, :1], make_offsets().expand_as(patches))
    assert len(patches[:, 0, 0].unique(dim=0)) > 1


def make_offsets() -> Tensor:
    row, column = torch.meshgrid(torch.arange(PATCH), torch.arange(PATCH), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1)


@pytest.mark.parametrize("sizes", [[(6, 7)] * 3, [(6, 7), (5, 8), (9, 4)]])
def test_every_pixel_can_be_drawn_in_a_patch_and_alone(sizes):
    torch.manual_seed(0)
    sampler = make_sampler(rays=16000)
    pixel = check_batch(sampler.sample(make_images(sizes)), 16000)
    everywhere = sum(height * width for height, width in sizes)
    assert len(pixel[:8000].unique(dim=0)) == everywhere
    assert len(pixel[8000:].unique(dim=0)) == everywhere


@pytest.mark.parametrize("sizes", [EQUAL, MIXED])
def test_without_patches_by_default(sizes):
    sampler = InstancePixelSamplerConfig(num_rays_per_batch=300).setup()
    batch = sampler.sample(make_images(sizes))
    check_batch(batch, 300)
    assert batch["patch_rays"] == 0


def test_mixed_sizes_keep_the_images_equally_likely():
    torch.manual_seed(0)
    pixel = check_batch(make_sampler(rays=3000, use_patches=False).sample(make_images(MIXED)), 3000)
    assert pixel[:, 0].bincount().min() > 900


@pytest.mark.parametrize("sizes", [[(3, 2), (3, 2)], [(3, 2), (12, 2)]])
def test_images_smaller_than_a_patch_repeat_their_border(sizes):
    batch = make_sampler().sample(make_images(sizes))
    patches = check_batch(batch, 200)[: batch["patch_rays"]].view(-1, PATCH, PATCH, 3)
    assert len(patches) == 6
    assert (patches[..., 0] == patches[:, :1, :1, 0]).all()
    assert (patches[..., 2] == torch.tensor([0, 1, 1, 1])).all()


def test_batch_too_small_for_a_patch():
    batch = make_sampler(rays=20).sample(make_images(EQUAL))
    check_batch(batch, 20)
    assert batch["patch_rays"] == 0


def with_masks(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Only the left half of each image may be sampled."""
    batch = make_images(sizes)
    masks = [torch.zeros(height, width, 1, dtype=torch.bool) for height, width in sizes]
    for mask in masks:
        mask[:, : mask.shape[1] // 2] = True
    return batch | {"mask": torch.stack(masks) if isinstance(batch["image"], Tensor) else masks}


@pytest.mark.parametrize("rejection", [True, False])
@pytest.mark.parametrize("sizes", [EQUAL, MIXED, [(12, 16)]])
def test_masked_images_get_no_patches_and_masked_pixels_only(sizes, rejection):
    sampler = make_sampler(rays=80, rejection_sample_mask=rejection)
    batch = sampler.sample(with_masks(sizes))
    pixel = check_batch(batch, 80)
    assert batch["patch_rays"] == 0
    assert batch["mask"].all()
    assert (pixel[:, 2] < torch.tensor([width // 2 for _, width in sizes])[pixel[:, 0]]).all()


def test_full_images_are_kept_on_demand():
    images = make_images(EQUAL)
    assert make_sampler(keep_full_image=True).sample(images)["full_image"] is images["image"]
    assert "full_image" not in make_sampler().sample(images)


def test_fisheye_stays_inside_its_circle():
    torch.manual_seed(0)
    sampler = make_sampler(rays=500, use_patches=False, fisheye_crop_radius=5.0)
    pixel = check_batch(sampler.sample(make_images(EQUAL)), 500)
    assert ((pixel[:, 1:] - torch.tensor([6, 8])).float().norm(dim=-1) < 7).all()


def with_two_halves(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Label 3 left of the middle, 5 right of it, unlabelled in the lower half."""
    batch = make_images(sizes)
    labels = []
    for height, width in sizes:
        label = torch.full((height, width, 1), 3, dtype=torch.int32)
        label[:, width // 2 :] = 5
        label[height // 2 :] = -1
        labels.append(label)
    return batch | {"instances": torch.stack(labels) if isinstance(batch["image"], Tensor) else labels}


@pytest.mark.parametrize("sizes", [EQUAL, MIXED])
def test_pixels_at_boundaries_follow_the_patches(sizes):
    torch.manual_seed(0)
    sampler = make_sampler(rays=400, boundary_fraction=0.25, boundary_radius=2)
    sampler.use_boundaries = True
    pixel = (batch := sampler.sample(with_two_halves(sizes)))["image"].long()
    assert batch["patch_rays"] == 192
    height, width = torch.tensor(sizes)[pixel[:, 0]].unbind(-1)
    near = (pixel[:, 2] - width // 2 + 0.5).abs() < 2
    near &= pixel[:, 1] < height // 2 + 1  # a step to unlabelled is no boundary
    assert near[192:292].all()
    assert not near[292:].all()
    assert len(pixel[192:292, 0].unique()) == 3
    sampler.use_boundaries = False
    assert not near_all(sampler.sample(with_two_halves(sizes)), sizes)


def near_all(batch: dict[str, Any], sizes: Sequence[tuple[int, int]]) -> bool:
    pixel = batch["image"][192:292].long()
    return bool(((pixel[:, 2] - torch.tensor(sizes)[pixel[:, 0], 1] // 2 + 0.5).abs() < 2).all())


def test_boundaries_stay_inside_the_masks():
    sampler = make_sampler(rays=100, boundary_fraction=0.5)
    sampler.use_boundaries = True
    batch = sampler.sample(with_two_halves(EQUAL) | {"mask": with_masks(EQUAL)["mask"]})
    assert (batch["image"][:, 2] < 8).all()


def test_images_without_a_boundary_are_sampled_everywhere():
    sampler = make_sampler(rays=100)
    sampler.use_boundaries = True
    images = make_images(EQUAL)
    images["instances"] = torch.zeros_like(images["instances"])
    assert sampler.sample(images)["image"].shape == (100, 3)


def test_boundaries_are_found_anew_in_other_images():
    sampler = make_sampler(rays=100, use_patches=False, boundary_fraction=1.0, boundary_radius=1)
    sampler.use_boundaries = True
    first, second = with_two_halves(EQUAL), with_two_halves(EQUAL)
    second["instances"] = second["instances"].roll(3, 2)
    assert set(sampler.sample(first)["image"][:, 2].tolist()) == {7, 8}
    assert set(sampler.sample(second)["image"][:, 2].tolist()) == {2, 3, 10, 11}
    assert set(sampler.sample(first)["image"][:, 2].tolist()) == {7, 8}
