"""Axis-aligned RoIs: a voxel's weight in a bin is a product of one per axis, and close samples share their voxels.

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
def _position(begin, bin_size, count, sample, ratio: tl.constexpr):
    """`sample_position` without its division where a product is exact."""
    if ratio == 1 or ratio == 2:
        position = begin + (sample + 0.5) * bin_size * (1.0 / ratio)
    else:
        position = sample_position(begin, bin_size, count, sample)
    return position


@triton.jit
def axis_weight(
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
                weight += _hat(_position(begin, bin_size, count, sample, ratio), voxel, extent, crop)
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
def voxels_of_bin(
    index, start, end, extent,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """First voxel that bin `index` may read along one axis, and how many."""
    if crop:
        one = corner_position(index, start, end, bins)
        other = one
    else:
        begin, bin_size, count = bin_samples(index, start, end, bins, ratio, aligned)
        one = _position(begin, bin_size, count, 0.0, ratio)
        other = _position(begin, bin_size, count, tl.maximum(count - 1, 0.0), ratio)
    low = tl.floor(tl.minimum(tl.maximum(tl.minimum(one, other), 0.0), extent - 1))
    high = tl.floor(tl.minimum(tl.maximum(tl.maximum(one, other), 0.0), extent - 1))
    return low.to(tl.int32), (high - low).to(tl.int32) + 2


@triton.jit
def bins_of_voxels(
    first, last, start, end, extent,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """First bin that may read one of the voxels `first` to `last` along one axis, and how many."""
    # The interpreter passes loop variables as Python's numbers.
    first += tl.zeros((), dtype=tl.float32)
    last += tl.zeros((), dtype=tl.float32)
    if bins == 1:
        low, high = 0.0 * first, 0.0 * first
    else:
        if crop:
            step = tl.math.div_rn(end - start, bins - 1.0)
            edge = 0.0
        else:
            _, step, count = bin_samples(0.0, start, end, bins, ratio, aligned)
            edge = 0.5 / tl.maximum(count, 1.0)
        end_of_bin = 0.0 if crop else 1 - edge
        # A little more than a voxel, since positions are rounded; bins closer than that are not told apart.
        reach = 1 + 1e-6 * (tl.abs(start) + tl.abs(end) + extent)
        apart = tl.where(tl.abs(step) > 1e-3, step, 1.0)
        one, other = (first - reach - start) / apart, (last + reach - start) / apart
        low = tl.ceil(tl.minimum(one, other) - end_of_bin)
        high = tl.floor(tl.maximum(one, other) - edge)
        low = tl.where(tl.abs(step) > 1e-3, tl.minimum(tl.maximum(low, 0.0), bins - 1.0), 0.0)
        high = tl.where(tl.abs(step) > 1e-3, tl.minimum(tl.maximum(high, -1.0), bins - 1.0), bins - 1.0)
    return low.to(tl.int32), tl.maximum((high - low).to(tl.int32) + 1, 0)


@triton.jit
def bins_of_voxel(
    voxel, start, end, extent,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """First bin that may read `voxel` along one axis, and how many."""
    return bins_of_voxels(voxel, voxel, start, end, extent, bins, ratio, aligned, crop)


@triton.jit
def voxels_of_bins(
    first, last, start, end, extent, reads,
    bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr,
):  # fmt: skip
    """First voxel that one of the bins `first` to `last` may read along one axis, and how many; none if not `reads`."""
    one, count_of_one = voxels_of_bin(1.0 * first, start, end, extent, bins, ratio, aligned, crop)
    other, count_of_other = voxels_of_bin(1.0 * last, start, end, extent, bins, ratio, aligned, crop)
    low = tl.minimum(one, other)
    high = tl.minimum(tl.maximum(one + count_of_one, other + count_of_other), extent.to(tl.int32))
    return low, tl.where(reads, high - low, 0)


@triton.jit
def place(rois, grids, table, batches, k, levels: tl.constexpr, aligned: tl.constexpr, crop: tl.constexpr):
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
def samples_per_bin(
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
