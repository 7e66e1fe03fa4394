"""Samples pixels for the RGB and instance losses: patches, pixels near instance boundaries, and any pixels."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from nerfstudio.data.pixel_samplers import PixelSampler, PixelSamplerConfig
from torch import Tensor

from instance_nerfstudio.instance_boundaries import boundary_pixels


@dataclass
class InstancePixelSamplerConfig(PixelSamplerConfig):
    """Pixel sampler of the instance methods."""

    _target: type = field(default_factory=lambda: InstancePixelSampler)
    """Target class to instantiate."""
    patch_size: int = 8
    """Side of the square patches that the label regularization compares, in pixels."""
    patch_fraction: float = 0.25
    """Share of the rays that come in patches once the label regularization is on."""
    boundary_fraction: float = 0.5
    """Share of the rays drawn next to instance boundaries, where silhouettes and labels are decided."""
    boundary_radius: int = 4
    """How near a boundary counts as next to it, in pixels."""


class InstancePixelSampler(PixelSampler):
    """nerfstudio's pixel sampler with patches and with labels of images of different sizes.

    A batch is: whole patches, row by row (`patch_rays` says how many rays those are); then pixels near instance
    boundaries; then pixels drawn as nerfstudio does. The model switches `use_patches` on with its label regularization,
    and `use_boundaries` off when it trains no instances. Scenes with nerfstudio's per-image `mask` get no patches: a
    patch could reach into pixels that must not be sampled.

    nerfstudio 1.1.5 can't index a list of label maps (it tries `list[c, y, x]`), which mixed image sizes come as.
    """

    config: InstancePixelSamplerConfig
    use_patches: bool = False
    use_boundaries: bool = True
    _boundaries: tuple[Any, Int[Tensor, "pixels 3"]] | None = None

    def sample(self, image_batch: dict) -> dict:
        """Samples a batch of pixels from cached images.

        Args:
            image_batch: `image` [N, H, W, C] (or a list of [H, W, C]), `image_idx` [N], and further maps of that shape.

        Returns:
            `image` [R, C], `instances` [R, 1], `indices` [R, 3] (camera, row, column), `patch_rays`, `patch_size`.
        """
        images = image_batch["image"]
        # Walking through a stack of hundreds of images would take longer than sampling it.
        one_size = isinstance(images, Tensor)
        sizes = [images.shape[1:3]] * len(images) if one_size else [image.shape[:2] for image in images]
        indices = self._sample_uniform(image_batch, sizes)
        patches = 0
        if self.use_patches and "mask" not in image_batch:
            patches = int(self.num_rays_per_batch * self.config.patch_fraction) // self.config.patch_size**2
        patch_rays = patches * self.config.patch_size**2
        if patches:
            indices[:patch_rays] = self._sample_patches(patches, sizes).to(indices)
        if self.use_boundaries and "instances" in image_batch:
            boundaries = self._sample_boundaries(image_batch)
            indices[patch_rays : patch_rays + len(boundaries)] = boundaries[: len(indices) - patch_rays].to(indices)

        image, row, column = indices.unbind(dim=-1)
        batch: dict[str, Any] = {
            key: _pick(value, image, row, column)
            for key, value in image_batch.items()
            if key != "image_idx" and value is not None
        }
        camera = image_batch["image_idx"].to(indices)[image]
        batch["indices"] = torch.stack([camera, row, column], dim=-1)
        batch["patch_rays"] = patch_rays
        batch["patch_size"] = self.config.patch_size
        if self.config.keep_full_image:
            batch["full_image"] = images
        return batch

    def _sample_uniform(self, image_batch: dict, sizes: list[torch.Size]) -> Int[Tensor, "rays 3"]:
        images, rays = image_batch["image"], self.num_rays_per_batch
        # Cached images lie on the CPU; indices are drawn there too, so that indexing needs no synchronisation.
        device = images[0].device
        sample = self.sample_method
        if self.config.is_equirectangular:
            sample = self.sample_method_equirectangular
        elif self.config.fisheye_crop_radius is not None:
            sample = self.sample_method_fisheye
        if isinstance(images, Tensor):
            mask = _two_copies(image_batch["mask"]) if "mask" in image_batch else None
            indices = sample(rays, len(images), *sizes[0], mask=mask, device=device)
            return torch.cat([indices[:, :1].clamp(max=len(images) - 1), indices[:, 1:]], dim=-1)
        chosen = torch.randint(len(images), (rays,)).sort().values
        groups = []
        for i, count in zip(*(x.tolist() for x in chosen.unique_consecutive(return_counts=True)), strict=True):
            mask = _two_copies(image_batch["mask"][i][None]) if "mask" in image_batch else None
            group = sample(count, 1, *sizes[i], mask=mask, device=device)
            groups.append(torch.cat([torch.full_like(group[:, :1], i), group[:, 1:]], dim=-1))
        # Shuffled, because patches and boundaries take the first rows.
        return torch.cat(groups)[torch.randperm(rays)]

    def _sample_boundaries(self, image_batch: dict) -> Int[Tensor, "boundary_rays 3"]:
        """Pixels near boundaries, found once per set of cached images; none where there is no boundary."""
        labels = image_batch["instances"]
        if self._boundaries is None or self._boundaries[0] is not labels:
            pixels = boundary_pixels(labels, image_batch.get("mask"), self.config.boundary_radius)
            self._boundaries = (labels, pixels)
        pixels = self._boundaries[1]
        count = int(self.num_rays_per_batch * self.config.boundary_fraction) if len(pixels) else 0
        return pixels[torch.randint(max(len(pixels), 1), (count,), device=pixels.device)]

    def _sample_patches(self, count: int, sizes: list[torch.Size]) -> Int[Tensor, "patch_rays 3"]:
        """Patches of random images; border pixels repeat where an image is smaller than a patch."""
        size = self.config.patch_size
        image = torch.randint(len(sizes), (count,))
        extent = torch.tensor(sizes)[image]  # [patches, 2]
        corner = (torch.rand(count, 2) * (extent - size + 1).clamp(min=1)).long()
        offset = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), dim=-1)
        pixel = corner[:, None, None] + offset  # [patches, size, size, 2]
        pixel = torch.minimum(pixel, extent[:, None, None] - 1)
        return torch.cat([image[:, None, None, None].expand(*pixel.shape[:3], 1), pixel], dim=-1).view(-1, 3)


def _two_copies(mask: Tensor) -> Tensor:
    """A single image's mask twice, without copying: nerfstudio squeezes it, and then misses the image axis."""
    return mask.expand(2, *mask.shape[1:]) if len(mask) == 1 else mask


def _pick(maps: Tensor | list[Tensor], image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """`maps[image, row, column]`, also for a list of maps of different sizes."""
    if isinstance(maps, Tensor):
        return maps[image.to(maps.device), row.to(maps.device), column.to(maps.device)]
    picked = maps[0].new_empty(len(image), *maps[0].shape[2:])
    for i in image.unique().tolist():
        rays = image == i
        picked[rays] = maps[i][row[rays], column[rays]]
    return picked
