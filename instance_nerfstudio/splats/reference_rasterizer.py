"""Rasterization of Gaussians in plain torch, on any device: for tests, for tiny scenes, and as the truth for gsplat's.

Projection and spherical harmonics are gsplat's own torch code, which its tests hold against its kernels.
"""

from typing import Any

import torch
from gsplat.cuda._torch_impl import (
    _fully_fused_projection,
    _persp_proj,
    _quat_scale_to_covar_preci,
    _spherical_harmonics,
    _world_to_cam,
)
from jaxtyping import Float, Int
from torch import Tensor

from instance_nerfstudio.splats.gaussians import Gaussians
from instance_nerfstudio.splats.reference_blending import Coverage, blend


def rasterization(
    gaussians: Gaussians,
    colours: Float[Tensor, "N D"] | Float[Tensor, "N K 3"],
    viewmat: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
    *,
    near_plane: float,
    eps2d: float,
    sh_degree: int | None,
    depth: bool,
    absgrad: bool,
    antialiased: bool,
) -> tuple[Float[Tensor, "1 H W C"], Float[Tensor, "1 H W 1"], dict[str, Any]]:
    """`gsplat.rasterization` of one camera, unpacked: pictures, accumulation and intermediate results.

    See `instance_nerfstudio.splats.rasterize.rasterize` for the arguments. Where `depth`, blended depths are the
    last channel.
    """
    radii, means2d, depths, conics, opacities = _project(
        gaussians, viewmat, intrinsics, width, height, near_plane, eps2d, antialiased
    )
    if sh_degree is not None:
        directions = gaussians.means + viewmat[:3, :3].T @ viewmat[:3, 3]  # from the camera: a pose is rigid
        colours = (_spherical_harmonics(sh_degree, directions, colours) + 0.5).clamp(min=0)
    values = torch.cat((colours[None], depths[..., None]), dim=-1) if depth else colours[None]
    coverage = Coverage(means2d[0], conics[0], opacities[0], radii[0], depths[0], width, height)
    picture, accumulation = blend(means2d, conics, values, opacities, coverage, absgrad)
    info = {
        "gaussian_ids": None,  # as gsplat has it where nothing is packed
        "radii": radii,
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": opacities,
        "width": width,
        "height": height,
        "n_cameras": 1,
        "coverage": coverage,
    }
    return picture, accumulation, info


def _project(
    gaussians: Gaussians,
    viewmat: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near_plane: float,
    eps2d: float,
    antialiased: bool,
) -> tuple[
    Int[Tensor, "1 N"], Float[Tensor, "1 N 2"], Float[Tensor, "1 N"], Float[Tensor, "1 N 3"], Float[Tensor, "1 N"]
]:
    """Radii in pixels, 0 where unseen; centres in pixels; depths; conics; opacities."""
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    in_front = gaussians.means @ rotation[2] + translation[2] > near_plane
    # A centre in the camera's plane would turn the gradients of all into NaN: it stands one unit before the camera.
    before_camera = (viewmat.new_tensor([0, 0, 1]) - translation) @ rotation
    means = torch.where(in_front[:, None], gaussians.means, before_camera.detach())
    covariances, _ = _quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, compute_preci=False)
    assert covariances is not None
    views, cameras = viewmat[None], intrinsics[None]
    radii, means2d, depths, conics, _ = _fully_fused_projection(
        means, covariances, views, cameras, width, height, eps2d, near_plane
    )
    opacities = gaussians.opacities[None].clone()  # a step of an optimizer must not reach into a finished picture
    if antialiased:
        _, projected = _persp_proj(*_world_to_cam(means, covariances, views), cameras, width, height)
        opacities = opacities * _compensations(projected, eps2d)
    return radii * in_front, means2d, depths, conics, opacities


def _compensations(covariances: Float[Tensor, "1 N 2 2"], eps2d: float) -> Float[Tensor, "1 N"]:
    """What the blur of `eps2d` adds to the area of the projected Gaussians, as a factor of opacity.

    gsplat's own torch code for it has NaN for the gradient of Gaussians seen exactly edge-on.
    """
    blurred = covariances + eps2d * torch.eye(2, device=covariances.device, dtype=covariances.dtype)
    ratio = _determinants(covariances) / _determinants(blurred).clamp(min=1e-10)
    has_area = ratio > 0
    return torch.where(has_area, torch.where(has_area, ratio, 1).sqrt(), 0)


def _determinants(matrices: Float[Tensor, "1 N 2 2"]) -> Float[Tensor, "1 N"]:
    return matrices[..., 0, 0] * matrices[..., 1, 1] - matrices[..., 0, 1] * matrices[..., 1, 0]
