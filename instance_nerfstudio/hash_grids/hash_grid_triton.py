"""The hash encoding as fused Triton kernels: one launch each for the features, the table's gradient, the positions'."""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportCallIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from instance_nerfstudio.kernel_launch import launch

# Points per program, and warps that share them. The eight corners of a point lie on neighbouring threads: vertices that
# differ in x alone are often neighbouring rows, which the memory system then serves as one.
_FORWARD = {"block": 256, "num_warps": 8, "enable_fp_fusion": False}
_POSITION = {"block": 128, "num_warps": 4, "enable_fp_fusion": False}
# On coarse levels, samples that follow one another on a ray mostly share their cell. Each thread walks through `steps`
# of them and adds a row's sum to memory when the row changes, so that coarse rows are not fought over.
_TABLE = {"block": 16, "steps": 8, "num_warps": 2, "enable_fp_fusion": False}


@triton.jit
def _axis_of(scaled, axis: tl.constexpr, prime: tl.constexpr):
    """Along one axis, for the eight corners of each point's cell [points, 8]: hash, weight, and the weight's sign."""
    low = tl.floor(scaled)
    upper = ((tl.arange(0, 8)[None, :] >> axis) & 1) == 1
    vertex = tl.where(upper, tl.ceil(scaled)[:, None], low[:, None]).to(tl.int32)
    fraction = (scaled - low)[:, None]
    # int32 products wrap; only their low bits survive the modulo.
    return vertex * prime, tl.where(upper, fraction, 1 - fraction), tl.where(upper, 1.0, -1.0)


@triton.jit
def _axis(position, points, mask, scaling, axis: tl.constexpr, prime: tl.constexpr):
    """The same of points in memory."""
    return _axis_of(tl.load(position + points * 3 + axis, mask=mask, other=0.0) * scaling, axis, prime)


