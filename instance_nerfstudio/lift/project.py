"""3D instances rendered into views with the radiance field's own weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from scipy import sparse
from torch import Tensor

from instance_nerfstudio.export.density_visibility import DepthMaps, check_cameras, march
from instance_nerfstudio.lift.instance_grid import InstanceGrid
from instance_nerfstudio.lift.view_projection import ViewProjection

# Smaller shares of a pixel's light are left out: on disk they would be nothing, too.
_LEAST_SHARE = 0.5 / 255
_OPAQUE = 0.5


@dataclass(frozen=True)
class ProjectionConfig:
    """How instances are rendered."""

    longest_side: int = 320
    """Pixels along the longer side of a projection, at most those of the photo."""
    rays_per_chunk: int = 1 << 14
    """Rays rendered at once."""
    depth_tolerance: float = 1.5
    """A voxel is seen when its centre is at most this many voxel edges behind where a view's rays end."""

    def __post_init__(self) -> None:
        if min(self.longest_side, self.rays_per_chunk) < 1 or self.depth_tolerance < 0:
            raise ValueError("longest_side and rays_per_chunk must be at least 1, depth_tolerance at least 0")


@torch.no_grad()
def project_instances(
    model: Any,
    cameras: Sequence[Cameras],
    to_scene: Float[np.ndarray, "4 4"],
    grid: InstanceGrid,
    config: ProjectionConfig | None = None,
    advance: Callable[[float], object] = lambda share: None,
) -> list[ViewProjection]:
    """What each view sees of each instance.

    Of each ray, an instance has the weights of the samples that lie in its voxels: what is hidden has none, and
    borders are as fine as the field.

    Args:
        model: nerfacto or a model with its parts, in evaluation mode, on any device.
        cameras: one of shape (1,) for each view, in the scene frame; they may have different sizes and lenses.
        to_scene: world -> scene.
        grid: the instances; with none, only where rays end.
        config: resolution and chunks.
        advance: called with each view's share of the work, 1 in all.

    Raises:
        InputError: a kind of camera that is not supported.
    """
    config = config or ProjectionConfig()
    device = model.device
    ids = torch.from_numpy(grid.ids).to(device).flatten()
    from_scene = np.linalg.inv(to_scene)
    scale = np.diag(1 / grid.voxel_size)
    # scene -> voxel units
    linear = torch.tensor(scale @ from_scene[:3, :3], dtype=torch.float32, device=device)
    offset = torch.tensor(scale @ (from_scene[:3, 3] - grid.bbox_min), dtype=torch.float32, device=device)

    def voxels_at(points: Float[Tensor, "*batch 3"]) -> tuple[Int[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        place = (points @ linear.T + offset).floor().long()
        shape = torch.tensor(grid.shape, device=device)
        inside = ((place >= 0) & (place < shape)).all(-1)
        place = torch.where(inside[..., None], place, 0)
        return (place[..., 0] * shape[1] + place[..., 1]) * shape[2] + place[..., 2], inside

    views, depths = [], []
    for camera in cameras:
        depth_maps, weights, voxels = _render(model, camera, voxels_at, ids, grid.count, config)
        depths.append(depth_maps)
        views.append((weights, voxels))
        advance(0.95 / len(cameras))
    visible = _visible_shares(depths, [voxels for _, voxels in views], to_scene, grid, config)
    results = []
    for depth_maps, (weights, voxels), shares in zip(depths, views, visible, strict=True):
        height, width = depth_maps.depth.shape[1:]
        results.append(ViewProjection((height, width), weights, shares, voxels))
        advance(0.05 / len(cameras))
    return results


def _render(
    model: Any,
    camera: Cameras,
    voxels_at: Callable[[Tensor], tuple[Tensor, Tensor]],
    ids: Int[Tensor, " voxels"],
    count: int,
    config: ProjectionConfig,
) -> tuple[DepthMaps, sparse.csr_matrix, Int[np.ndarray, "h w"]]:
    """One view's depth, the shares of the instances `(K, h * w)`, and the voxels in which its rays end."""
    check_cameras(camera)
    camera = deepcopy(camera).to("cpu").reshape((1,))
    longest = max(int(camera.height[0]), int(camera.width[0]))
    camera.rescale_output_resolution(min(1.0, config.longest_side / longest), "round")
    camera = camera.to(model.device)
    height, width = int(camera.height[0]), int(camera.width[0])
    rays = camera.generate_rays(camera_indices=0).flatten()
    depth, accumulation, voxels = [], [], []
    rows, columns, shares = [], [], []
    for first in range(0, len(rays), config.rays_per_chunk):
        bundle = rays[first : first + config.rays_per_chunk]
        samples, weights = march(model, bundle)
        depth.append(model.renderer_depth(weights=weights, ray_samples=samples)[..., 0])
        accumulation.append(weights.sum(dim=-2)[..., 0])
        end, inside = voxels_at(bundle.origins + bundle.directions * depth[-1][:, None])
        voxels.append(torch.where(inside & (accumulation[-1] > _OPAQUE), end, -1).int())
        if count:
            place, inside = voxels_at(samples.frustums.get_positions())
            owner = ids[place].long() * inside
            share = torch.zeros(len(bundle), count + 1, device=owner.device)
            share.scatter_add_(1, owner, weights[..., 0].float())
            pixel, instance = (share[:, 1:] > _LEAST_SHARE).nonzero(as_tuple=True)
            rows.append(instance.cpu().numpy())
            columns.append(pixel.cpu().numpy() + first)
            shares.append(share[pixel, instance + 1].clamp(max=1).cpu().numpy())
    shape = (1, height, width)
    maps = DepthMaps(camera, torch.cat(depth).view(shape), torch.cat(accumulation).view(shape))
    parts = [np.concatenate([np.zeros(0, dtype), *part]) for part, dtype in ((rows, int), (columns, int))]
    data = np.concatenate([np.zeros(0, np.float32), *shares])
    projected = sparse.csr_matrix((data, (parts[0], parts[1])), shape=(count, height * width))
    return maps, projected, torch.cat(voxels).view(height, width).cpu().numpy()


def _visible_shares(
    depths: Sequence[DepthMaps],
    voxels: Sequence[Int[np.ndarray, "h w"]],
    to_scene: Float[np.ndarray, "4 4"],
    grid: InstanceGrid,
    config: ProjectionConfig,
) -> list[Float[np.ndarray, "K"]]:
    """For each view, the share that it sees of the surface voxels of each instance.

    The surface are voxels in which a ray of any view ends. Which of them a view sees is asked of their centres, not of
    its pixels: from far away fewer rays hit them.
    """
    hit = np.unique(np.concatenate([np.zeros(0, np.int32), *(part.ravel() for part in voxels)]))
    hit = hit[hit >= 0]
    owner = grid.ids.ravel()[hit]
    hit, owner = hit[owner > 0], owner[owner > 0]
    if not len(hit):
        return [np.zeros(grid.count, np.float32) for _ in depths]
    place = np.stack(np.unravel_index(hit, grid.shape), -1)
    world = grid.bbox_min + (place + 0.5) * grid.voxel_size
    scene = torch.from_numpy(world @ to_scene[:3, :3].T + to_scene[:3, 3]).float().to(depths[0].depth.device)
    scene_units = float(abs(np.linalg.det(to_scene[:3, :3])) ** (1 / 3))
    tolerance = config.depth_tolerance * float(grid.voxel_size.max()) * scene_units
    total = np.bincount(owner, minlength=grid.count + 1)[1:]
    shares = []
    for maps in depths:
        seen = maps.sees(scene, tolerance)[0].cpu().numpy()
        shares.append(
            (np.bincount(owner[seen], minlength=grid.count + 1)[1:] / np.maximum(total, 1)).astype(np.float32)
        )
    return shares
