"""The multiresolution hash encoding (Müller et al. 2022, section 3) as a drop-in for nerfstudio's torch version."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.spatial_distortions import SceneContraction
from torch import Tensor, nn

from instance_nerfstudio.kernel_launch import takes_kernels

# Instant-NGP's primes. Only the low bits of the product survive the modulo, so they wrap into int32.
_PRIMES = (1, 2654435761 - 2**32, 805459861)


class _Interpolate(torch.autograd.Function):
    """Weighted sum of eight table rows per level; scatters with `index_add_` where `table[index]` would sort."""

    @staticmethod
    def forward(
        ctx: Any,
        table: Float[Tensor, "rows features"],
        index: Int32[Tensor, "points levels 8"],
        weight: Float[Tensor, "points levels 8"],
    ) -> Float[Tensor, "points levels features"]:
        ctx.save_for_backward(table, index, weight)
        bags = F.embedding_bag(index.view(-1, 8), table, per_sample_weights=weight.view(-1, 8), mode="sum")
        return bags.view(*index.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, index, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        table_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            if table.shape[1] == 2 and gradient.dtype == torch.float32:
                # A pair of features added as one complex number: half the scattered writes, twice as fast on a CPU.
                updates = torch.view_as_complex(gradient)[..., None] * weight
                sums = torch.zeros(len(table), dtype=updates.dtype, device=table.device)
                table_gradient = torch.view_as_real(sums.index_add_(0, index.flatten(), updates.flatten()))
            else:
                updates = (gradient[..., None, :] * weight[..., None]).to(table.dtype)
                table_gradient = torch.zeros_like(table).index_add_(0, index.flatten(), updates.flatten(0, -2))
        if ctx.needs_input_grad[2]:
            weight_gradient = (F.embedding(index, table) * gradient[..., None, :]).sum(-1)
        return table_gradient, None, weight_gradient


def interpolate_hashed(
    table: Float[Tensor, "rows features"], positions: Float[Tensor, "points 3"], scalings: Float[Tensor, " levels"]
) -> Float[Tensor, "points levels_features"]:
    """The hash encoding in plain torch, differentiable any number of times in table and positions.

    Args:
        table: rows of all levels, the same power of two for each; fp16 is widened first.
        positions: in [0, 1].
        scalings: grid resolution of each level.
    """
    table = table.to(torch.promote_types(table.dtype, positions.dtype))
    size = len(table) // len(scalings)
    scaled = positions[:, None] * scalings[:, None]  # [points, levels, 3]
    low = scaled.detach().floor()
    fraction = scaled - low
    low = low.int()
    high = scaled.detach().ceil().int()

    dtype = torch.int32 if len(table) < 2**31 else torch.int64
    offsets = torch.arange(len(scalings), device=positions.device, dtype=dtype) * size
    hashed = [[corner[..., axis] * _PRIMES[axis] for corner in (low, high)] for axis in range(3)]
    near = [(1 - fraction[..., axis], fraction[..., axis]) for axis in range(3)]
    index, weight = [], []
    for i in (0, 1):
        for j in (0, 1):
            xy, xy_weight = hashed[0][i] ^ hashed[1][j], near[0][i] * near[1][j]
            for k in (0, 1):
                index.append((xy ^ hashed[2][k]) & (size - 1))
                weight.append(xy_weight * near[2][k])
    rows = torch.stack(index, dim=-1) + offsets[:, None]
    return _Interpolate.apply(table, rows, torch.stack(weight, dim=-1)).flatten(1)


class HashGrid(HashEncoding):
    """nerfstudio's torch `HashEncoding`: same maths and state dict, without sorting or, if `fused`, in Triton kernels.

    Attributes:
        input_gradients: False drops the gradient for positions, which nothing needs unless poses are optimised or
            normals computed, though nerfstudio's field asks for it in every step.
        fused: whether inputs on CUDA take the Triton kernels. Under fp16 autocast they read an fp16 copy of the table.
    """

    input_gradients: bool = True
    fused: bool = False

    def pytorch_fwd(self, in_tensor: Float[Tensor, "*bs 3"]) -> Float[Tensor, "*bs levels_features"]:
        positions = (in_tensor if self.input_gradients else in_tensor.detach()).reshape(-1, 3).float()
        if self.scalings.device != positions.device:
            self.scalings = self.scalings.to(positions.device)
        if self.fused and takes_kernels(positions):
            from instance_nerfstudio.hash_grids.hash_grid_triton import hash_encode

            half = torch.is_autocast_enabled() and torch.get_autocast_gpu_dtype() == torch.float16
            encoded = hash_encode(self.hash_table, positions, self.scalings, torch.float16 if half else None)
        else:
            encoded = interpolate_hashed(self.hash_table, positions, self.scalings)
        return encoded.view(*in_tensor.shape[:-1], -1)


class CubicContraction(SceneContraction):
    """nerfstudio's contraction in the L∞ norm, without `torch.linalg.norm`, which is 100 times slower for it."""

    def forward(self, positions: Float[Tensor, "*bs 3"]) -> Float[Tensor, "*bs 3"]:
        x, y, z = positions.abs().unbind(dim=-1)
        size = torch.maximum(torch.maximum(x, y), z)[..., None].clamp(min=1.0)
        return positions * (2 - 1 / size) / size


def use_hash_grids(module: nn.Module, input_gradients: bool, fused: bool) -> None:
    """Turns every torch `HashEncoding` under `module` into a `HashGrid`, in place; tiny-cuda-nn's stay.

    The class is swapped rather than the object, because nerfstudio's density field refers to one encoding twice.
    L∞ contractions become `CubicContraction`.
    """
    for child in module.modules():
        if type(child) is SceneContraction and child.order == float("inf"):
            child.__class__ = CubicContraction
        if isinstance(child, HashEncoding) and child.tcnn_encoding is None:
            child.__class__ = HashGrid
            grid = cast(HashGrid, child)
            grid.input_gradients, grid.fused = input_gradients, fused
