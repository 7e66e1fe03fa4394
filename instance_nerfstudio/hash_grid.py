"""The multiresolution hash encoding (Müller et al. 2022, section 3) as a drop-in for nerfstudio's torch version."""

from functools import cache
from importlib.util import find_spec
from typing import Any, cast

import torch
from jaxtyping import Float, Int32
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor, nn

# Instant-NGP's primes. Only the low bits of the product survive the modulo, so they wrap into int32.
_PRIMES = (1, 2654435761 - 2**32, 805459861)


def _scatter_rows(
    shape: torch.Size, index: Int32[Tensor, " updates"], updates: Float[Tensor, "updates features"]
) -> Float[Tensor, "rows features"]:
    """Sums the updates into the rows of a new table."""
    if shape[1] == 2 and updates.dtype == torch.float32:
        # A pair of features added as one complex number: half the scattered writes, twice as fast on a CPU.
        rows = torch.zeros(shape[0], dtype=torch.complex64, device=updates.device)
        return torch.view_as_real(rows.index_add_(0, index, torch.view_as_complex(updates)))
    return torch.zeros(shape, dtype=updates.dtype, device=updates.device).index_add_(0, index, updates)


class _Interpolate(torch.autograd.Function):
    """Weighted sum of eight table rows per level; scatters with `index_add_` where `table[index]` would sort."""

    @staticmethod
    def forward(
        ctx: Any,
        table: Float[Tensor, "rows features"],
        index: Int32[Tensor, "corners points levels"],
        weight: Float[Tensor, "corners points levels"],
    ) -> Float[Tensor, "points levels features"]:
        ctx.save_for_backward(table, index, weight)
        corners = table.index_select(0, index.flatten()).view(*index.shape, -1)
        return (corners * weight[..., None]).sum(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, index, weight = ctx.saved_tensors
        gradient = gradients[0]
        table_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            updates = (gradient * weight[..., None]).to(table.dtype).view(-1, table.shape[-1])
            table_gradient = _scatter_rows(table.shape, index.flatten(), updates)
        if ctx.needs_input_grad[2]:
            corners = table.index_select(0, index.flatten()).view(*index.shape, -1)
            weight_gradient = (corners * gradient).sum(-1)
        return table_gradient, None, weight_gradient


@cache
def _triton_is_there() -> bool:
    """Triton comes with torch's CUDA builds for Linux, not with others."""
    return find_spec("triton") is not None


class HashGrid(HashEncoding):
    """nerfstudio's torch `HashEncoding`: same maths, same state dict, fused on CUDA, without sorting elsewhere.

    `input_gradients=False` on the instance drops the gradient for positions, which nothing needs unless poses are
    optimised or normals computed, though nerfstudio's field asks for it in every step.
    """

    input_gradients: bool = True

    def pytorch_fwd(self, in_tensor: Float[Tensor, "*bs 3"]) -> Float[Tensor, "*bs levels_features"]:
        positions = in_tensor if self.input_gradients else in_tensor.detach()
        if self.scalings.device != positions.device:
            self.scalings = self.scalings.to(positions.device)
        if positions.is_cuda and not positions.requires_grad and _triton_is_there():
            from instance_nerfstudio.hash_grid_triton import hash_encode

            encoded = hash_encode(self.hash_table, positions.reshape(-1, 3).float(), self.scalings)
            return encoded.view(*in_tensor.shape[:-1], -1)
        scaled = positions.reshape(-1, 1, 3) * self.scalings[:, None]  # [points, levels, 3]
        low = scaled.detach().floor()
        fraction = scaled - low
        low = low.int()
        high = scaled.detach().ceil().int()

        offsets = torch.arange(self.num_levels, device=positions.device, dtype=torch.int32) * self.hash_table_size
        hashed = [[corner[..., axis] * _PRIMES[axis] for corner in (low, high)] for axis in range(3)]
        near = [(1 - fraction[..., axis], fraction[..., axis]) for axis in range(3)]
        index, weight = [], []
        for i in (0, 1):
            for j in (0, 1):
                xy, xy_weight = hashed[0][i] ^ hashed[1][j], near[0][i] * near[1][j]
                for k in (0, 1):
                    index.append((xy ^ hashed[2][k]) & (self.hash_table_size - 1))
                    weight.append(xy_weight * near[2][k])
        encoded = _Interpolate.apply(self.hash_table, torch.stack(index) + offsets, torch.stack(weight))
        return encoded.reshape(*in_tensor.shape[:-1], -1)


def use_hash_grids(module: nn.Module, input_gradients: bool) -> None:
    """Turns every torch `HashEncoding` under `module` into a `HashGrid`, in place; tiny-cuda-nn's stay.

    The class is swapped rather than the object, because nerfstudio's density field refers to one encoding twice.
    """
    for child in module.modules():
        if isinstance(child, HashEncoding) and child.tcnn_encoding is None:
            child.__class__ = HashGrid
            cast(HashGrid, child).input_gradients = input_gradients
