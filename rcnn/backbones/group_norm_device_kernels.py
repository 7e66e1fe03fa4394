"""GroupNorm of maps in `torch.channels_last_3d`, with ReLU and padding, as Triton kernels.

Forward and backward have two kernels each: one for sums over the cells of each grid, in shares that are stored apart
and not added atomically, so that results repeat; and one that adds up the shares and writes the map. All arithmetic is
in float32.
"""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl

_RUNTIME = ["stride_n", "stride_x", "stride_y", "stride_z", "size_y", "size_z", "cells", "tiles"]


@triton.jit
def _lanes(groups: tl.constexpr, width: tl.constexpr, padded_groups: tl.constexpr, padded_width: tl.constexpr):
    """Channel and group of each lane, and whether there is such a channel: groups fill powers of two."""
    lane = tl.arange(0, padded_groups * padded_width)
    group = lane // padded_width
    channel = lane
    used = lane < groups * width
    if padded_width != width:
        channel = group * width + lane % padded_width
        used = (group < groups) & (lane % padded_width < width)
    return channel, group, used


@triton.jit
def _added(added, channel, used, adds: tl.constexpr):
    """What is added to each of some channels."""
    return (
        tl.load(added + channel, mask=used, other=0.0).to(tl.float32) if adds else tl.zeros_like(channel).to(tl.float32)
    )


