"""RoIs sample by sample: rotated ones, and the gradient for the boxes of either kind.

A program owns one (RoI, x bin, y bin), all its z bins, and a block of channels.
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

FORWARD = tl.constexpr(0)
FEATURES = tl.constexpr(1)
ROIS = tl.constexpr(2)


@triton.jit
def _window(
    index, start, end, low, high,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """A bin's begin, size, count, first sample at or before `low`, and how many there are from it up to `high`.

    A huge box has millions of adaptive samples, most of them off the grid.
    """
    begin, bin_size, count = bin_samples(index, start, end, bins, ratio, aligned or crop)
    first = 0.0 * begin
    if crop:
        many = 1
    elif ratio > 0:
        many = ratio
    else:
        step = tl.where(count > 0, bin_size / tl.maximum(count, 1.0), 1.0)
        first = tl.maximum(tl.floor((low - begin) / step - 0.5), 0.0)
        many = tl.minimum(count, tl.ceil((high - low) / step) + 2).to(tl.int32)
    return begin, bin_size, count, first, many


@triton.jit
def _place(
    index, begin, bin_size, count, sample, start, end, bins: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """Position of a sample, and where between the box's faces it lies: 0 on the lower, 1 on the upper."""
    if crop:
        position = corner_position(index, start, end, bins)
        fraction = 0.5 + 0.0 * index if bins == 1 else index / tl.maximum(bins - 1.0, 1.0)
    else:
        position = sample_position(begin, bin_size, count, sample)
        fraction = (index + (sample + 0.5) / tl.maximum(count, 1.0)) / bins
    return position, fraction


@triton.jit
def _cell(position, extent, crop: tl.constexpr):
    """Lower and upper voxel, distance from the lower, whether the sample counts and whether it can move in the cell."""
    margin: tl.constexpr = 0 if crop else 1
    inside = (position >= -margin) & (position <= extent - 1 + margin)
    free = (position >= 0) & (position <= extent - 1)
    position = tl.minimum(tl.maximum(tl.where(inside, position, 0.0), 0.0), extent - 1)
    low = tl.floor(position)
    return low.to(tl.int32), tl.minimum(low + 1, extent - 1).to(tl.int32), position - low, inside, free


