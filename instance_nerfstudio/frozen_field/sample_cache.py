"""What a frozen radiance field gives the instance head: a few samples per ray, computed once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import Progress
from torch import Tensor

from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel
from instance_nerfstudio.memory_chunks import in_chunks
from instance_nerfstudio.weight_quantiles import weight_quantiles

_SMALLEST_CHUNK = 256


@dataclass
class SampleCache:
    """Samples of cached rays, each with the same weight `accumulation / samples` in the composited feature.

    Attributes:
        positions: in the unit cube of the field, fp32: its finest grids would feel fp16.
        geometry: the field's geometry feature there, fp16.
        accumulation: summed weights of the ray; the missing rest is background, whose feature is zero.
    """

    positions: Float[Tensor, "rays samples 3"]
    geometry: Float[Tensor, "rays samples geometry"]
    accumulation: Float[Tensor, " rays"]

    @staticmethod
    def bytes_per_ray(samples: int, geometry_dim: int) -> int:
        """Memory that one ray takes."""
        return samples * (12 + 2 * geometry_dim) + 4

    def features(self, model: InstanceNerfactoModel, rows: Tensor | slice) -> Float[Tensor, "rows hidden"]:
        """Composited hidden features of some rays, differentiable in the head."""
        hidden = model.instance_head(self.positions[rows], self.geometry[rows])
        return hidden.mean(dim=-2) * self.accumulation[rows][:, None]


@torch.no_grad()
def cache_samples(
    model: InstanceNerfactoModel,
    cameras: Cameras,
    pixels: Int32[Tensor, "rays 3"],
    samples: int,
    description: str = "Caching samples",
) -> SampleCache:
    """Marches the rays of the given pixels through a frozen field and keeps `samples` of each.

    In training mode as in training: the camera corrections apply, and samples are jittered along the ray.

    Args:
        model: over the radiance field; decides by its mode.
        cameras: of the images that the pixels name, on any device.
        pixels: (image, row, column).
        samples: kept per ray.
        description: title of the progress bar.

    Raises:
        InputError: the device has no memory left even for a few rays.
    """
    device, rays = model.device, len(pixels)
    cache = SampleCache(
        torch.empty(rays, samples, 3, device=device),
        torch.empty(rays, samples, model.field.geo_feat_dim, dtype=torch.float16, device=device),
        torch.empty(rays, device=device),
    )
    cameras = cameras.to(device)
    largest = torch.finfo(torch.float16).max

    def march(start: int, end: int) -> None:
        chosen = pixels[start:end].to(device)
        bundle = cameras.generate_rays(camera_indices=chosen[:, :1].long(), coords=chosen[:, 1:] + 0.5)
        positions, geometry, weights = model.field_samples(bundle)
        index, cache.accumulation[start:end] = weight_quantiles(weights, samples)
        index = index[..., None]
        cache.positions[start:end] = positions.take_along_dim(index, dim=1)
        cache.geometry[start:end] = geometry.take_along_dim(index, dim=1).clamp(-largest, largest).half()

    with Progress(console=CONSOLE, transient=True) as progress:
        task = progress.add_task(description, total=rays)
        in_chunks(
            march,
            rays,
            model.config.eval_num_rays_per_chunk,
            "lower --pipeline.cached-training.cache-bytes",
            lambda done: progress.update(task, completed=done),
            _SMALLEST_CHUNK,
        )
    return cache
