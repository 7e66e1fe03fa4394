"""Rasterization of Gaussians by gsplat's CUDA kernels.

`gsplat.rasterization` waits for the GPU to invert the camera's pose; here the host runs on until Gaussians are sorted
into tiles, so that a training iteration takes as long as the GPU needs.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from instance_nerfstudio.splats.gaussians import Gaussians

_TILE = 16


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

    See `instance_nerfstudio.splats.rasterize.rasterize` for the arguments; D is 31 at most. Where `depth`, blended
    depths are the last channel.

    Raises:
        ValueError: the Gaussians are on no CUDA device.
    """
    from gsplat.cuda._wrapper import (
        fully_fused_projection,
        isect_offset_encode,
        isect_tiles,
        rasterize_to_pixels,
        spherical_harmonics,
    )

    means = gaussians.means
    if means.device.type != "cuda":
        raise ValueError(f"gsplat needs Gaussians on a CUDA device, these are on {means.device}")
    radii, means2d, depths, conics, compensations = fully_fused_projection(
        means, None, gaussians.quats, gaussians.scales, viewmat[None], intrinsics[None], width, height,
        eps2d=eps2d, near_plane=near_plane, calc_compensations=antialiased,
    )  # fmt: skip
    opacities = gaussians.opacities[None]
    if antialiased:
        opacities = opacities * compensations
    values = colours[None]
    if sh_degree is not None:
        directions = means + viewmat[:3, :3].T @ viewmat[:3, 3]  # from the camera: a pose is rigid
        values = spherical_harmonics(sh_degree, directions[None], values, masks=radii > 0)
        values = (values + 0.5).clamp_min(0.0)
    if depth:
        values = torch.cat((values, depths[..., None]), dim=-1)
    columns, rows = -(-width // _TILE), -(-height // _TILE)
    _, isect_ids, flatten_ids = isect_tiles(means2d, radii, depths, _TILE, columns, rows)
    isect_offsets = isect_offset_encode(isect_ids, 1, columns, rows)
    picture, accumulation = rasterize_to_pixels(
        means2d, conics, values, opacities, width, height, _TILE, isect_offsets, flatten_ids, absgrad=absgrad
    )
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
        "tile_size": _TILE,
        "isect_offsets": isect_offsets,
        "flatten_ids": flatten_ids,
    }
    return picture, accumulation, info
