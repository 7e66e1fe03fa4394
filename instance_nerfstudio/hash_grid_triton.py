"""The hash encoding as two fused Triton kernels: one launch forward, one backward, nothing in between kept."""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

_BLOCK = 256


@triton.jit
def _corner_rows(hash_x, hash_y, hash_z, level, size: tl.constexpr):
    """Row of one corner per point; int64, since a table may hold more than 2^31 numbers."""
    return ((hash_x ^ hash_y ^ hash_z) & (size - 1)).to(tl.int64) + level.to(tl.int64) * size


@triton.jit
def _cell(position, axis: tl.constexpr, points, mask, scaling, prime):
    """Hashes of the lower and upper vertex along one axis, and the distance from the lower."""
    scaled = tl.load(position + points * 3 + axis, mask=mask, other=0.0) * scaling
    low = tl.floor(scaled)
    # int32 products wrap; only their low bits survive the modulo.
    return low.to(tl.int32) * prime, tl.ceil(scaled).to(tl.int32) * prime, scaled - low


@triton.jit
def _encode(
    position, table, scalings, out, count,
    levels: tl.constexpr, size: tl.constexpr, features: tl.constexpr, block: tl.constexpr, backward: tl.constexpr,
):  # fmt: skip
    """Forward: `out` [points, levels, features] is written from `table`. Backward: `table`, then the gradient of the
    table, is added to from `out`, then the gradient of the output."""
    level = tl.program_id(1)
    points = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = points < count
    scaling = tl.load(scalings + level)
    x0, x1, fx = _cell(position, 0, points, mask, scaling, 1)
    y0, y1, fy = _cell(position, 1, points, mask, scaling, -1640531535)  # 2654435761 as int32
    z0, z1, fz = _cell(position, 2, points, mask, scaling, 805459861)
    feature = tl.arange(0, features)[None, :]
    place = out + (points[:, None] * levels + level) * features + feature
    if backward:  # noqa: SIM108  a compile-time branch
        value = tl.load(place, mask=mask[:, None], other=0.0)
    else:
        value = tl.zeros([block, features], dtype=tl.float32)
    for corner in tl.static_range(8):
        hash_x, weight_x = (x1, fx) if corner & 1 else (x0, 1 - fx)
        hash_y, weight_y = (y1, fy) if corner & 2 else (y0, 1 - fy)
        hash_z, weight_z = (z1, fz) if corner & 4 else (z0, 1 - fz)
        row = table + _corner_rows(hash_x, hash_y, hash_z, level, size)[:, None] * features + feature
        weight = (weight_x * weight_y * weight_z)[:, None]
        if backward:
            tl.atomic_add(row, value * weight, mask=mask[:, None], sem="relaxed")
        else:
            value += tl.load(row, mask=mask[:, None], other=0.0) * weight
    if not backward:
        tl.store(place, value, mask=mask[:, None])


def _launch(positions: Tensor, table: Tensor, scalings: Tensor, out: Tensor, features: int, backward: bool) -> None:
    levels = len(scalings)
    grid = (triton.cdiv(len(positions), _BLOCK), levels)
    sizes: dict[str, Any] = {"levels": levels, "size": len(table) // levels, "features": features, "block": _BLOCK}
    _encode[grid](positions, table, scalings, out, len(positions), **sizes, backward=backward)


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, positions: Tensor, scalings: Tensor) -> Tensor:
        positions = positions.contiguous()
        ctx.save_for_backward(positions, scalings)
        ctx.shape = table.shape
        out = torch.empty(len(positions), len(scalings) * table.shape[1], device=table.device)
        _launch(positions, table, scalings, out, table.shape[1], backward=False)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        positions, scalings = ctx.saved_tensors
        table_gradient = torch.zeros(ctx.shape, device=positions.device)
        _launch(positions, table_gradient, scalings, gradients[0].float().contiguous(), ctx.shape[1], backward=True)
        return table_gradient, None, None


def hash_encode(
    table: Float[Tensor, "rows features"], positions: Float[Tensor, "points 3"], scalings: Float[Tensor, " levels"]
) -> Float[Tensor, "points levels_features"]:
    """Multiresolution hash encoding (Müller et al. 2022, section 3), differentiable in the table.

    Args:
        table: fp32 rows of all levels, the same power of two for each; features per row a power of two.
        positions: fp32 in [0, 1]; carry no gradient.
        scalings: grid resolution of each level.
    """
    return _HashEncode.apply(table, positions, scalings)
