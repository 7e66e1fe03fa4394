"""Which cameras see a point of a radiance field, by the depth that the field itself renders."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.views import shrink_cameras

_KNOWN = (CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value, CameraType.EQUIRECTANGULAR.value)
# Distorted coordinates are trusted to this much beyond the picture's corner: further out the polynomials turn back.
_DISTORTION_REACH = 1.05


@dataclass(frozen=True)
class DepthMaps:
    """Depth maps of several views, in the scene frame."""

    cameras: Cameras
    """Cameras of shape (V,), at the maps' resolution, on the maps' device."""
    depth: Float[Tensor, "views height width"]
    """Distance along each ray at which half of its light is absorbed (median depth); a smaller map has padding."""
    accumulation: Float[Tensor, "views height width"]
    """Opacity of each ray."""

    @property
    def positions(self) -> Float[Tensor, "views 3"]:
        """Camera centres."""
        return self.cameras.camera_to_worlds[:, :3, 3]

    def sees(self, points: Float[Tensor, "points 3"], tolerance: float) -> Bool[Tensor, "views points"]:
        """Whether a point is in a view, and at most `tolerance` behind where half of the light is absorbed.

        The farthest of the four nearest rays counts: on a floor that a view grazes they end far apart.
        """
        rows, columns, distance, inside = project(self.cameras, points)
        heights, widths = self.cameras.height, self.cameras.width
        views = torch.arange(len(self.depth), device=points.device)[:, None]
        farthest = torch.zeros_like(distance)
        for down in (-0.5, 0.5):  # the ray of pixel i goes through i + 0.5
            row = (rows + down).floor().long().clamp(min=torch.zeros_like(heights), max=heights - 1)
            for right in (-0.5, 0.5):
                column = (columns + right).floor().long().clamp(min=torch.zeros_like(widths), max=widths - 1)
                farthest = torch.maximum(farthest, self.depth[views, row, column])
        return inside & (distance <= farthest + tolerance)

    def surface_points(self, per_view: int) -> Float[Tensor, "points 3"]:
        """Up to `per_view` points of each view, where its rays end, evenly spread over the opaque part."""
        found = []
        for view in range(len(self.depth)):
            height, width = int(self.cameras.height[view]), int(self.cameras.width[view])
            opaque = (self.accumulation[view] > 0.5) & self.depth[view].isfinite()
            places = opaque[:height, :width].nonzero()
            places = places[:: max(1, -(-len(places) // per_view))]
            if not len(places):
                continue
            rays = self.cameras.generate_rays(camera_indices=view, coords=places + 0.5)
            depth = self.depth[view, places[:, 0], places[:, 1]]
            found.append(rays.origins + rays.directions * depth[:, None])
        return torch.cat(found) if found else self.positions[:0]


def check_cameras(cameras: Cameras) -> None:
    """Refuses cameras that `project` does not know.

    Raises:
        InputError: a kind of camera that is not supported.
    """
    if not all(int(kind) in _KNOWN for kind in cameras.camera_type.flatten()):
        raise InputError("the scene has cameras that are not perspective, fisheye or 360; use another scene")


@torch.no_grad()
def render_depth_maps(
    model: Any, cameras: Cameras, longest_side: int, rays_per_chunk: int, advance: Callable[[float], object]
) -> DepthMaps:
    """Median depth of every camera at reduced resolution.

    Args:
        model: nerfacto or a model with its parts, in evaluation mode.
        cameras: (V,) in the scene frame.
        longest_side: pixels of the longer side of a map.
        rays_per_chunk: rays rendered at once.
        advance: called with each view's share of the work, 1 in all.

    Raises:
        InputError: a kind of camera that is not supported.
    """
    check_cameras(cameras)
    cameras = cameras.to("cpu")
    shrink_cameras(cameras, longest_side)
    cameras = cameras.to(model.device)
    shape = (len(cameras), int(cameras.height.max()), int(cameras.width.max()))
    depth = torch.zeros(shape, device=model.device)
    accumulation = torch.zeros(shape, device=model.device)
    for view in range(len(cameras)):
        rays = cameras.generate_rays(camera_indices=view).flatten()
        parts = [_ray_depth(model, rays[i : i + rays_per_chunk]) for i in range(0, len(rays), rays_per_chunk)]
        height, width = int(cameras.height[view]), int(cameras.width[view])
        for target, part in zip((depth, accumulation), zip(*parts, strict=True), strict=True):
            target[view, :height, :width] = torch.cat(part).view(height, width)
        advance(1 / len(cameras))
    return DepthMaps(cameras, depth, accumulation)


def march(model: Any, rays: Any) -> tuple[Any, Float[Tensor, "rays samples 1"]]:
    """A field's samples of rays and their weights, without the colours that a model's own outputs take longest for."""
    if model.collider is not None:
        rays = model.collider(rays)
    samples, _, _ = model.proposal_sampler(rays, density_fns=model.density_fns)
    return samples, samples.get_weights(model.field.get_density(samples)[0])


def _ray_depth(model: Any, rays: Any) -> tuple[Tensor, Tensor]:
    """Median depth and accumulation."""
    samples, weights = march(model, rays)
    return (
        model.renderer_depth(weights=weights, ray_samples=samples)[..., 0],
        model.renderer_accumulation(weights=weights)[..., 0],
    )


def project(
    cameras: Cameras, points: Float[Tensor, "points 3"]
) -> tuple[
    Float[Tensor, "views points"],
    Float[Tensor, "views points"],
    Float[Tensor, "views points"],
    Bool[Tensor, "views points"],
]:
    """Rows, columns (pixel i covers [i, i + 1)), distances, and whether a point is in the picture.

    Undoes `Cameras.generate_rays` for perspective and fisheye cameras with distortion (k1..k4, p1, p2), and 360° ones.
    """
    poses = cameras.camera_to_worlds
    offset = points[None] - poses[:, None, :3, 3]
    distance = offset.norm(dim=-1)
    x, y, z = torch.einsum("vpc,vck->kvp", offset, poses[:, :3, :3])  # camera axes: x right, y up, looking along -z
    y, ahead = -y, -z  # as in the picture
    types = cameras.camera_type
    flat = types == CameraType.PERSPECTIVE.value
    radius = torch.hypot(x, y)
    angle = torch.atan2(radius, ahead)
    # fisheye: equidistant, the angle from the axis is the distance from the middle
    factor = torch.where(flat, 1 / ahead.clamp(min=1e-6), angle / radius.clamp(min=1e-9))
    u, v = x * factor, y * factor
    corner = torch.hypot(
        torch.maximum(cameras.cx, cameras.width - cameras.cx) / cameras.fx,
        torch.maximum(cameras.cy, cameras.height - cameras.cy) / cameras.fy,
    )
    inside = torch.where(flat, ahead > 1e-6, angle < math.pi)
    if cameras.distortion_params is not None and bool((cameras.distortion_params != 0).any()):
        reach = _DISTORTION_REACH * _undistorted_radius(corner, cameras.distortion_params)
        inside = inside & (torch.hypot(u, v) <= reach)
        u, v = _distort(u, v, cameras.distortion_params)
    around = types == CameraType.EQUIRECTANGULAR.value
    if bool(around.any()):
        u = torch.where(around, torch.atan2(x, ahead) / math.pi, u)
        v = torch.where(around, torch.atan2(y, torch.hypot(x, ahead)) / math.pi, v)
        inside = inside | around
    columns, rows = u * cameras.fx + cameras.cx, v * cameras.fy + cameras.cy
    inside = inside & (columns >= 0) & (columns < cameras.width) & (rows >= 0) & (rows < cameras.height)
    return rows, columns, distance, inside


def _distort(u: Tensor, v: Tensor, parameters: Float[Tensor, "views 6"]) -> tuple[Tensor, Tensor]:
    """nerfstudio's radial and tangential distortion (OpenCV's, with k3 and k4 for r^6 and r^8)."""
    k1, k2, k3, k4, p1, p2 = (column[:, None] for column in parameters.unbind(-1))
    square = u * u + v * v
    radial = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
    return (
        u * radial + 2 * p1 * u * v + p2 * (square + 2 * u * u),
        v * radial + 2 * p2 * u * v + p1 * (square + 2 * v * v),
    )


def _undistorted_radius(distorted: Float[Tensor, "views 1"], parameters: Float[Tensor, "views 6"]) -> Tensor:
    """The radius that radial distortion moves to `distorted`: the first, where several are."""
    k1, k2, k3, k4 = (column[:, None] for column in parameters.unbind(-1)[:4])
    radius = torch.linspace(0, 2, 2001, device=distorted.device)[None] * distorted.clamp(max=1e3)
    square = radius * radius
    moved = radius * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))
    beyond = moved >= distorted
    first = torch.where(beyond.any(dim=1), beyond.float().argmax(dim=1), moved.argmax(dim=1))
    return radius.gather(1, first[:, None])