@triton.jit
def _inside(
    outside, first, cells, stride_x, stride_y, stride_z, size_y, size_z, tile: tl.constexpr, padded: tl.constexpr
):
    """Which of the cells from the first on are there, and which of those are inside their grid."""
    cell = first + tl.arange(0, tile)
    there = cell < cells
    inside = there
    if padded:
        column = cell // size_z
        place = (column // size_y) * stride_x + (column % size_y) * stride_y + (cell % size_z) * stride_z
        inside = there & (tl.load(outside + place, mask=there, other=1) == 0)
    return there, inside


@triton.jit
def _by_group(values, padded_groups: tl.constexpr, padded_width: tl.constexpr):
    """Sums over the lanes of each group."""
    return tl.sum(tl.reshape(values, [padded_groups, padded_width]), axis=1)


@triton.jit
def _to_lanes(values, padded_groups: tl.constexpr, padded_width: tl.constexpr):
    """The value of a lane's group."""
    wide = tl.broadcast_to(values[:, None], [padded_groups, padded_width])
    return tl.reshape(wide, [padded_groups * padded_width])


@triton.jit
def _add_shares(shares, blocks, stride: tl.constexpr, padded_groups: tl.constexpr, rows: tl.constexpr):
    """Sums over the shares of a grid."""
    total = tl.zeros([padded_groups], dtype=tl.float32)
    for start in range(0, blocks, rows):
        row = start + tl.arange(0, rows)
        place = row[:, None] * stride + tl.arange(0, padded_groups)[None, :]
        total += tl.sum(tl.load(shares + place, mask=(row < blocks)[:, None], other=0.0), axis=0)
    return total


@triton.jit(do_not_specialize=_RUNTIME)
def sum_values(
    x, shares, added, outside, stride_n, stride_x, stride_y, stride_z, size_y, size_z, cells, tiles,
    groups: tl.constexpr, width: tl.constexpr, padded_groups: tl.constexpr, padded_width: tl.constexpr,
    tile: tl.constexpr, padded: tl.constexpr, adds: tl.constexpr,
):  # fmt: skip
    """Writes the sums of values, of their squares and of cells to `shares` [grids, blocks, 3, padded groups].

    A value of the grid is subtracted first, so that squares don't drown the variance of values far from zero.
    """
    block = tl.program_id(0)
    # Offsets pass 2^31 in large batches.
    grid = tl.program_id(1).to(tl.int64)
    x += grid * cells * (groups * width)
    outside += grid * stride_n
    channel, group, used = _lanes(groups, width, padded_groups, padded_width)
    shift = tl.load(x + group * width, mask=used, other=0.0).to(tl.float32)
    shift += _added(added, group * width, used, adds) - _added(added, channel, used, adds)
    total = tl.zeros([tile, padded_groups * padded_width], dtype=tl.float32)
    squares = tl.zeros([tile, padded_groups * padded_width], dtype=tl.float32)
    count = tl.zeros([tile], dtype=tl.float32)
    offset = tl.arange(0, tile)[:, None] * (groups * width) + channel[None, :]
    for step in range(tiles):
        first = (block * tiles + step) * tile
        _, inside = _inside(outside, first, cells, stride_x, stride_y, stride_z, size_y, size_z, tile, padded)
        mask = inside[:, None] & used[None, :]
        value = tl.load(x + first.to(tl.int64) * (groups * width) + offset, mask=mask, other=0.0).to(tl.float32)
        value = tl.where(mask, value - shift[None, :], 0.0)
        total += value
        squares += value * value
        count += inside.to(tl.float32)
    shares += (grid * tl.num_programs(0) + block) * (3 * padded_groups)
    lane = tl.arange(0, padded_groups)
    tl.store(shares + lane, _by_group(tl.sum(total, axis=0), padded_groups, padded_width))
    tl.store(shares + padded_groups + lane, _by_group(tl.sum(squares, axis=0), padded_groups, padded_width))
    tl.store(shares + 2 * padded_groups + lane, tl.zeros([padded_groups], dtype=tl.float32) + tl.sum(count, axis=0))


@triton.jit(do_not_specialize=_RUNTIME)
def normalize(
    x, out, weight, bias, shares, statistics, eps, running_mean, running_var, momentum,
    added, outside, stride_n, stride_x, stride_y, stride_z, size_y, size_z, cells, tiles,
    relu: tl.constexpr, rows: tl.constexpr, joined: tl.constexpr, tracks: tl.constexpr,
    groups: tl.constexpr, width: tl.constexpr, padded_groups: tl.constexpr, padded_width: tl.constexpr,
    tile: tl.constexpr, padded: tl.constexpr, adds: tl.constexpr,
):  # fmt: skip
    """Writes `out`, and mean, 1 / deviation and 1 / number of values to `statistics` [grids, 3, padded groups].

    `joined` shares are one row, added up already. Running statistics move towards those of this one grid if `tracks`.
    """
    block = tl.program_id(0)
    grid = tl.program_id(1).to(tl.int64)
    x += grid * cells * (groups * width)
    out += grid * cells * (groups * width)
    outside += grid * stride_n
    blocks = 1 if joined else tl.num_programs(0)
    shares += grid * blocks * (3 * padded_groups)
    total = _add_shares(shares, blocks, 3 * padded_groups, padded_groups, rows)
    squares = _add_shares(shares + padded_groups, blocks, 3 * padded_groups, padded_groups, rows)
    count = _add_shares(shares + 2 * padded_groups, blocks, 3 * padded_groups, padded_groups, rows)
    part = 1 / (count * width)
    group_of_sums = tl.arange(0, padded_groups)
    shift = tl.load(x + group_of_sums * width, mask=group_of_sums < groups, other=0.0).to(tl.float32)
    shift += _added(added, group_of_sums * width, group_of_sums < groups, adds)
    from_shift = total * part
    variance = tl.maximum(squares * part - from_shift * from_shift, 0.0)
    means = shift + from_shift
    scales = 1 / tl.sqrt(variance + eps)
    if block == 0:
        place_of_sums = statistics + grid * (3 * padded_groups) + group_of_sums
        tl.store(place_of_sums, means)
        tl.store(place_of_sums + padded_groups, scales)
        tl.store(place_of_sums + 2 * padded_groups, part)
        if tracks:
            is_group = group_of_sums < groups
            before = tl.load(running_mean + group_of_sums, mask=is_group, other=0.0)
            tl.store(running_mean + group_of_sums, before + momentum * (means - before), mask=is_group)
            unbiased = variance * (count * width) / (count * width - 1)
            before = tl.load(running_var + group_of_sums, mask=is_group, other=0.0)
            tl.store(running_var + group_of_sums, before + momentum * (unbiased - before), mask=is_group)
    channel, _, used = _lanes(groups, width, padded_groups, padded_width)
    mean = (_to_lanes(means, padded_groups, padded_width) - _added(added, channel, used, adds))[None, :]
    scale = _to_lanes(scales, padded_groups, padded_width)[None, :]
    gain = tl.load(weight + channel, mask=used, other=0.0).to(tl.float32)[None, :]
    lift = tl.load(bias + channel, mask=used, other=0.0).to(tl.float32)[None, :]
    offset = tl.arange(0, tile)[:, None] * (groups * width) + channel[None, :]
    for step in range(tiles):
        first = (block * tiles + step) * tile
        there, inside = _inside(outside, first, cells, stride_x, stride_y, stride_z, size_y, size_z, tile, padded)
        place = first.to(tl.int64) * (groups * width) + offset
        value = tl.load(x + place, mask=inside[:, None] & used[None, :], other=0.0).to(tl.float32)
        result = (value - mean) * scale * gain + lift
        if relu:
            result = tl.where(result < 0, 0.0, result)  # unlike a maximum, it keeps NaN
        if padded:
            result = tl.where(inside[:, None], result, 0.0)
        tl.store(out + place, result, mask=there[:, None] & used[None, :])


@triton.jit(do_not_specialize=_RUNTIME)
def sum_gradients(
    x, gradient, weight, bias, statistics, shares, of_channels,
    added, outside, stride_n, stride_x, stride_y, stride_z, size_y, size_z, cells, tiles,
    relu: tl.constexpr,
    groups: tl.constexpr, width: tl.constexpr, padded_groups: tl.constexpr, padded_width: tl.constexpr,
    tile: tl.constexpr, padded: tl.constexpr, adds: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of the weight and the bias to `of_channels` [grids * blocks, 2 or 3, channels].

    Those of the normalised values and of their mean go to `shares` [grids, blocks, 2, padded groups].
    """
    block = tl.program_id(0)
    grid = tl.program_id(1).to(tl.int64)
    x += grid * cells * (groups * width)
    gradient += grid * cells * (groups * width)
    outside += grid * stride_n
    statistics += grid * (3 * padded_groups)
    channel, group, used = _lanes(groups, width, padded_groups, padded_width)
    mean = (tl.load(statistics + group) - _added(added, channel, used, adds))[None, :]
    scale = tl.load(statistics + padded_groups + group)[None, :]
    gain = tl.load(weight + channel, mask=used, other=0.0).to(tl.float32)
    lift = tl.load(bias + channel, mask=used, other=0.0).to(tl.float32)
    of_weight = tl.zeros([tile, padded_groups * padded_width], dtype=tl.float32)
    of_bias = tl.zeros([tile, padded_groups * padded_width], dtype=tl.float32)
    offset = tl.arange(0, tile)[:, None] * (groups * width) + channel[None, :]
    for step in range(tiles):
        first = (block * tiles + step) * tile
        _, inside = _inside(outside, first, cells, stride_x, stride_y, stride_z, size_y, size_z, tile, padded)
        mask = inside[:, None] & used[None, :]
        place = first.to(tl.int64) * (groups * width) + offset
        value = (tl.load(x + place, mask=mask, other=0.0).to(tl.float32) - mean) * scale
        change = tl.load(gradient + place, mask=mask, other=0.0).to(tl.float32)
        if relu:
            change = tl.where(value * gain[None, :] + lift[None, :] > 0, change, 0.0)
        of_bias += change
        of_weight += change * value
    share = grid * tl.num_programs(0) + block
    of_channels += share * ((3 if adds else 2) * groups * width) + channel
    for_weight, for_bias = tl.sum(of_weight, axis=0), tl.sum(of_bias, axis=0)
    tl.store(of_channels, for_weight, mask=used)
    tl.store(of_channels + groups * width, for_bias, mask=used)
    shares += share * (2 * padded_groups) + tl.arange(0, padded_groups)
    tl.store(shares, _by_group(for_weight * gain, padded_groups, padded_width))
    tl.store(shares + padded_groups, _by_group(for_bias * gain, padded_groups, padded_width))


@triton.jit(do_not_specialize=_RUNTIME)
def write_gradient(
    x, gradient, x_gradient, weight, bias, statistics, shares, of_channels,
    added, outside, stride_n, stride_x, stride_y, stride_z, size_y, size_z, cells, tiles,
    relu: tl.constexpr, rows: tl.constexpr, joined: tl.constexpr,
    groups: tl.constexpr, width: tl.constexpr, padded_groups: tl.constexpr, padded_width: tl.constexpr,
    tile: tl.constexpr, padded: tl.constexpr, adds: tl.constexpr,
):  # fmt: skip
    """Writes the gradient of `x`, from what `sum_gradients` found, and its sums to the last row of `of_channels`."""
    block = tl.program_id(0)
    grid = tl.program_id(1).to(tl.int64)
    x += grid * cells * (groups * width)
    gradient += grid * cells * (groups * width)
    x_gradient += grid * cells * (groups * width)
    outside += grid * stride_n
    statistics += grid * (3 * padded_groups)
    blocks = 1 if joined else tl.num_programs(0)
    shares += grid * blocks * (2 * padded_groups)
    part = tl.load(statistics + 2 * padded_groups + tl.arange(0, padded_groups))
    along = _add_shares(shares, blocks, 2 * padded_groups, padded_groups, rows) * part
    level = _add_shares(shares + padded_groups, blocks, 2 * padded_groups, padded_groups, rows) * part
    along = _to_lanes(along, padded_groups, padded_width)[None, :]
    level = _to_lanes(level, padded_groups, padded_width)[None, :]
    channel, group, used = _lanes(groups, width, padded_groups, padded_width)
    mean = (tl.load(statistics + group) - _added(added, channel, used, adds))[None, :]
    scale = tl.load(statistics + padded_groups + group)[None, :]
    gain = tl.load(weight + channel, mask=used, other=0.0).to(tl.float32)[None, :]
    lift = tl.load(bias + channel, mask=used, other=0.0).to(tl.float32)[None, :]
    offset = tl.arange(0, tile)[:, None] * (groups * width) + channel[None, :]
    of_added = tl.zeros([tile, padded_groups * padded_width], dtype=tl.float32)
    for step in range(tiles):
        first = (block * tiles + step) * tile
        there, inside = _inside(outside, first, cells, stride_x, stride_y, stride_z, size_y, size_z, tile, padded)
        mask = inside[:, None] & used[None, :]
        place = first.to(tl.int64) * (groups * width) + offset
        value = (tl.load(x + place, mask=mask, other=0.0).to(tl.float32) - mean) * scale
        change = tl.load(gradient + place, mask=mask, other=0.0).to(tl.float32)
        if relu:
            change = tl.where(value * gain + lift > 0, change, 0.0)
        result = (change * gain - level - value * along) * scale
        if padded or adds:
            result = tl.where(inside[:, None], result, 0.0)
        tl.store(x_gradient + place, result, mask=there[:, None] & used[None, :])
        if adds:
            of_added += result
    if adds:
        of_channels += ((grid * tl.num_programs(0) + block) * 3 + 2) * (groups * width) + channel
        tl.store(of_channels, tl.sum(of_added, axis=0), mask=used)
