"""All training pixels in the GPU's memory, where rays and labels are drawn without the host."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from instance_nerfstudio.instance_boundaries import boundary_pixels


def camera_directions(cameras: Cameras) -> tuple[Float[Tensor, "pixels 3"], Int[Tensor, " cameras"]] | None:
    """Unit ray directions in the camera frame of every pixel, stored once for cameras that differ in their pose alone.

    Undistorting a pixel takes dozens of small operations, so it happens here instead of in every iteration.

    Returns:
        Directions, row by row, and the first row of each camera; None if rays do not start in the camera's centre.
    """
    tables: list[Tensor] = []
    known: dict[tuple[float, ...], int] = {}
    first: list[int] = []
    rows = 0
    for i in range(len(cameras)):
        camera = cameras[i : i + 1]
        numbers = [camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, camera.camera_type]
        if camera.distortion_params is not None:
            numbers.append(camera.distortion_params)
        key = tuple(torch.cat([number.double().flatten().cpu() for number in numbers]).tolist())
        if key not in known:
            rays = camera.generate_rays(camera_indices=0)
            pose = camera.camera_to_worlds[0]
            if not torch.allclose(rays.origins, pose[:, 3].expand_as(rays.origins), atol=1e-5):
                return None
            known[key] = rows
            tables.append((rays.directions.reshape(-1, 3) @ pose[:, :3]).contiguous())
            rows += len(tables[-1])
        first.append(known[key])
    return torch.cat(tables), torch.tensor(first, device=cameras.device)


@dataclass
class ResidentPixels:
    """Every pixel of the training views, one after the other.

    Attributes:
        images: colours, uint8 where that loses nothing, else fp32.
        labels: instance ids, int32; -1 unlabelled.
        views: height, width, first pixel and camera of each view, int64.
        directions: see `camera_directions`.
        first_direction: row of the first pixel of each camera in it.
        allowed: pixels that nerfstudio's `mask` lets through; None if all are.
        boundaries: pixels next to instance boundaries.
        cameras: the cameras, on the same device.
    """

    images: Tensor
    labels: Int[Tensor, " pixels"]
    views: Int[Tensor, "views 4"]
    directions: Float[Tensor, "rows 3"]
    first_direction: Int[Tensor, " cameras"]
    allowed: Int[Tensor, " allowed"] | None
    boundaries: Int[Tensor, " boundary"]
    cameras: Cameras
    ends: Int[Tensor, " views"] = field(init=False)

    def __post_init__(self) -> None:
        self.ends = self.views[:, 2] + self.views[:, 0] * self.views[:, 1]

    def sample(self, rays: int, boundary_fraction: float) -> tuple[RayBundle, dict[str, Any]]:
        """Random rays and what their pixels hold, as nerfstudio's ray generator and pixel sampler give them.

        Args:
            rays: number of rays.
            boundary_fraction: share of them next to instance boundaries, where there are any.
        """
        device = self.images.device
        near = int(rays * boundary_fraction) if len(self.boundaries) else 0
        if self.allowed is None:
            pixel = torch.randint(len(self.images), (rays - near,), device=device)
        else:
            pixel = self.allowed[torch.randint(len(self.allowed), (rays - near,), device=device)]
        if near:
            pixel = torch.cat([self.boundaries[torch.randint(len(self.boundaries), (near,), device=device)], pixel])
        view = torch.searchsorted(self.ends, pixel, right=True)
        _, width, start, camera = self.views[view].unbind(dim=-1)
        inside = pixel - start
        pose = self.cameras.camera_to_worlds[camera]
        local = self.directions[self.first_direction[camera] + inside]
        directions = (pose[:, :, :3] * local[:, None]).sum(dim=-1)
        ones = torch.ones(rays, 1, device=device)
        bundle = RayBundle(
            origins=pose[:, :, 3],
            directions=directions,
            pixel_area=ones,
            camera_indices=camera[:, None],
            metadata={"directions_norm": ones},
            times=None if self.cameras.times is None else self.cameras.times[camera],
        )
        image = self.images[pixel]
        return bundle, {
            "image": image.float() / 255 if image.dtype == torch.uint8 else image,
            "instances": self.labels[pixel][:, None],
            "indices": torch.stack([camera, inside // width, inside % width], dim=-1),
            "patch_rays": 0,
        }


def resident_pixels(
    batch: dict[str, Any], cameras: Cameras, boundary_radius: int, memory: int, device: torch.device
) -> ResidentPixels | None:
    """Moves the images that nerfstudio has cached to `device`.

    Args:
        batch: `image` [N, H, W, C] (or a list of [H, W, C]), `image_idx` [N], `instances` and, where there is one,
            `mask` of the same shapes.
        cameras: cameras of the dataset, indexed by `image_idx`.
        boundary_radius: how near a boundary counts as next to it, in pixels.
        memory: bytes that may be used.
        device: where to.

    Returns:
        None if they do not fit, or rays do not start in their camera's centre.
    """
    images = batch["image"]
    pixels = sum(image.shape[0] * image.shape[1] for image in images)
    channels = images[0].shape[-1]
    exact = images[0].dtype == torch.uint8 or all(_is_eight_bit(image.to(device)) for image in images)
    sizes = {(int(h), int(w)) for h, w in zip(cameras.height.flatten(), cameras.width.flatten(), strict=True)}
    needed = pixels * (channels * (1 if exact else 4) + 4) + 12 * sum(h * w for h, w in sizes)
    if needed > memory or any(len(image.shape) != 3 for image in images):
        return None
    cameras = cameras.to(device)
    found = camera_directions(cameras)
    if found is None or found[0].numel() * 4 + needed > memory:
        return None

    def flat(maps: Any, dtype: torch.dtype) -> Tensor:
        return torch.cat([one.reshape(-1, one.shape[-1]).to(device, dtype, non_blocking=True) for one in maps])

    if exact and images[0].dtype != torch.uint8:
        colours = torch.cat([(image.to(device) * 255).round().byte().view(-1, channels) for image in images])
    else:
        colours = flat(images, images[0].dtype)
    sides = torch.tensor([image.shape[:2] for image in images])
    starts = sides.prod(dim=-1).cumsum(dim=0) - sides.prod(dim=-1)
    views = torch.cat([sides, starts[:, None], batch["image_idx"].cpu().long()[:, None]], dim=-1)
    masks, labels = batch.get("mask"), batch["instances"]
    near = boundary_pixels([label.to(device) for label in labels], masks, boundary_radius).long().cpu()
    boundaries = views[near[:, 0], 2] + near[:, 1] * views[near[:, 0], 1] + near[:, 2]
    allowed = None
    if masks is not None:
        allowed = torch.cat([mask.reshape(-1).bool() for mask in masks]).nonzero()[:, 0].to(device)
    return ResidentPixels(
        images=colours,
        labels=flat(labels, torch.int32)[:, 0],
        views=views.to(device),
        directions=found[0],
        first_direction=found[1],
        allowed=allowed,
        boundaries=boundaries.to(device),
        cameras=cameras,
    )


def _is_eight_bit(image: Tensor) -> bool:
    scaled = image * 255
    return bool((scaled - scaled.round()).abs().max() < 1e-3)
