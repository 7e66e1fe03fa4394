"""Pictures of Gaussians, by gsplat's kernels or in plain torch, and more values blended into them afterwards."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from instance_nerfstudio.splats.gaussians import Gaussians

Rasterizer = Literal["gsplat", "reference"]
"""`gsplat`: CUDA kernels. `reference`: plain torch on any device, for tests and tiny scenes."""

NEAR_PLANE = 0.01
BLUR = 0.3
"""Added to the variances of projected Gaussians, in square pixels (gsplat's `eps2d`)."""
CHANNELS_AT_ONCE = 32
"""gsplat is slow with more."""


@dataclass(frozen=True)
class Picture:
    """A picture of N Gaussians, H by W pixels."""

    colours: Float[Tensor, "H W C"]
    """Without a background: black where nothing is."""
    depth: Float[Tensor, "H W 1"] | None
    """Expected depth along the optical axis, in world units; 0 where nothing is. None where it was not asked for."""
    accumulation: Float[Tensor, "H W 1"]
    """How much of each pixel is covered."""
    info: dict[str, Any]
    """gsplat's intermediate results, which its densification strategies read: `means2d` [1 N 2], `radii` [1 N] ..."""
    rasterizer: Rasterizer

    def composite(self, values: Float[Tensor, "N D"]) -> Float[Tensor, "H W D"]:
        """Blends any values of the Gaussians with the weights that the picture was blended with.

        Nothing is projected or sorted again. Gradients reach `values` alone, never geometry or opacity.
        """
        if values.shape[1] == 0:
            return values.new_zeros(*self.accumulation.shape[:2], 0)
        return torch.cat([self._blend(some) for some in values.split(CHANNELS_AT_ONCE, dim=1)], dim=-1)

    def _blend(self, values: Tensor) -> Tensor:
        info = self.info
        means2d, conics, opacities = (info[name].detach() for name in ("means2d", "conics", "opacities"))
        if self.rasterizer == "reference":
            from instance_nerfstudio.splats.reference_blending import blend

            return blend(means2d, conics, values[None], opacities, info["coverage"])[0][0]
        from gsplat.cuda._wrapper import rasterize_to_pixels

        blended, _ = rasterize_to_pixels(
            means2d, conics, values[None], opacities,
            info["width"], info["height"], info["tile_size"], info["isect_offsets"], info["flatten_ids"],
        )  # fmt: skip
        return blended[0]


def rasterize(
    gaussians: Gaussians,
    colours: Float[Tensor, "N D"] | Float[Tensor, "N K 3"],
    viewmat: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
    *,
    sh_degree: int | None,
    depth: bool,
    absgrad: bool,
    antialiased: bool,
    rasterizer: Rasterizer,
) -> Picture:
    """A picture of the Gaussians from one pinhole camera.

    Args:
        gaussians: on any device; on a CUDA device for `gsplat`, in float32.
        colours: D values to blend, or where `sh_degree` is given K coefficients of spherical harmonics (red, green,
            blue), K ≥ (`sh_degree` + 1)².
        viewmat: from world to camera; OpenCV convention: x right, y down, z forward.
        intrinsics: focal lengths and centre, in pixels.
        width: W.
        height: H.
        sh_degree: up to which degree spherical harmonics count; None where colours are plain values.
        depth: whether to give the expected depth too.
        absgrad: whether `info["means2d"].absgrad` holds the sums of absolute gradients after the backward pass
            (AbsGS, arXiv:2404.10484).
        antialiased: whether small Gaussians lose the opacity that the blur adds (Mip-Splatting, arXiv:2311.16493).
        rasterizer: which code does it.

    Returns:
        Differentiable pictures; gradients reach the Gaussians, the colours and `viewmat`.
    """
    if rasterizer == "reference":
        from instance_nerfstudio.splats.reference_rasterizer import rasterization
    else:
        from instance_nerfstudio.splats.gsplat_rasterizer import rasterization

    pictures, accumulation, info = rasterization(
        gaussians, colours, viewmat, intrinsics, width, height,
        near_plane=NEAR_PLANE, eps2d=BLUR, sh_degree=sh_degree, depth=depth, absgrad=absgrad, antialiased=antialiased,
    )  # fmt: skip
    picture = pictures[0]
    if depth:
        expected = picture[..., -1:] / accumulation[0].clamp(min=1e-10)
        return Picture(picture[..., :-1], expected, accumulation[0], info, rasterizer)
    return Picture(picture, None, accumulation[0], info, rasterizer)