@triton.jit(do_not_specialize=["count"])
def _forward(
    position, table, scalings, out, count, point_stride, feature_stride,
    size: tl.constexpr, features: tl.constexpr, padded: tl.constexpr, index: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """`out` [points, levels * features] is written from `table`; one program per block of points and level."""
    level = tl.program_id(1)
    start = tl.program_id(0).to(tl.int64) * block
    points = tl.arange(0, block)
    mask = points < count - start
    scaling = tl.load(scalings + level)
    position += start * 3
    hash_x, weight_x, _ = _axis(position, points, mask, scaling, 0, 1)
    hash_y, weight_y, _ = _axis(position, points, mask, scaling, 1, -1640531535)  # 2654435761 as int32
    hash_z, weight_z, _ = _axis(position, points, mask, scaling, 2, 805459861)
    row = ((hash_x ^ hash_y ^ hash_z) & (size - 1)).to(index)
    feature = tl.arange(0, padded)
    used = feature < features
    place = table + level.to(tl.int64) * size * features + row[:, :, None] * features + feature[None, None, :]
    value = tl.load(place, mask=mask[:, None, None] & used[None, None, :], other=0.0).to(tl.float32)
    value = tl.sum(value * (weight_x * weight_y * weight_z)[:, :, None], axis=1)
    out += start * point_stride + level.to(tl.int64) * features * feature_stride
    place = out + points.to(tl.int64)[:, None] * point_stride + feature[None, :] * feature_stride
    tl.store(place, value, mask=mask[:, None] & used[None, :])


@triton.jit(do_not_specialize=["count"])
def _table_gradient(
    position, scalings, table_gradient, gradient, count, point_stride, feature_stride,
    size: tl.constexpr, features: tl.constexpr, padded: tl.constexpr, index: tl.constexpr,
    block: tl.constexpr, steps: tl.constexpr,
):  # fmt: skip
    """Adds the `gradient` of the output to the rows of `table_gradient`, fp32; one program per block and level."""
    level = tl.program_id(1)
    start = tl.program_id(0).to(tl.int64) * (block * steps)
    lanes = tl.arange(0, block)
    scaling = tl.load(scalings + level)
    feature = tl.arange(0, padded)
    used = feature < features
    position += start * 3
    gradient += start * point_stride + level.to(tl.int64) * features * feature_stride
    table_gradient += level.to(tl.int64) * size * features
    row = tl.zeros([block, 8], dtype=tl.int32)
    total = tl.zeros([block, 8, padded], dtype=tl.float32)
    for step in range(steps):
        points = lanes * steps + step
        mask = points < count - start
        hash_x, weight_x, _ = _axis(position, points, mask, scaling, 0, 1)
        hash_y, weight_y, _ = _axis(position, points, mask, scaling, 1, -1640531535)
        hash_z, weight_z, _ = _axis(position, points, mask, scaling, 2, 805459861)
        weight = weight_x * weight_y * weight_z
        place = gradient + points.to(tl.int64)[:, None] * point_stride + feature[None, :] * feature_stride
        value = tl.load(place, mask=mask[:, None] & used[None, :], other=0.0).to(tl.float32)
        # Past the last point the row of the last one stays, to which nothing is added.
        next_row = tl.where(mask[:, None], (hash_x ^ hash_y ^ hash_z) & (size - 1), row)
        moved = next_row != row
        # Nothing is written where nothing came; a sum, unlike a maximum, keeps NaN.
        filled = moved & (tl.sum(tl.abs(total), axis=2) != 0)
        place = table_gradient + row.to(index)[:, :, None] * features + feature[None, None, :]
        tl.atomic_add(place, total, mask=filled[:, :, None] & used[None, None, :], sem="relaxed")
        total = tl.where(moved[:, :, None], 0.0, total) + value[:, None, :] * weight[:, :, None]
        row = next_row
    filled = tl.sum(tl.abs(total), axis=2) != 0
    place = table_gradient + row.to(index)[:, :, None] * features + feature[None, None, :]
    tl.atomic_add(place, total, mask=filled[:, :, None] & used[None, None, :], sem="relaxed")


@triton.jit(do_not_specialize=["count"])
def _position_gradient(
    position, table, scalings, position_gradient, gradient, count, point_stride, feature_stride,
    levels, size: tl.constexpr, features: tl.constexpr, padded: tl.constexpr, index: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Writes `position_gradient` [points, 3], fp32; a program sums over all levels, so nothing is added twice."""
    start = tl.program_id(0).to(tl.int64) * block
    points = tl.arange(0, block)
    mask = points < count - start
    feature = tl.arange(0, padded)
    used = feature < features
    position += start * 3
    gradient += start * point_stride
    sum_x = tl.zeros([block], dtype=tl.float32)
    sum_y = tl.zeros([block], dtype=tl.float32)
    sum_z = tl.zeros([block], dtype=tl.float32)
    for level in range(levels):
        scaling = tl.load(scalings + level)
        hash_x, weight_x, sign_x = _axis(position, points, mask, scaling, 0, 1)
        hash_y, weight_y, sign_y = _axis(position, points, mask, scaling, 1, -1640531535)
        hash_z, weight_z, sign_z = _axis(position, points, mask, scaling, 2, 805459861)
        row = ((hash_x ^ hash_y ^ hash_z) & (size - 1)).to(index)
        both = mask[:, None] & used[None, :]
        place = gradient + points.to(tl.int64)[:, None] * point_stride + feature[None, :] * feature_stride
        upstream = tl.load(place, mask=both, other=0.0).to(tl.float32)
        place = table + row[:, :, None] * features + feature[None, None, :]
        value = tl.load(place, mask=both[:, None, :], other=0.0).to(tl.float32)
        along = tl.sum(value * upstream[:, None, :], axis=2) * scaling
        sum_x += tl.sum(along * sign_x * weight_y * weight_z, axis=1)
        sum_y += tl.sum(along * sign_y * weight_x * weight_z, axis=1)
        sum_z += tl.sum(along * sign_z * weight_x * weight_y, axis=1)
        table += size * features
        gradient += features * feature_stride
    position_gradient += start * 3
    tl.store(position_gradient + points * 3, sum_x, mask=mask)
    tl.store(position_gradient + points * 3 + 1, sum_y, mask=mask)
    tl.store(position_gradient + points * 3 + 2, sum_z, mask=mask)


def _shape(table: Tensor, levels: int) -> dict[str, Any]:
    rows, features = len(table) // levels, table.shape[1]
    return {
        "size": rows,
        "features": features,
        "padded": triton.next_power_of_2(features),
        "index": tl.int32 if rows * features < 2**31 else tl.int64,
    }


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, positions: Tensor, scalings: Tensor, storage: torch.dtype) -> Tensor:
        ctx.save_for_backward(table, positions, scalings)
        points, levels = len(positions), len(scalings)
        out = torch.empty(points, levels * table.shape[1], device=table.device)
        if points:
            grid = (triton.cdiv(points, _FORWARD["block"]), levels)
            stored, shape = table.to(storage), _shape(table, levels)
            launch(_forward, grid, positions, stored, scalings, out, points, *out.stride(), **shape, **_FORWARD)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        table, positions, scalings = ctx.saved_tensors
        gradient = gradients[0]
        for_table, for_positions = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            # The gradients are to be differentiated again (`create_graph`), which the kernels can't: plain torch can.
            from instance_nerfstudio.hash_grids.hash_grid import interpolate_hashed  # nerfstudio takes seconds to load

            inputs = [x for x, needed in ((table, for_table), (positions, for_positions)) if needed]
            encoded = interpolate_hashed(table, positions, scalings)
            found = iter(torch.autograd.grad(encoded, inputs, gradient.to(encoded.dtype), create_graph=True))
            return next(found) if for_table else None, next(found) if for_positions else None, None, None

        points, levels = len(positions), len(scalings)
        table_gradient = torch.zeros(table.shape, device=table.device) if for_table else None
        position_gradient = torch.zeros_like(positions) if for_positions else None
        if points:
            given = (gradient, points, *gradient.stride())
            shape = _shape(table, levels)
            if table_gradient is not None:
                grid = (triton.cdiv(points, _TABLE["block"] * _TABLE["steps"]), levels)
                launch(_table_gradient, grid, positions, scalings, table_gradient, *given, **shape, **_TABLE)
            if position_gradient is not None:
                grid = (triton.cdiv(points, _POSITION["block"]),)
                pointers = (positions, table, scalings, position_gradient)
                launch(_position_gradient, grid, *pointers, *given, levels, **shape, **_POSITION)
        return None if table_gradient is None else table_gradient.to(table.dtype), position_gradient, None, None


def hash_encode(
    table: Float[Tensor, "rows features"],
    positions: Float[Tensor, "points 3"],
    scalings: Float[Tensor, " levels"],
    storage: torch.dtype | None = None,
) -> Float[Tensor, "points levels_features"]:
    """Multiresolution hash encoding (Müller et al. 2022, section 3), differentiable in table and positions.

    Sums are fp32 whatever the table's type; so is the result. Gradients that are to be differentiated again, as with
    `create_graph=True`, come from plain torch and are as slow as that.

    Args:
        table: fp32 or fp16 rows of all levels, the same power of two for each; any number of features.
        positions: fp32 in [0, 1].
        scalings: fp32 grid resolution of each level.
        storage: type in which the forward pass reads the table, its own by default. With fp16 a copy is made, half as
            much memory is gathered, and the gradient of an fp32 table stays fp32.
    """
    return _HashEncode.apply(table.contiguous(), positions.contiguous(), scalings, storage or table.dtype)
