"""Casts for autocast in few launches: small networks are limited by the host that launches kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def autocast_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of x are computed in here: autocast's dtype, or that of x where it does not apply."""
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def in_full_precision(x: Tensor) -> Tensor:
    """Half precision raised to float32: boxes of 100 voxels need more than the 8 bits of bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cast_together(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Tensors of one dtype in another, with gradients in their own, in one launch each way for all of them."""
    if all(tensor.dtype == dtype for tensor in tensors):
        return tuple(tensors)
    return _CastTogether.apply(dtype, *tensors)  # type: ignore[return-value]


class _CastTogether(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.dtype = tensors[0].dtype
        return _copies(tensors, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # type: ignore[override]
        return None, *_copies(gradients, ctx.dtype)


def _copies(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)