@triton.jit(do_not_specialize=["batches"])
def pool_samples(
    out, gradient, rois, grids, table, batches,
    channels: tl.constexpr, levels: tl.constexpr, columns: tl.constexpr,
    P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr,
    ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
    task: tl.constexpr, block_r: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """FORWARD writes `out` [K, P, Q, R, C] from `grids`; FEATURES adds to `grids`, then fp32, from `gradient`, of
    that shape; ROIS writes `out`, then fp32 [K, P * Q, channel blocks, columns - 1], from both."""
    k = tl.program_id(0).to(tl.int64) // (P * Q)
    p = ((tl.program_id(0) // Q) % P).to(tl.float32)
    q = (tl.program_id(0) % Q).to(tl.float32)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    r = tl.arange(0, block_r)
    bin_mask = (r < R)[:, None] & (c < channels)[None, :]
    row = (tl.program_id(0).to(tl.int64) * R + r)[:, None] * channels + c[None, :]

    batch, a0, a1, a2, b0, b1, b2, yaw = load_roi(rois, k, columns)
    grid, X, Y, Z, scale = pick_level(grids, table, volume_of(a0, a1, a2, b0, b1, b2, columns), levels)
    offset: tl.constexpr = 0.5 if aligned and not crop else 0.0
    a0, a1, a2 = a0 * scale - offset, a1 * scale - offset, a2 * scale - offset
    if columns == 8:
        b0, b1, b2 = b0 * scale, b1 * scale, b2 * scale
    else:
        b0, b1, b2 = b0 * scale - offset, b1 * scale - offset, b2 * scale - offset
    named = names_a_grid(batch, batches)
    # Infinity minus itself is NaN.
    reads = usable(a0, b0) & usable(a1, b1) & usable(a2, b2) & named & (yaw - yaw == 0)
    cos, sin = tl.cos(yaw), tl.sin(yaw)
    if columns == 8:
        if not aligned:
            grows0, grows1, grows2 = b0 >= 1, b1 >= 1, b2 >= 1
            b0, b1, b2 = tl.maximum(b0, 1.0), tl.maximum(b1, 1.0), tl.maximum(b2, 1.0)
        u0, u1, u2 = -0.5 * b0, -0.5 * b1, -0.5 * b2
        v0, v1, v2 = 0.5 * b0, 0.5 * b1, 0.5 * b2
        # The grid's bounds in the frame of the box.
        near_x, far_x, near_y, far_y = -1 - a0, X - a0, -1 - a1, Y - a1
        low0 = tl.minimum(near_x * cos, far_x * cos) + tl.minimum(near_y * sin, far_y * sin)
        high0 = tl.maximum(near_x * cos, far_x * cos) + tl.maximum(near_y * sin, far_y * sin)
        low1 = tl.minimum(near_y * cos, far_y * cos) - tl.maximum(near_x * sin, far_x * sin)
        high1 = tl.maximum(near_y * cos, far_y * cos) - tl.minimum(near_x * sin, far_x * sin)
        low2, high2 = -1 - a2, Z - a2
    else:
        grows0, grows1, grows2 = b0 - a0 >= 1, b1 - a1 >= 1, b2 - a2 >= 1
        u0, u1, u2, v0, v1, v2 = a0, a1, a2, b0, b1, b2
        low0, low1, low2 = -1.0, -1.0, -1.0
        high0, high1, high2 = X, Y, Z
    r_index = r.to(tl.float32)
    begin0, size0, count0, first0, many0 = _window(p, u0, v0, low0, high0, P, ratio, aligned, crop)
    begin1, size1, count1, first1, many1 = _window(q, u1, v1, low1, high1, Q, ratio, aligned, crop)
    begin2, size2, count2, first2, many2 = _window(r_index, u2, v2, low2, high2, R, ratio, aligned, crop)
    if crop:
        share = 1.0
        limit0, limit1, limit2 = 1.0, 1.0, 1.0
    else:
        total = tl.maximum(count0, 1.0) * tl.maximum(count1, 1.0) * tl.maximum(count2, 1.0)
        share = tl.math.div_rn(1.0, total)
        limit0, limit1, limit2 = count0, count1, count2
    many0 = tl.where(reads, many0, 0)
    plane = tl.where(reads, batch, 0.0).to(tl.int64) * X.to(tl.int64)

    pooled = tl.zeros([block_r, block_c], dtype=tl.float32)
    if task != FORWARD:
        upstream = tl.load(gradient + row, mask=bin_mask, other=0.0).to(tl.float32)
    if task == ROIS:
        # Sums over samples and channels of the derivative along x, y, z, and of that times how it moves with a size.
        move0 = tl.zeros([block_r], dtype=tl.float32)
        move1, move2, grow0, grow1, grow2, turn = move0, move0, move0, move0, move0, move0
    for i in range(many0):
        place0, part0 = _place(p, begin0, size0, count0, first0 + i, u0, v0, P, crop)
        for j in range(many1):
            place1, part1 = _place(q, begin1, size1, count1, first1 + j, u1, v1, Q, crop)
            if columns == 8:
                x = a0 + (place0 * cos - place1 * sin)
                y = a1 + (place0 * sin + place1 * cos)
            else:
                x, y = place0, place1
            x0, x1, fx, inside_x, free_x = _cell(x, X, crop)
            y0, y1, fy, inside_y, free_y = _cell(y, Y, crop)
            if inside_x & inside_y & (first0 + i < limit0) & (first1 + j < limit1):
                for l in range(many2):
                    place2, part2 = _place(r_index, begin2, size2, count2, first2 + l, u2, v2, R, crop)
                    z = a2 + place2 if columns == 8 else place2
                    z0, z1, fz, inside_z, free_z = _cell(z, Z, crop)
                    counts = inside_z & (first2 + l < limit2) & (r < R)
                    mask = bin_mask & counts[:, None]
                    slope_x = tl.zeros([block_r], dtype=tl.float32)
                    slope_y, slope_z = slope_x, slope_x
                    for corner in tl.static_range(8):
                        cx, wx, dx = (x1, fx, share) if corner & 1 else (x0, 1 - fx, -share)
                        cy, wy, dy = (y1, fy, share) if corner & 2 else (y0, 1 - fy, -share)
                        cz, wz, dz = (z1, fz, share) if corner & 4 else (z0, 1 - fz, -share)
                        column = ((plane + cx) * Y.to(tl.int64) + cy) * Z.to(tl.int64)
                        voxels = grid + (column + cz)[:, None] * channels + c[None, :]
                        weight = (wx * wy * wz * share)[:, None] + tl.zeros_like(pooled)
                        if task == FEATURES:
                            tl.atomic_add(voxels, upstream * weight, mask=mask, sem="relaxed")
                        else:
                            value = tl.load(voxels, mask=mask, other=0.0).to(tl.float32)
                            if task == FORWARD:
                                pooled = tl.fma(value, weight, pooled)
                            else:
                                agreement = tl.sum(value * upstream, axis=1)
                                slope_x += agreement * (dx * wy * wz)
                                slope_y += agreement * (wx * dy * wz)
                                slope_z += agreement * (wx * wy * dz)
                    if task == ROIS:
                        slope_x = tl.where(free_x, slope_x, 0.0)
                        slope_y = tl.where(free_y, slope_y, 0.0)
                        slope_z = tl.where(free_z, slope_z, 0.0)
                        move0 += slope_x
                        move1 += slope_y
                        move2 += slope_z
                        if columns == 8:
                            grow0 += (slope_x * cos + slope_y * sin) * (part0 - 0.5)
                            grow1 += (slope_y * cos - slope_x * sin) * (part1 - 0.5)
                            grow2 += slope_z * (part2 - 0.5)
                            turn += slope_y * (place0 * cos - place1 * sin) - slope_x * (place0 * sin + place1 * cos)
                        else:
                            grow0 += slope_x * part0
                            grow1 += slope_y * part1
                            grow2 += slope_z * part2
    if task == FORWARD:
        pooled = tl.where(named, pooled, float("nan"))
        tl.store(out + row, pooled.to(out.dtype.element_ty), mask=bin_mask)
    if task == ROIS:
        if not (aligned or crop):
            grow0 = tl.where(grows0, grow0, 0.0)
            grow1 = tl.where(grows1, grow1, 0.0)
            grow2 = tl.where(grows2, grow2, 0.0)
        if columns == 7:
            move0, move1, move2 = move0 - grow0, move1 - grow1, move2 - grow2
        place = out + (tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * (columns - 1)
        tl.store(place, tl.sum(move0) * scale)
        tl.store(place + 1, tl.sum(move1) * scale)
        tl.store(place + 2, tl.sum(move2) * scale)
        tl.store(place + 3, tl.sum(grow0) * scale)
        tl.store(place + 4, tl.sum(grow1) * scale)
        tl.store(place + 5, tl.sum(grow2) * scale)
        if columns == 8:
            tl.store(place + 6, tl.sum(turn))
