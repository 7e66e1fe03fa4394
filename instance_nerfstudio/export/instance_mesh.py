"""The surface of one instance: marching cubes of its own density, in the colours that the cameras see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from instance_nerfstudio.export.density_field import field_density, grid_shape, mean_colour
from instance_nerfstudio.export.density_visibility import DepthMaps
from instance_nerfstudio.export.instance_survey import robust_bounds

if TYPE_CHECKING:
    import trimesh

# How far inside of the surface colours are taken, in voxels.
_COLOUR_DEPTH = 0.75


@dataclass(frozen=True)
class InstanceMeshConfig:
    """How the density of an instance becomes a mesh."""

    resolution: int = 96
    """Voxels along the longest side of the box."""
    margin: float = 0.08
    """Share of the box's diagonal by which the grid reaches over the surface that is seen."""
    least_part: float = 0.02
    """Pieces with fewer of the surface points that belong to the mesh than this share are floaters."""
    points_per_chunk: int = 1 << 17
    """Field positions evaluated at once."""


@torch.no_grad()
def instance_mesh(
    model: Any,
    shows: Bool[Tensor, " classes"],
    surface: Float[Tensor, "points 3"],
    views: DepthMaps,
    to_scene: Float[np.ndarray, "4 4"],
    config: InstanceMeshConfig,
    advance: Callable[[float], object] = lambda _: None,
) -> "trimesh.Trimesh | None":
    """Coloured mesh in world units; None when the instance is nowhere solid.

    The density's level is the median over the points where rays end, so that the mesh lies where the field's own
    pictures show the surface, however sharp or foggy the field is.

    Args:
        model: `InstanceNerfactoModel`, in evaluation mode.
        shows: classes that make up the instance.
        surface: points of its surface as the views see it, in the scene frame.
        views: depth maps of the training views.
        to_scene: world -> scene.
        config: resolution and chunks.
        advance: called with each chunk's share of the work, 1 in all.
    """
    import trimesh
    from skimage.measure import marching_cubes

    if len(surface) < 8:
        return None
    to_world = np.linalg.inv(to_scene)
    world = _moved(surface, to_world)
    low, high = robust_bounds(world)
    margin = config.margin * float(np.linalg.norm(high - low)) + 1e-6
    low, high = low - margin, high + margin
    shape, edge = grid_shape(high - low, config.resolution)
    density = _own_density(model, shows, low, edge, shape, to_scene, config.points_per_chunk, advance)
    at_surface = torch.cat([field_density(model, part)[0] for part in surface.split(config.points_per_chunk)])
    level = float(at_surface.median())
    if not 0 < level < float(density.max()):
        level = 0.5 * float(density.max())
    if level <= 0:
        return None
    solid = _without_floaters(density > level, (world - low) / edge, config.least_part)
    density = np.where(ndimage.binary_dilation(solid, iterations=2), density, 0.0)
    if not (density > level).any():
        return None
    # Padded, so that the surface is closed where it meets the border of the grid; node i is the centre of voxel i - 1.
    vertices, faces, _, _ = marching_cubes(np.pad(density, 1), level)
    vertices = low + (vertices - 0.5) * edge
    mesh = trimesh.Trimesh(vertices, faces[:, ::-1], process=False)
    colours = _vertex_colours(model, mesh, views, to_scene, edge, config.points_per_chunk)
    return trimesh.Trimesh(vertices, mesh.faces, vertex_colors=colours, process=False)


def surface_points(
    mesh: "trimesh.Trimesh", count: int, seed: int = 0
) -> tuple[Float[np.ndarray, "count 3"], np.ndarray]:
    """Points spread evenly over a mesh, and their colours (uint8 RGBA) between those of the corners."""
    import trimesh

    points, faces = trimesh.sample.sample_surface(mesh, count, seed=seed)[:2]
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[faces], points).clip(0, 1)
    corners = np.asarray(mesh.visual.vertex_colors)[mesh.faces[faces]].astype(float)  # type: ignore[union-attr]
    return points, np.einsum("pc,pck->pk", weights, corners).round().clip(0, 255).astype(np.uint8)


def _own_density(
    model: Any,
    shows: Bool[Tensor, " classes"],
    low: np.ndarray,
    edge: float,
    shape: tuple[int, int, int],
    to_scene: np.ndarray,
    chunk: int,
    advance: Callable[[float], object],
) -> Float[np.ndarray, "x y z"]:
    """Density per scene unit at the centres of voxels, 0 where another instance is more likely."""
    count = int(np.prod(shape))
    values = np.zeros(count, np.float32)
    for first in range(0, count, chunk):
        flat = np.arange(first, min(first + chunk, count))
        centres = low + (np.stack(np.unravel_index(flat, shape), axis=-1) + 0.5) * edge
        points = _tensor(centres @ to_scene[:3, :3].T + to_scene[:3, 3], model.device)
        density, features = field_density(model, points)
        hidden = model.instance_head(model.normalized_positions(points), features)
        own = shows[model.instance_head.most_likely(hidden)]
        values[flat] = (density * own).nan_to_num(posinf=0.0).cpu().numpy()
        advance(len(flat) / count)
    return values.reshape(shape)


def _without_floaters(
    solid: Bool[np.ndarray, "x y z"], points: Float[np.ndarray, "points 3"], least_part: float
) -> Bool[np.ndarray, "x y z"]:
    """The pieces that carry the surface that is seen; `points` in voxels."""
    pieces: np.ndarray = ndimage.label(solid, np.ones((3, 3, 3)))[0]  # type: ignore[assignment,index]
    number = int(pieces.max())
    if number <= 1:
        return solid
    inside = ((points >= 0) & (points < solid.shape)).all(axis=1)
    # Rays end a little before or behind the level: the nearest piece counts.
    nearest: np.ndarray = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)  # type: ignore[assignment]
    cells = tuple(points[inside].astype(int).T)
    carried = np.bincount(pieces[tuple(nearest[:, *cells])], minlength=number + 1)
    kept = carried >= max(1, least_part * carried.sum())
    kept[0] = False
    return kept[pieces] if kept.any() else solid


def _vertex_colours(
    model: Any, mesh: "trimesh.Trimesh", views: DepthMaps, to_scene: np.ndarray, edge: float, chunk: int
) -> np.ndarray:
    """Mean over the views that see a vertex; from straight ahead where none does. uint8 RGBA."""
    scale = float(abs(np.linalg.det(to_scene[:3, :3])) ** (1 / 3))
    # A little inside: the level lies between voxels, and just outside begins the colour of something else.
    inside = mesh.vertices - _COLOUR_DEPTH * edge * mesh.vertex_normals
    points = _tensor(inside @ to_scene[:3, :3].T + to_scene[:3, 3], model.device)
    inwards = _tensor(-mesh.vertex_normals @ to_scene[:3, :3].T / scale, model.device)
    # Half of a ray's light is absorbed within a few voxels of the level.
    tolerance = 3 * edge * scale
    step = max(1, chunk // max(1, len(views.depth)))
    colours = [
        mean_colour(model, part, views.sees(part, tolerance), views.positions, chunk, unseen=directions)
        for part, directions in zip(points.split(step), inwards.split(step), strict=True)
    ]
    rgb = (torch.cat(colours).clamp(0, 1) * 255).round().byte().cpu().numpy()
    return np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], axis=1)


def _moved(points: Float[Tensor, "points 3"], matrix: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "points 3"]:
    return points.double().cpu().numpy() @ matrix[:3, :3].T + matrix[:3, 3]


def _tensor(array: np.ndarray, device: Any) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=device)
