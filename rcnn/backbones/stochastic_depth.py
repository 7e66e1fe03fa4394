"""Stochastic depth (Huang et al., ECCV 2016) of whole grids whose tokens are rows of one matrix."""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from rcnn.backbones.padding import Extent


def draw_factors(keep: Float[Tensor, "residuals"], grids: int) -> Float[Tensor, "residuals grids"]:
    """For each residual and grid 1 / keep with a probability of `keep`, otherwise 0; keep is in (0, 1]."""
    keep = keep[:, None]
    return (torch.rand(len(keep), grids, dtype=keep.dtype, device=keep.device) < keep) / keep


def factors_of_rows(
    factors: Float[Tensor, "residuals grids"], extents: tuple[Extent, ...]
) -> Float[Tensor, "residuals M 1"]:
    """The factor of every token; `extents` are the tokens of each grid."""
    grids = factors[:, :, None].unbind(1)
    return torch.cat([grid.expand(-1, prod(extent)) for grid, extent in zip(grids, extents, strict=True)], 1)[..., None]


def add_residual(
    tokens: Float[Tensor, "M C"], residual: Float[Tensor, "M C"], factors: Float[Tensor, "M 1"] | None
) -> Float[Tensor, "M C"]:
    """`tokens + factors * residual`, for residuals that may be in half precision; without factors their sum."""
    if factors is None:
        return tokens + residual
    return _AddResidual.apply(tokens, residual, factors)  # type: ignore[return-value]


class _AddResidual(torch.autograd.Function):
    """Autograd would scale the gradient in the dtype of the tokens, and cast it in a second pass."""

    @staticmethod
    def forward(ctx, tokens: Tensor, residual: Tensor, factors: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(factors)
        ctx.dtype = residual.dtype
        return torch.addcmul(tokens, residual, factors)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        (factors,) = ctx.saved_tensors
        scaled = torch.empty_like(gradient, dtype=ctx.dtype)
        return gradient, torch.mul(gradient, factors, out=scaled), None
