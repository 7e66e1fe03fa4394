"""Axis-aligned RoIs over fp16 or bf16 features: taps along y and z are contracted on tensor cores.

A program owns some (y, z) bins of a RoI and some x bins, and walks along the x planes of what they read. For every
plane, a matrix product with the (y, z) weights gives all its (y, z) bins, which are added to the x bins in fp32. Every
voxel is read once per program. Weights along y and z are rounded to the features' type; everything is summed in fp32.
A feature that is not finite makes all results of the program so.
"""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOptionalOperand=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportAssignmentType=false

import triton
import triton.language as tl

from roi_align3d.kernels.weights import (
    axis_weight,
    bins_of_voxels,
    place,
    samples_per_bin,
    voxels_of_bin,
    voxels_of_bins,
)


@triton.jit
def _forward_weights(
    y, z, q, r, is_row, a1, b1, Y, a2, b2, Z,
    Q: tl.constexpr, R: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """Weights [bins, voxels] along y and z, zero for rows that are no bins."""
    weight_y = axis_weight(y.to(tl.float32)[None, :], q.to(tl.float32)[:, None], a1, b1, Y, Q, ratio, aligned, crop)
    weight_z = axis_weight(z.to(tl.float32)[None, :], r.to(tl.float32)[:, None], a2, b2, Z, R, ratio, aligned, crop)
    return tl.where(is_row[:, None], weight_y * weight_z, 0.0).to(dtype)


@triton.jit(do_not_specialize=["batches"])
def contract_forward(
    out, rois, grids, table, batches,
    channels: tl.constexpr, levels: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
    slabs: tl.constexpr, strips: tl.constexpr, runs: tl.constexpr,
    block_rows: tl.constexpr, block_voxels: tl.constexpr, block_c: tl.constexpr,
    rounds: tl.constexpr, unroll: tl.constexpr,
):  # fmt: skip
    """`out` [K, P, Q, R, C] from `grids`, a tuple of [N, X, Y, Z, C].

    A program owns, of a RoI, one of `slabs` of the bins along x, of `strips` along y and of `runs` along z, and
    `rounds` blocks of channels.
    """
    in_slab: tl.constexpr = (P + slabs - 1) // slabs
    in_strip: tl.constexpr = (Q + strips - 1) // strips
    in_run: tl.constexpr = (R + runs - 1) // runs
    k = tl.program_id(0).to(tl.int64) // (slabs * strips * runs)
    part = tl.program_id(0) % (slabs * strips * runs)
    first_p = part // (strips * runs) * in_slab
    first_q = part // runs % strips * in_strip
    first_r = part % runs * in_run
    grid, X, Y, Z, plane, a0, a1, a2, b0, b1, b2, reads, named = place(
        rois, grids, table, batches, k, levels, aligned, crop
    )
    last_p = tl.minimum(first_p + in_slab, P) - 1
    last_q = tl.minimum(first_q + in_strip, Q) - 1
    last_r = tl.minimum(first_r + in_run, R) - 1
    low_x, many_x = voxels_of_bins(first_p, last_p, a0, b0, X, reads, P, ratio, aligned, crop)
    low_y, many_y = voxels_of_bins(first_q, last_q, a1, b1, Y, reads, Q, ratio, aligned, crop)
    low_z, many_z = voxels_of_bins(first_r, last_r, a2, b2, Z, reads, R, ratio, aligned, crop)

    row = tl.arange(0, block_rows)
    q, r = first_q + row // in_run, first_r + row % in_run
    is_row = (q <= last_q) & (r <= last_r)
    row_size = Z.to(tl.int64) * channels
    plane_size = Y.to(tl.int64) * row_size
    corner = grid + (plane + low_x) * plane_size + low_y * row_size + low_z * channels
    share = tl.math.div_rn(1.0, samples_per_bin(a0, a1, a2, b0, b1, b2, P, Q, R, ratio, aligned, crop))
    target = out + ((k * P + first_p) * (Q * R) + q * R + r)[:, None] * channels
    # What each x bin reads; a program's last x bins may be none.
    firsts, ends = (), ()
    for p in tl.static_range(in_slab):
        first_x, count_x = voxels_of_bin(1.0 * (first_p + p), a0, b0, X, P, ratio, aligned, crop)
        firsts += (first_x,)
        ends += (first_x + count_x,)
    # Most footprints fit, and these weights serve all channels.
    lane = tl.arange(0, block_voxels)
    line = tl.maximum(many_z, 1)
    weights_of_first = _forward_weights(
        low_y + lane // line, low_z + lane % line, q, r, is_row, a1, b1, Y, a2, b2, Z, Q, R, ratio, aligned, crop,
        out.dtype.element_ty,
    )  # fmt: skip
    for turn in range(rounds):
        c = (tl.program_id(1) * rounds + turn) * block_c + tl.arange(0, block_c)
        sums = (tl.zeros([block_rows, block_c], dtype=tl.float32),) * in_slab
        for first in range(0, many_y * many_z, block_voxels):
            j, l = (first + lane) // line, (first + lane) % line
            weights = weights_of_first
            if first > 0:
                weights = _forward_weights(
                    low_y + j, low_z + l, q, r, is_row, a1, b1, Y, a2, b2, Z, Q, R, ratio, aligned, crop,
                    out.dtype.element_ty,
                )  # fmt: skip
            is_value = (first + lane < many_y * many_z)[:, None] & (c < channels)[None, :]
            voxels = corner + (j * row_size + l * channels)[:, None] + c[None, :]
            for i in tl.range(0, many_x, unroll, num_stages=3):
                planes = ()
                for u in tl.static_range(unroll):
                    values = tl.load(voxels + (i + u) * plane_size, mask=is_value & (i + u < many_x), other=0.0)
                    planes += (tl.dot(weights, values),)
                x = low_x + i
                added = ()
                for p in tl.static_range(in_slab):
                    total = sums[p]
                    if (x + unroll > firsts[p]) & (x < ends[p]):
                        for u in tl.static_range(unroll):
                            weight = axis_weight(1.0 * (x + u), 1.0 * (first_p + p), a0, b0, X, P, ratio, aligned, crop)
                            total = tl.fma(planes[u], weight + tl.zeros_like(total), total)
                    added += (total,)
                sums = added
        is_result = is_row[:, None] & (c < channels)[None, :]
        for p in tl.static_range(in_slab):
            total = tl.where(named, sums[p] * share, float("nan")).to(out.dtype.element_ty)
            tl.store(target + p * (Q * R * channels) + c[None, :], total, mask=is_result & (first_p + p < P))


@triton.jit(do_not_specialize=["batches"])
def contract_backward(
    gradient, rois, grids, table, batches,
    channels: tl.constexpr, levels: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
    shares: tl.constexpr, planes: tl.constexpr, block_rows: tl.constexpr, block_bins: tl.constexpr,
    block_c: tl.constexpr, stages: tl.constexpr,
):  # fmt: skip
    """Adds to `grids`, fp32 [N, X, Y, Z, C] each, from `gradient` [K, P, Q, R, C].

    A program owns a share of a RoI and a block of channels. Shares take in turn what `block_rows` voxels of the (y, z)
    footprint and `planes` planes have in common.
    """
    k = tl.program_id(0).to(tl.int64) // shares
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    grid, X, Y, Z, plane, a0, a1, a2, b0, b1, b2, reads, _ = place(
        rois, grids, table, batches, k, levels, aligned, crop
    )
    low_x, many_x = voxels_of_bins(0.0, P - 1.0, a0, b0, X, reads, P, ratio, aligned, crop)
    low_y, many_y = voxels_of_bins(0.0, Q - 1.0, a1, b1, Y, reads, Q, ratio, aligned, crop)
    low_z, many_z = voxels_of_bins(0.0, R - 1.0, a2, b2, Z, reads, R, ratio, aligned, crop)
    share = tl.math.div_rn(1.0, samples_per_bin(a0, a1, a2, b0, b1, b2, P, Q, R, ratio, aligned, crop))
    row_size = Z.to(tl.int64) * channels
    plane_size = Y.to(tl.int64) * row_size
    corner = grid + (plane + low_x) * plane_size + low_y * row_size + low_z * channels
    source = gradient + k * (P * Q * R * channels)
    lane = tl.arange(0, block_rows)
    bin_lane = tl.arange(0, block_bins)
    slabs = tl.cdiv(many_x, planes)
    for part in range(tl.program_id(0) % shares, slabs * tl.cdiv(many_y * many_z, block_rows), shares):
        first_x = part % slabs * planes
        first = part // slabs * block_rows
        j, l = (first + lane) // many_z, (first + lane) % many_z
        is_voxel = first + lane < many_y * many_z
        last_j = (tl.minimum(first + block_rows, many_y * many_z) - 1) // many_z
        x = low_x + first_x
        first_p, many_p = bins_of_voxels(
            1.0 * x, x + tl.minimum(planes, many_x - first_x) - 1.0, a0, b0, X, P, ratio, aligned, crop
        )
        first_q, many_q = bins_of_voxels(
            1.0 * (low_y + first // many_z), 1.0 * (low_y + last_j), a1, b1, Y, Q, ratio, aligned, crop
        )
        sums = (tl.zeros([block_rows, block_c], dtype=tl.float32),) * planes
        for first_bin in range(0, many_q * R, block_bins):
            q, r = first_q + (first_bin + bin_lane) // R, (first_bin + bin_lane) % R
            is_bin = first_bin + bin_lane < many_q * R
            weight_y = axis_weight(
                (low_y + j).to(tl.float32)[:, None], q.to(tl.float32)[None, :], a1, b1, Y, Q, ratio, aligned, crop
            )
            weight_z = axis_weight(
                (low_z + l).to(tl.float32)[:, None], r.to(tl.float32)[None, :], a2, b2, Z, R, ratio, aligned, crop
            )
            weights = tl.where(is_bin[None, :], weight_y * weight_z, 0.0).to(gradient.dtype.element_ty)
            is_value = is_bin[:, None] & (c < channels)[None, :]
            places = source + ((first_p * Q + q) * R + r)[:, None] * channels + c[None, :]
            for i in tl.range(0, many_p, num_stages=stages):
                values = tl.load(places + i * (Q * R * channels), mask=is_value, other=0.0)
                voxels = tl.dot(weights, values)
                added = ()
                for d in tl.static_range(planes):
                    total = sums[d]
                    weight = share * axis_weight(1.0 * (x + d), 1.0 * (first_p + i), a0, b0, X, P, ratio, aligned, crop)
                    if weight != 0:
                        total = tl.fma(voxels, weight + tl.zeros_like(total), total)
                    added += (total,)
                sums = added
        target = corner + first_x * plane_size + (j * row_size + l * channels)[:, None] + c[None, :]
        for d in tl.static_range(planes):
            is_result = is_voxel[:, None] & (c < channels)[None, :] & (first_x + d < many_x)
            tl.atomic_add(target + d * plane_size, sums[d], mask=is_result, sem="relaxed")
