"""Axis-aligned RoIs: a voxel's weight in a bin is a product of one per axis, and close samples share their voxels.

Forward, a program owns some (y, z) bins of a RoI and walks along x: every voxel that a bin's samples touch is read once
per bin, and neighbouring bins find it in the L1 cache. Backward, a program owns voxels of a RoI's (y, z) footprint,
walks along x, and gathers from the bins that read them, so each voxel gets one atomic addition per RoI.

Weights are sums of linear hat functions around the samples (Jaderberg et al. 2015, eq. 5), clamped to the grid.
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
def _hat(position, voxel, extent, crop: tl.constexpr):
    """What of a sample at `position`, clamped to the grid, falls to `voxel`; nothing if it lies off the grid."""
    margin: tl.constexpr = 0 if crop else 1
    inside = (position >= -margin) & (position <= extent - 1 + margin)
    near = tl.where(inside, tl.minimum(tl.maximum(position, 0.0), extent - 1), -4.0)
    return tl.maximum(1 - tl.abs(voxel - near), 0.0)


@triton.jit
def _weight(
    voxel, index, start, end, extent,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """Weight of `voxel` in bin `index` along one axis, times the bin's samples; fp32 scalars or vectors."""
    weight = 0.0 * voxel + 0.0 * index
    if crop:
        weight += _hat(corner_position(index, start, end, bins), voxel, extent, crop)
    else:
        begin, bin_size, count = bin_samples(index, start, end, bins, ratio, aligned)
        if ratio == 1 or ratio == 2:
            for sample in tl.static_range(ratio):
                weight += _hat(sample_position(begin, bin_size, count, sample), voxel, extent, crop)
        else:
            if count <= 8:
                for sample in range(tl.cast(count, tl.int32)):
                    weight += _hat(sample_position(begin, bin_size, count, 1.0 * sample), voxel, extent, crop)
            else:
                # Adaptive samples are more than half a voxel apart, so at most five reach a voxel; two for rounding.
                # Those of a fixed number may be as close as they like.
                many: tl.constexpr = 7 if ratio == 0 else ratio
                first = 0.0 * weight
                if ratio == 0:
                    first = tl.maximum(tl.floor((voxel - 1 - begin) / (bin_size / count) - 0.5), 0.0)
                for sample in range(many):
                    value = _hat(sample_position(begin, bin_size, count, first + sample), voxel, extent, crop)
                    weight += tl.where(first + sample < count, value, 0.0)
    return weight


