"""Samples a radiance field on a grid over a box in the world: mean density, mean colour, and what no camera saw."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import Frustums, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from torch import Tensor

from instance_nerfstudio.export.density_visibility import DepthMaps
from rcnn.grids import DensityGrid


@dataclass(frozen=True)
class DensitySamplingConfig:
    """How a field becomes a grid. The chunks bound memory: with the defaults, well below 4 GB beside the model."""

    resolution: int = 256
    """Voxels along the longest side of the box."""
    samples_per_axis: int = 2
    """Samples along each edge of a voxel, whose mean is its density: one alone would miss thin surfaces."""
    min_alpha: float = 1e-3
    """Voxels of less opacity than this have no colour (0): there the field's colour means nothing."""
    depth_tolerance: float = 1.5
    """A voxel is seen when its centre is at most this many voxel edges behind the median depth of a view's ray."""
    depth_size: int = 160
    """Pixels along the longer side of the depth maps that decide what is seen."""
    max_views: int = 200
    """Views that colours are averaged over, evenly chosen when there are more."""
    points_per_chunk: int = 1 << 18
    """Field positions evaluated at once."""
    rays_per_chunk: int = 1 << 13
    """Rays of a depth map rendered at once."""


def scene_from_world(dataparser_transform: Float[Tensor, "3 4"], dataparser_scale: float) -> Float[np.ndarray, "4 4"]:
    """nerfstudio's scene = scale * (R * world + t) as one float64 matrix."""
    matrix = np.eye(4)
    matrix[:3] = dataparser_scale * dataparser_transform.double().cpu().numpy()
    return matrix


def grid_shape(size: Float[np.ndarray, "3"], resolution: int) -> tuple[tuple[int, int, int], float]:
    """Cubes over a box: `resolution` along its longest side, the others rounded up; and their edge."""
    edge = float(np.max(size)) / resolution
    w, l, h = (max(1, int(np.ceil(length / edge - 1e-6))) for length in size)
    return (w, l, h), edge


@torch.no_grad()
def sample_density_grid(
    model: Any,
    views: DepthMaps,
    to_scene: Float[np.ndarray, "4 4"],
    bbox: Float[np.ndarray, "2 3"],
    config: DensitySamplingConfig,
    advance: Callable[[float], object],
) -> DensityGrid:
    """Density per world unit, mean colour over the views that see a voxel, and which voxels are seen.

    Contraction is the field's own matter: it is asked for positions in the scene frame, and its densities are per
    scene unit there, whatever it does inside.

    Args:
        model: nerfacto or a model with its field, in evaluation mode.
        views: depth maps of the training views.
        to_scene: world -> scene.
        bbox: corners in world units; the upper one moves so that the voxels are cubes.
        config: resolution and chunks.
        advance: called with each chunk's share of the work, 1 in all.
    """
    shape, edge = grid_shape(bbox[1] - bbox[0], config.resolution)
    per_axis = config.samples_per_axis
    device = model.device
    linear = torch.tensor(to_scene[:3, :3], dtype=torch.float32, device=device)
    start = torch.tensor(to_scene[:3, :3] @ bbox[0] + to_scene[:3, 3], dtype=torch.float32, device=device)
    scene_units = float(abs(np.linalg.det(to_scene[:3, :3])) ** (1 / 3))
    inside = (torch.arange(per_axis, device=device) + 0.5) / per_axis
    offsets = torch.cartesian_prod(inside, inside, inside)  # of a voxel's samples, in voxels

    count = int(np.prod(shape))
    values = np.zeros((count, 4), np.float16)
    seen = np.zeros(count, bool)
    voxels_per_chunk = max(1, config.points_per_chunk // per_axis**3)
    for first in range(0, count, voxels_per_chunk):
        flat = torch.arange(first, min(first + voxels_per_chunk, count), device=device)
        voxels = torch.stack(torch.unravel_index(flat, shape), dim=-1).float()
        samples = start + ((voxels[:, None] + offsets) * edge) @ linear.T
        sigma = field_density(model, samples.view(-1, 3))[0].view(len(flat), -1)
        sigma = sigma.nan_to_num(posinf=torch.finfo(sigma.dtype).max)
        densest = samples[torch.arange(len(flat), device=device), sigma.argmax(dim=1)]
        mean = sigma.mean(dim=1) * scene_units

        centres = start + ((voxels + 0.5) * edge) @ linear.T
        visible = views.sees(centres, config.depth_tolerance * edge * scene_units)
        place = slice(first, first + len(flat))
        seen[place] = visible.any(dim=0).cpu().numpy()
        filled = -torch.expm1(-mean * edge) >= config.min_alpha
        colour = mean_colour(model, densest, visible & filled, views.positions, config.points_per_chunk)
        values[place, :3] = colour.clamp(0, 1).cpu().numpy()
        values[place, 3] = mean.clamp(max=torch.finfo(torch.float16).max).cpu().numpy()
        advance(len(flat) / count)
    upper = bbox[0] + np.array(shape) * edge
    world_from_scene = np.linalg.inv(to_scene)
    grid = values.reshape(*shape, 4)
    return DensityGrid(grid, bbox[0], upper, "sigma", "cells", world_from_scene, seen.reshape(shape))


def field_density(model: Any, points: Float[Tensor, "points 3"]) -> tuple[Float[Tensor, " points"], Tensor]:
    """Density per scene unit and geometry features of positions in the scene frame."""
    density, features = model.field.get_density(_samples_at(points, torch.zeros_like(points)))
    return density[..., 0].float(), features


def mean_colour(
    model: Any,
    points: Float[Tensor, "points 3"],
    visible: Tensor,
    cameras: Float[Tensor, "views 3"],
    pairs_per_chunk: int,
    unseen: Float[Tensor, "points 3"] | None = None,
) -> Float[Tensor, "points 3"]:
    """Mean of the field's colours in the directions from the cameras that see a point.

    Where none does, the colour in the directions `unseen` (unit vectors), or 0 without them.
    """
    total = torch.zeros_like(points)
    chosen = visible.any(dim=0).nonzero()[:, 0]
    others = (~visible.any(dim=0)).nonzero()[:, 0]
    if unseen is not None and len(others):
        features = field_density(model, points[others])[1]
        rgb = model.field.get_outputs(_samples_at(points[others], unseen[others]), density_embedding=features)
        total[others] = rgb[FieldHeadNames.RGB].float()
    if not len(chosen):
        return total
    features = field_density(model, points[chosen])[1]
    views, places = visible[:, chosen].nonzero(as_tuple=True)
    for view, place in zip(views.split(pairs_per_chunk), places.split(pairs_per_chunk), strict=True):
        position = points[chosen[place]]
        directions = torch.nn.functional.normalize(position - cameras[view], dim=-1)
        rgb = model.field.get_outputs(_samples_at(position, directions), density_embedding=features[place])
        total.index_add_(0, chosen[place], rgb[FieldHeadNames.RGB].float())
    return total / visible.sum(dim=0).clamp(min=1)[:, None]


def _samples_at(points: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"]) -> RaySamples:
    """Samples of no extent, which nerfstudio's fields take for positions."""
    nothing = torch.zeros_like(points[:, :1])
    frustums = Frustums(points, directions, starts=nothing, ends=nothing, pixel_area=nothing)
    return RaySamples(frustums, camera_indices=torch.zeros_like(nothing, dtype=torch.long))
