"""Axis-aligned RoIs, every channel on its own.

Forward, a program owns some (y, z) bins of a RoI and walks along x: every voxel that a bin's samples touch is read once
per bin, and neighbouring bins find it in the L1 cache. Backward, a program owns voxels of a RoI's (y, z) footprint,
walks along x, and gathers from the bins that read them, so each voxel gets one atomic addition per RoI.
"""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOptionalOperand=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportAssignmentType=false

import triton
import triton.language as tl

from roi_align3d.kernels.weights import (
    axis_weight,
    bins_of_voxel,
    place,
    samples_per_bin,
    voxels_of_bin,
    voxels_of_bins,
)


@triton.jit
def _add(total, places, weight, mask):
    """Adds to `total` [rows, C] what lies at `places` times each row's weight; nothing is read where that is zero."""
    value = tl.load(places, mask=mask & (weight != 0)[:, None], other=0.0).to(tl.float32)
    return tl.fma(value, weight[:, None] + tl.zeros_like(total), total)


@triton.jit(do_not_specialize=["batches"])
def pool_forward(
    out, rois, grids, table, batches,
    channels: tl.constexpr, levels: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
    block_rows: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """`out` [K, P, Q, R, C] from `grids`, a tuple of [N, X, Y, Z, C]; a program per (RoI, rows of bins), channels."""
    chunks: tl.constexpr = (Q * R + block_rows - 1) // block_rows
    k = tl.program_id(0).to(tl.int64) // chunks
    row = tl.program_id(0) % chunks * block_rows + tl.arange(0, block_rows)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    is_bin = (row < Q * R)[:, None] & (c < channels)[None, :]
    grid, X, Y, Z, plane, a0, a1, a2, b0, b1, b2, reads, named = place(
        rois, grids, table, batches, k, levels, aligned, crop
    )
    q, r = (row // R).to(tl.float32), (row % R).to(tl.float32)
    low_y, many_y = voxels_of_bin(q, a1, b1, Y, Q, ratio, aligned, crop)
    low_z, many_z = voxels_of_bin(r, a2, b2, Z, R, ratio, aligned, crop)
    taps_y, taps_z = tl.max(many_y), tl.max(many_z)
    y, z = low_y.to(tl.float32), low_z.to(tl.float32)
    row_size = Z.to(tl.int64) * channels
    plane_size = Y.to(tl.int64) * row_size
    corner = grid + plane * plane_size + (low_y * row_size + low_z * channels)[:, None] + c[None, :]
    part = tl.math.div_rn(1.0, samples_per_bin(a0, a1, a2, b0, b1, b2, P, Q, R, ratio, aligned, crop))

    # Weights of the first voxels along y and z, which serve all x bins. One sample touches two voxels along an axis; of
    # more samples, bins wider than the voxels that are prepared for are weighted where they are read.
    fixed: tl.constexpr = 2 if crop or ratio == 1 else 4
    dynamic: tl.constexpr = fixed == 4
    few = (taps_y <= fixed) & (taps_z <= fixed)
    y0 = axis_weight(y, q, a1, b1, Y, Q, ratio, aligned, crop)
    y1 = axis_weight(y + 1, q, a1, b1, Y, Q, ratio, aligned, crop)
    z0 = axis_weight(z, r, a2, b2, Z, R, ratio, aligned, crop)
    z1 = axis_weight(z + 1, r, a2, b2, Z, R, ratio, aligned, crop)
    if fixed == 2:
        y2, y3, z2, z3 = y1, y1, z1, z1
    else:
        y2 = axis_weight(y + 2, q, a1, b1, Y, Q, ratio, aligned, crop)
        y3 = axis_weight(y + 3, q, a1, b1, Y, Q, ratio, aligned, crop)
        z2 = axis_weight(z + 2, r, a2, b2, Z, R, ratio, aligned, crop)
        z3 = axis_weight(z + 3, r, a2, b2, Z, R, ratio, aligned, crop)
    for p in range(P):
        pooled = tl.zeros([block_rows, block_c], dtype=tl.float32)
        low_x, taps_x = voxels_of_bin(1.0 * p, a0, b0, X, P, ratio, aligned, crop)
        for i in range(tl.where(reads, tl.minimum(taps_x, X.to(tl.int32) - low_x), 0)):
            x = axis_weight(1.0 * (low_x + i), 1.0 * p, a0, b0, X, P, ratio, aligned, crop)
            face = corner + (low_x + i) * plane_size
            if x != 0:
                if dynamic and not few:
                    for j in range(taps_y):
                        xy = x * axis_weight(y + j, q, a1, b1, Y, Q, ratio, aligned, crop)
                        for l in range(taps_z):
                            weight = xy * axis_weight(z + l, r, a2, b2, Z, R, ratio, aligned, crop)
                            pooled = _add(pooled, face + j * row_size + l * channels, weight, is_bin)
                else:
                    for j in tl.static_range(fixed):
                        if j < 2 or j < taps_y:
                            xy = x * (y0 if j == 0 else y1 if j == 1 else y2 if j == 2 else y3)
                            line = face + j * row_size
                            pooled = _add(pooled, line, xy * z0, is_bin)
                            pooled = _add(pooled, line + channels, xy * z1, is_bin)
                            if fixed > 2:
                                if taps_z > 2:
                                    pooled = _add(pooled, line + 2 * channels, xy * z2, is_bin)
                                if taps_z > 3:
                                    pooled = _add(pooled, line + 3 * channels, xy * z3, is_bin)
        pooled = tl.where(named, pooled * part, float("nan"))
        target = out + ((k * P + p) * (Q * R) + row)[:, None] * channels + c[None, :]
        tl.store(target, pooled.to(out.dtype.element_ty), mask=is_bin)


@triton.jit(do_not_specialize=["batches"])
def pool_backward(
    gradient, rois, grids, table, batches,
    channels: tl.constexpr, levels: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
    shares: tl.constexpr, block_rows: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Adds to `grids`, fp32 [N, X, Y, Z, C] each, from `gradient` [K, P, Q, R, C].

    A program owns a share of a RoI and a block of channels. Shares take the runs of `block_rows` voxels of the (y, z)
    footprint in turn.
    """
    k = tl.program_id(0).to(tl.int64) // shares
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    grid, X, Y, Z, plane, a0, a1, a2, b0, b1, b2, reads, _ = place(
        rois, grids, table, batches, k, levels, aligned, crop
    )
    low_x, many_x = voxels_of_bins(0.0, P - 1.0, a0, b0, X, reads, P, ratio, aligned, crop)
    low_y, many_y = voxels_of_bins(0.0, Q - 1.0, a1, b1, Y, reads, Q, ratio, aligned, crop)
    low_z, many_z = voxels_of_bins(0.0, R - 1.0, a2, b2, Z, reads, R, ratio, aligned, crop)
    part = tl.math.div_rn(1.0, samples_per_bin(a0, a1, a2, b0, b1, b2, P, Q, R, ratio, aligned, crop))
    for run in range(tl.program_id(0) % shares, tl.cdiv(many_y * many_z, block_rows), shares):
        lane = run * block_rows + tl.arange(0, block_rows)
        y, z = low_y + lane // many_z, low_z + lane % many_z
        voxel = (y * Z.to(tl.int32) + z).to(tl.int64)
        y, z = y.to(tl.float32), z.to(tl.float32)
        first_q, many_q = bins_of_voxel(y, a1, b1, Y, Q, ratio, aligned, crop)
        first_r, many_r = bins_of_voxel(z, a2, b2, Z, R, ratio, aligned, crop)
        is_voxel = (lane < many_y * many_z) & (many_q > 0) & (many_r > 0)
        bins_y, bins_z = tl.max(tl.where(is_voxel, many_q, 0)), tl.max(tl.where(is_voxel, many_r, 0))
        is_value = is_voxel[:, None] & (c < channels)[None, :]
        places = gradient + k * (P * Q * R * channels) + ((first_q * R + first_r) * channels)[:, None] + c[None, :]
        q, r = first_q.to(tl.float32), first_r.to(tl.float32)
        # Weights in the first bins along y and z, which serve all x planes; those past the last bin count nothing.
        few = (bins_y <= 4) & (bins_z <= 4)
        y0 = axis_weight(y, q, a1, b1, Y, Q, ratio, aligned, crop)
        y1 = tl.where(many_q > 1, axis_weight(y, q + 1, a1, b1, Y, Q, ratio, aligned, crop), 0.0)
        y2 = tl.where(many_q > 2, axis_weight(y, q + 2, a1, b1, Y, Q, ratio, aligned, crop), 0.0)
        y3 = tl.where(many_q > 3, axis_weight(y, q + 3, a1, b1, Y, Q, ratio, aligned, crop), 0.0)
        z0 = axis_weight(z, r, a2, b2, Z, R, ratio, aligned, crop)
        z1 = tl.where(many_r > 1, axis_weight(z, r + 1, a2, b2, Z, R, ratio, aligned, crop), 0.0)
        z2 = tl.where(many_r > 2, axis_weight(z, r + 2, a2, b2, Z, R, ratio, aligned, crop), 0.0)
        z3 = tl.where(many_r > 3, axis_weight(z, r + 3, a2, b2, Z, R, ratio, aligned, crop), 0.0)
        for x in range(low_x, low_x + many_x):
            first_p, many_p = bins_of_voxel(1.0 * x, a0, b0, X, P, ratio, aligned, crop)
            face = places + first_p * (Q * R * channels)
            total = tl.zeros([block_rows, block_c], dtype=tl.float32)
            if few:
                for i in range(many_p):
                    weight_x = part * axis_weight(1.0 * x, 1.0 * (first_p + i), a0, b0, X, P, ratio, aligned, crop)
                    if weight_x != 0:
                        for j in tl.static_range(4):
                            if j < bins_y:
                                xy = weight_x * (y0 if j == 0 else y1 if j == 1 else y2 if j == 2 else y3)
                                line = face + (i * Q + j) * (R * channels)
                                total = _add(total, line, xy * z0, is_value)
                                if bins_z > 1:
                                    total = _add(total, line + channels, xy * z1, is_value)
                                if bins_z > 2:
                                    total = _add(total, line + 2 * channels, xy * z2, is_value)
                                if bins_z > 3:
                                    total = _add(total, line + 3 * channels, xy * z3, is_value)
            else:
                for j in range(bins_y):
                    weight_y = part * axis_weight(y, q + j, a1, b1, Y, Q, ratio, aligned, crop)
                    weight_y = tl.where(j < many_q, weight_y, 0.0)
                    for l in range(bins_z):
                        yz = weight_y * axis_weight(z, r + l, a2, b2, Z, R, ratio, aligned, crop)
                        yz = tl.where(l < many_r, yz, 0.0)
                        for i in range(many_p):
                            weight_x = axis_weight(1.0 * x, 1.0 * (first_p + i), a0, b0, X, P, ratio, aligned, crop)
                            line = face + ((i * Q + j) * R + l) * channels
                            total = _add(total, line, yz * weight_x, is_value)
            if many_p > 0:
                column = (plane + x) * (Y.to(tl.int64) * Z.to(tl.int64)) + voxel
                tl.atomic_add(grid + column[:, None] * channels + c[None, :], total, mask=is_value, sem="relaxed")
