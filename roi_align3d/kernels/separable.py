"""Axis-aligned RoIs: a voxel's weight is a product of one per axis, so each voxel is read or written once per bin row.

Forward, a program owns one (RoI, x bin) and a block of channels: it sums the x and y taps of a y bin into a run of
voxels along z, which a small matrix product turns into all z bins. Backward, a program owns a share of a RoI's x
planes: it gathers the gradient of the bins that read a voxel column, so each voxel gets one atomic addition per RoI.
"""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOptionalOperand=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportAssignmentType=false

import triton
import triton.language as tl

from roi_align3d.kernels.geometry import (
    bin_samples,
    corner_position,
    load_roi,
    names_a_grid,
    pick_level,
    sample_position,
    usable,
    volume_of,
)


@triton.jit
def _share(position, voxel, extent):
    """What of a sample at `position`, clamped to the grid, falls to `voxel`."""
    position = tl.minimum(tl.maximum(position, 0.0), extent - 1)
    low = tl.floor(position)
    fraction = position - low
    return tl.where(voxel == low, 1 - fraction, tl.where(voxel == low + 1, fraction, 0.0))


@triton.jit
def _tap_weight(
    voxel, index, start, end, extent,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """Weight of `voxel` in bin `index` along one axis; both fp32, scalars or blocks that broadcast."""
    weight = 0.0 * voxel + 0.0 * index
    if crop:
        position = corner_position(index, start, end, bins)
        inside = (position >= 0) & (position <= extent - 1)
        weight += tl.where(inside, _share(position, voxel, extent), 0.0)
    else:
        begin, bin_size, count = bin_samples(index, start, end, bins, ratio, aligned)
        if ratio > 0:
            first = 0.0 * begin
            candidates: tl.constexpr = ratio
        else:
            # Adaptive samples are more than half a voxel apart, so at most five reach a voxel; two more for rounding.
            step = bin_size / tl.maximum(count, 1.0)
            first = tl.maximum(tl.floor((voxel - 1 - begin) / step - 0.5), 0.0)
            candidates: tl.constexpr = 7
        if candidates <= 8:
            for sample in tl.static_range(candidates):
                position = sample_position(begin, bin_size, count, first + sample)
                inside = (position >= -1) & (position <= extent) & (first + sample < count)
                weight += tl.where(inside, _share(position, voxel, extent), 0.0)
        else:
            for sample in range(candidates):
                position = sample_position(begin, bin_size, count, first + sample)
                inside = (position >= -1) & (position <= extent) & (first + sample < count)
                weight += tl.where(inside, _share(position, voxel, extent), 0.0)
        weight = tl.math.div_rn(weight, tl.maximum(count, 1.0))
    return weight


@triton.jit
def _band(
    first_bin, last_bin, start, end, extent, reads,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """First voxel that the bins may read along one axis and one past the last; none if not `reads`."""
    if crop:
        one = corner_position(first_bin, start, end, bins)
        other = corner_position(last_bin, start, end, bins)
    else:
        begin, bin_size, count = bin_samples(first_bin, start, end, bins, ratio, aligned)
        one = sample_position(begin, bin_size, count, 0.0)
        begin, bin_size, count = bin_samples(last_bin, start, end, bins, ratio, aligned)
        other = sample_position(begin, bin_size, count, tl.maximum(count - 1, 0.0))
    low = tl.minimum(tl.maximum(tl.minimum(one, other), 0.0), extent - 1)
    high = tl.minimum(tl.maximum(tl.maximum(one, other), 0.0), extent - 1)
    low = tl.floor(low).to(tl.int32)
    high = tl.minimum(tl.floor(high) + 2, extent).to(tl.int32)
    return low, tl.where(reads, high, low)


@triton.jit(do_not_specialize=["batches"])
def pool_forward(
    out, rois, grids, table, batches,
    channels: tl.constexpr, levels: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
    block_r: tl.constexpr, block_z: tl.constexpr, block_c: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """`out` [K, P, Q, R, C] from `grids`, a tuple of [N, X, Y, Z, C]; one program per (RoI, x bin), channel block."""
    k = tl.program_id(0).to(tl.int64) // P
    p = tl.program_id(0) % P
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    r = tl.arange(0, block_r)
    is_channel = c < channels

    batch, a0, a1, a2, b0, b1, b2, _ = load_roi(rois, k, 7)
    grid, X, Y, Z, scale = pick_level(grids, table, volume_of(a0, a1, a2, b0, b1, b2, 7), levels)
    offset: tl.constexpr = 0.5 if aligned and not crop else 0.0
    a0, a1, a2 = a0 * scale - offset, a1 * scale - offset, a2 * scale - offset
    b0, b1, b2 = b0 * scale - offset, b1 * scale - offset, b2 * scale - offset
    named = names_a_grid(batch, batches)
    reads = usable(a0, b0) & usable(a1, b1) & usable(a2, b2) & named
    x_low, x_high = _band(p.to(tl.float32), p.to(tl.float32), a0, b0, X, reads, P, ratio, aligned, crop)
    z_low, z_high = _band(0.0, R - 1.0, a2, b2, Z, reads, R, ratio, aligned, crop)
    tiles = tl.cdiv(z_high - z_low, block_z)
    plane = tl.where(reads, batch, 0.0).to(tl.int64) * X.to(tl.int64)

    z = z_low + tl.arange(0, block_z)
    bins_z = r.to(tl.float32)[:, None]
    # Most RoIs fit into one tile along z, whose weights serve all y bins.
    weight_of_first = _tap_weight(z.to(tl.float32)[None, :], bins_z, a2, b2, Z, R, ratio, aligned, crop)
    for q in range(Q):
        q_index = q * 1.0
        y_low, y_high = _band(q_index, q_index, a1, b1, Y, reads, Q, ratio, aligned, crop)
        pooled = tl.zeros([block_r, block_c], dtype=tl.float32)
        for tile in range(tiles):
            z = z_low + tile * block_z + tl.arange(0, block_z)
            inside = (z < z_high)[:, None] & is_channel[None, :]
            run = tl.zeros([block_z, block_c], dtype=tl.float32)
            for x in range(x_low, x_high):
                weight_x = _tap_weight(1.0 * x, p.to(tl.float32), a0, b0, X, P, ratio, aligned, crop)
                for y in range(y_low, y_high):
                    weight_y = _tap_weight(1.0 * y, q_index, a1, b1, Y, Q, ratio, aligned, crop)
                    weight = weight_x * weight_y
                    if weight != 0:
                        column = ((plane + x) * Y.to(tl.int64) + y) * Z.to(tl.int64)
                        voxels = grid + (column + z)[:, None] * channels + c[None, :]
                        value = tl.load(voxels, mask=inside, other=0.0).to(tl.float32)
                        run = tl.fma(value, weight + tl.zeros_like(value), run)
            weight_z = weight_of_first
            if tile > 0:
                weight_z = _tap_weight(z.to(tl.float32)[None, :], bins_z, a2, b2, Z, R, ratio, aligned, crop)
            pooled += tl.dot(weight_z, run, input_precision=precision)
        pooled = tl.where(named, pooled, float("nan"))
        row = ((k * P + p) * Q + q) * R + r
        place = out + row[:, None] * channels + c[None, :]
        tl.store(place, pooled.to(out.dtype.element_ty), mask=(r < R)[:, None] & is_channel[None, :])


@triton.jit(do_not_specialize=["batches"])
def pool_backward(
    gradient, rois, grids, table, batches,
    channels: tl.constexpr, levels: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr, shares: tl.constexpr,
    block_r: tl.constexpr, block_z: tl.constexpr, block_c: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Adds to `grids`, fp32 [N, X, Y, Z, C] each, from `gradient` [K, P, Q, R, C]; one program per (RoI, share)."""
    k = tl.program_id(0).to(tl.int64) // shares
    share = tl.program_id(0) % shares
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    r = tl.arange(0, block_r)
    is_channel = c < channels

    batch, a0, a1, a2, b0, b1, b2, _ = load_roi(rois, k, 7)
    grid, X, Y, Z, scale = pick_level(grids, table, volume_of(a0, a1, a2, b0, b1, b2, 7), levels)
    offset: tl.constexpr = 0.5 if aligned and not crop else 0.0
    a0, a1, a2 = a0 * scale - offset, a1 * scale - offset, a2 * scale - offset
    b0, b1, b2 = b0 * scale - offset, b1 * scale - offset, b2 * scale - offset
    reads = usable(a0, b0) & usable(a1, b1) & usable(a2, b2) & names_a_grid(batch, batches)
    x_low, x_high = _band(0.0, P - 1.0, a0, b0, X, reads, P, ratio, aligned, crop)
    y_low, y_high = _band(0.0, Q - 1.0, a1, b1, Y, reads, Q, ratio, aligned, crop)
    z_low, z_high = _band(0.0, R - 1.0, a2, b2, Z, reads, R, ratio, aligned, crop)
    tiles = tl.cdiv(z_high - z_low, block_z)
    plane = tl.where(reads, batch, 0.0).to(tl.int64) * X.to(tl.int64)

    z = z_low + tl.arange(0, block_z)
    bins_z = r.to(tl.float32)[None, :]
    weight_of_first = _tap_weight(z.to(tl.float32)[:, None], bins_z, a2, b2, Z, R, ratio, aligned, crop)
    bin_mask = (r < R)[:, None] & is_channel[None, :]
    for x in range(x_low + share, x_high, shares):
        for y in range(y_low, y_high):
            bins = tl.zeros([block_r, block_c], dtype=tl.float32)
            touched = 0.0
            for p in range(P):
                weight_x = _tap_weight(1.0 * x, p * 1.0, a0, b0, X, P, ratio, aligned, crop)
                if weight_x != 0:
                    for q in range(Q):
                        weight_y = _tap_weight(1.0 * y, q * 1.0, a1, b1, Y, Q, ratio, aligned, crop)
                        weight = weight_x * weight_y
                        if weight != 0:
                            row = ((k * P + p) * Q + q) * R + r
                            place = gradient + row[:, None] * channels + c[None, :]
                            value = tl.load(place, mask=bin_mask, other=0.0).to(tl.float32)
                            bins = tl.fma(value, weight + tl.zeros_like(value), bins)
                            touched += weight
            if touched != 0:
                column = ((plane + x) * Y.to(tl.int64) + y) * Z.to(tl.int64)
                for tile in range(tiles):
                    z = z_low + tile * block_z + tl.arange(0, block_z)
                    weight_z = weight_of_first
                    if tile > 0:
                        weight_z = _tap_weight(z.to(tl.float32)[:, None], bins_z, a2, b2, Z, R, ratio, aligned, crop)
                    value = tl.dot(weight_z, bins, input_precision=precision)
                    voxels = grid + (column + z)[:, None] * channels + c[None, :]
                    inside = (z < z_high)[:, None] & is_channel[None, :]
                    tl.atomic_add(voxels, value, mask=inside, sem="relaxed")