@triton.jit
def _voxels_of_bin(
    index, start, end, extent,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """First voxel that bin `index` may read along one axis, and how many."""
    if crop:
        one = corner_position(index, start, end, bins)
        other = one
    else:
        begin, bin_size, count = bin_samples(index, start, end, bins, ratio, aligned)
        one = sample_position(begin, bin_size, count, 0.0)
        other = sample_position(begin, bin_size, count, tl.maximum(count - 1, 0.0))
    low = tl.floor(tl.minimum(tl.maximum(tl.minimum(one, other), 0.0), extent - 1))
    high = tl.floor(tl.minimum(tl.maximum(tl.maximum(one, other), 0.0), extent - 1))
    return low.to(tl.int32), (high - low).to(tl.int32) + 2


@triton.jit
def _bins_of_voxel(
    voxel, start, end, extent,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """First bin that may read `voxel` along one axis, and how many."""
    # The interpreter passes loop variables as Python's numbers.
    voxel += tl.zeros((), dtype=tl.float32)
    if bins == 1:
        low, high = 0.0 * voxel, 0.0 * voxel
    else:
        if crop:
            step = tl.math.div_rn(end - start, bins - 1.0)
            first = 0.0
        else:
            _, step, count = bin_samples(0.0, start, end, bins, ratio, aligned)
            first = 0.5 / tl.maximum(count, 1.0)
        last = 0.0 if crop else 1 - first
        # A little more than a voxel, since positions are rounded; bins closer than that are not told apart.
        reach = 1 + 1e-6 * (tl.abs(start) + tl.abs(end) + extent)
        apart = tl.where(tl.abs(step) > 1e-3, step, 1.0)
        one, other = (voxel - reach - start) / apart, (voxel + reach - start) / apart
        low = tl.ceil(tl.minimum(one, other) - last)
        high = tl.floor(tl.maximum(one, other) - first)
        low = tl.where(tl.abs(step) > 1e-3, tl.minimum(tl.maximum(low, 0.0), bins - 1.0), 0.0)
        high = tl.where(tl.abs(step) > 1e-3, tl.minimum(tl.maximum(high, -1.0), bins - 1.0), bins - 1.0)
    return low.to(tl.int32), tl.maximum((high - low).to(tl.int32) + 1, 0)


@triton.jit
def _voxels_of_roi(
    start, end, extent, reads,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """First voxel that any bin may read along one axis, and how many; none if not `reads`."""
    one, count_of_one = _voxels_of_bin(0.0, start, end, extent, bins, ratio, aligned, crop)
    other, count_of_other = _voxels_of_bin(bins - 1.0, start, end, extent, bins, ratio, aligned, crop)
    low = tl.minimum(one, other)
    high = tl.minimum(tl.maximum(one + count_of_one, other + count_of_other), extent.to(tl.int32))
    return low, tl.where(reads, high - low, 0)


@triton.jit
def _place(rois, grids, table, batches, k, levels: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr):
    """Level of a RoI, its extents, first x plane of its grid, the box in voxels, whether it reads and names a grid."""
    batch, a0, a1, a2, b0, b1, b2, _ = load_roi(rois, k, 7)
    grid, X, Y, Z, scale = pick_level(grids, table, volume_of(a0, a1, a2, b0, b1, b2, 7), levels)
    offset: tl.constexpr = 0.5 if aligned and not crop else 0.0
    a0, a1, a2 = a0 * scale - offset, a1 * scale - offset, a2 * scale - offset
    b0, b1, b2 = b0 * scale - offset, b1 * scale - offset, b2 * scale - offset
    named = names_a_grid(batch, batches)
    reads = usable(a0, b0) & usable(a1, b1) & usable(a2, b2) & named
    plane = tl.where(reads, batch, 0.0).to(tl.int64) * X.to(tl.int64)
    return grid, X, Y, Z, plane, a0, a1, a2, b0, b1, b2, reads, named


@triton.jit
def _samples_per_bin(
    a0, a1, a2, b0, b1, b2,
    P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    if crop:
        total = 1.0
    else:
        _, _, x = bin_samples(0.0, a0, b0, P, ratio, aligned)
        _, _, y = bin_samples(0.0, a1, b1, Q, ratio, aligned)
        _, _, z = bin_samples(0.0, a2, b2, R, ratio, aligned)
        total = tl.maximum(x, 1.0) * tl.maximum(y, 1.0) * tl.maximum(z, 1.0)
    return total


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
    grid, X, Y, Z, plane, a0, a1, a2, b0, b1, b2, reads, named = _place(
        rois, grids, table, batches, k, levels, aligned, crop
    )
    q, r = (row // R).to(tl.float32), (row % R).to(tl.float32)
    low_y, many_y = _voxels_of_bin(q, a1, b1, Y, Q, ratio, aligned, crop)
    low_z, many_z = _voxels_of_bin(r, a2, b2, Z, R, ratio, aligned, crop)
    taps_y, taps_z = tl.max(many_y), tl.max(many_z)
    y, z = low_y.to(tl.float32), low_z.to(tl.float32)
    row_size = Z.to(tl.int64) * channels
    plane_size = Y.to(tl.int64) * row_size
    corner = grid + plane * plane_size + (low_y * row_size + low_z * channels)[:, None] + c[None, :]
    part = tl.math.div_rn(1.0, _samples_per_bin(a0, a1, a2, b0, b1, b2, P, Q, R, ratio, aligned, crop))

    # Weights of the first voxels along y and z, which serve all x bins. One sample touches two voxels along an axis; of
    # more samples, bins wider than the voxels that are prepared for are weighted where they are read.
    fixed: tl.constexpr = 2 if crop or ratio == 1 else 4
    dynamic: tl.constexpr = fixed == 4
    few = (taps_y <= fixed) & (taps_z <= fixed)
    y0 = _weight(y, q, a1, b1, Y, Q, ratio, aligned, crop)
    y1 = _weight(y + 1, q, a1, b1, Y, Q, ratio, aligned, crop)
    z0 = _weight(z, r, a2, b2, Z, R, ratio, aligned, crop)
    z1 = _weight(z + 1, r, a2, b2, Z, R, ratio, aligned, crop)
    if fixed == 2:
        y2, y3, z2, z3 = y1, y1, z1, z1
    else:
        y2 = _weight(y + 2, q, a1, b1, Y, Q, ratio, aligned, crop)
        y3 = _weight(y + 3, q, a1, b1, Y, Q, ratio, aligned, crop)
        z2 = _weight(z + 2, r, a2, b2, Z, R, ratio, aligned, crop)
        z3 = _weight(z + 3, r, a2, b2, Z, R, ratio, aligned, crop)
    for p in range(P):
        pooled = tl.zeros([block_rows, block_c], dtype=tl.float32)
        low_x, taps_x = _voxels_of_bin(1.0 * p, a0, b0, X, P, ratio, aligned, crop)
        for i in range(tl.where(reads, tl.minimum(taps_x, X.to(tl.int32) - low_x), 0)):
            x = _weight(1.0 * (low_x + i), 1.0 * p, a0, b0, X, P, ratio, aligned, crop)
            face = corner + (low_x + i) * plane_size
            if x != 0:
                if dynamic and not few:
                    for j in range(taps_y):
                        xy = x * _weight(y + j, q, a1, b1, Y, Q, ratio, aligned, crop)
                        for l in range(taps_z):
                            weight = xy * _weight(z + l, r, a2, b2, Z, R, ratio, aligned, crop)
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
        place = out + ((k * P + p) * (Q * R) + row)[:, None] * channels + c[None, :]
        tl.store(place, pooled.to(out.dtype.element_ty), mask=is_bin)


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
    grid, X, Y, Z, plane, a0, a1, a2, b0, b1, b2, reads, _ = _place(
        rois, grids, table, batches, k, levels, aligned, crop
    )
    low_x, many_x = _voxels_of_roi(a0, b0, X, reads, P, ratio, aligned, crop)
    low_y, many_y = _voxels_of_roi(a1, b1, Y, reads, Q, ratio, aligned, crop)
    low_z, many_z = _voxels_of_roi(a2, b2, Z, reads, R, ratio, aligned, crop)
    part = tl.math.div_rn(1.0, _samples_per_bin(a0, a1, a2, b0, b1, b2, P, Q, R, ratio, aligned, crop))
    for run in range(tl.program_id(0) % shares, tl.cdiv(many_y * many_z, block_rows), shares):
        lane = run * block_rows + tl.arange(0, block_rows)
        y, z = low_y + lane // many_z, low_z + lane % many_z
        voxel = (y * Z.to(tl.int32) + z).to(tl.int64)
        y, z = y.to(tl.float32), z.to(tl.float32)
        first_q, many_q = _bins_of_voxel(y, a1, b1, Y, Q, ratio, aligned, crop)
        first_r, many_r = _bins_of_voxel(z, a2, b2, Z, R, ratio, aligned, crop)
        is_voxel = (lane < many_y * many_z) & (many_q > 0) & (many_r > 0)
        bins_y, bins_z = tl.max(tl.where(is_voxel, many_q, 0)), tl.max(tl.where(is_voxel, many_r, 0))
        is_value = is_voxel[:, None] & (c < channels)[None, :]
        places = gradient + k * (P * Q * R * channels) + ((first_q * R + first_r) * channels)[:, None] + c[None, :]
        q, r = first_q.to(tl.float32), first_r.to(tl.float32)
        # Weights in the first bins along y and z, which serve all x planes; those past the last bin count nothing.
        few = (bins_y <= 4) & (bins_z <= 4)
        y0 = _weight(y, q, a1, b1, Y, Q, ratio, aligned, crop)
        y1 = tl.where(many_q > 1, _weight(y, q + 1, a1, b1, Y, Q, ratio, aligned, crop), 0.0)
        y2 = tl.where(many_q > 2, _weight(y, q + 2, a1, b1, Y, Q, ratio, aligned, crop), 0.0)
        y3 = tl.where(many_q > 3, _weight(y, q + 3, a1, b1, Y, Q, ratio, aligned, crop), 0.0)
        z0 = _weight(z, r, a2, b2, Z, R, ratio, aligned, crop)
        z1 = tl.where(many_r > 1, _weight(z, r + 1, a2, b2, Z, R, ratio, aligned, crop), 0.0)
        z2 = tl.where(many_r > 2, _weight(z, r + 2, a2, b2, Z, R, ratio, aligned, crop), 0.0)
        z3 = tl.where(many_r > 3, _weight(z, r + 3, a2, b2, Z, R, ratio, aligned, crop), 0.0)
        for x in range(low_x, low_x + many_x):
            first_p, many_p = _bins_of_voxel(1.0 * x, a0, b0, X, P, ratio, aligned, crop)
            face = places + first_p * (Q * R * channels)
            total = tl.zeros([block_rows, block_c], dtype=tl.float32)
            if few:
                for i in range(many_p):
                    weight_x = part * _weight(1.0 * x, 1.0 * (first_p + i), a0, b0, X, P, ratio, aligned, crop)
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
                    weight_y = part * _weight(y, q + j, a1, b1, Y, Q, ratio, aligned, crop)
                    weight_y = tl.where(j < many_q, weight_y, 0.0)
                    for l in range(bins_z):
                        yz = weight_y * _weight(z, r + l, a2, b2, Z, R, ratio, aligned, crop)
                        yz = tl.where(l < many_r, yz, 0.0)
                        for i in range(many_p):
                            weight_x = _weight(1.0 * x, 1.0 * (first_p + i), a0, b0, X, P, ratio, aligned, crop)
                            line = face + ((i * Q + j) * R + l) * channels
                            total = _add(total, line, yz * weight_x, is_value)
            if many_p > 0:
                column = (plane + x) * (Y.to(tl.int64) * Z.to(tl.int64)) + voxel
                tl.atomic_add(grid + column[:, None] * channels + c[None, :], total, mask=is_value, sem="relaxed")
