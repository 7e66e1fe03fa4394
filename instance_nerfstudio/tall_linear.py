"""A linear layer whose gradients for weight and bias are summed by the whole GPU.

They are products of matrices with hundreds of thousands of rows and a few dozen columns. cuBLAS leaves them to a few
of the GPU's processors; summed in pieces, all take part.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_PIECE = 256  # rows


class _TallLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        for_x, for_weight, for_bias = ctx.needs_input_grad
        pieces = gradient.reshape(-1, _PIECE, gradient.shape[1])
        return (
            gradient @ weight if for_x else None,
            torch.bmm(pieces.mT, x.reshape(-1, _PIECE, x.shape[1])).sum(dim=0) if for_weight else None,
            pieces.sum(dim=1).sum(dim=0) if for_bias else None,
        )


def tall_linear(
    x: Float[Tensor, "rows inputs"], weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"]
) -> Float[Tensor, "rows outputs"]:
    """`torch.nn.functional.linear`, for many rows; differentiable any number of times."""
    if len(x) % _PIECE or len(x) < 16 * _PIECE:
        return F.linear(x, weight, bias)
    return _TallLinear.apply(x, weight, bias)
