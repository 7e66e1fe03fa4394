"""Where samples lie, as device functions that all kernels share.

Positions are rounded step by step as in the other backends: divisions are the exact ones, and kernels are launched
without contracting products and sums. A rounding error at the grid's rim would turn a sample's value into zero.
"""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOptionalOperand=false
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false

import triton
import triton.language as tl

COORDINATE_LIMIT = tl.constexpr(2.0**20)


@triton.jit
def load_roi(rois, k, columns: tl.constexpr):
    """Batch index, six numbers of the box and its yaw, in fp32; k is int64."""
    roi = rois + k * columns
    batch = tl.load(roi).to(tl.float32)
    a0 = tl.load(roi + 1).to(tl.float32)
    a1 = tl.load(roi + 2).to(tl.float32)
    a2 = tl.load(roi + 3).to(tl.float32)
    b0 = tl.load(roi + 4).to(tl.float32)
    b1 = tl.load(roi + 5).to(tl.float32)
    b2 = tl.load(roi + 6).to(tl.float32)
    yaw = 0.0
    if columns == 8:
        yaw = tl.load(roi + 7).to(tl.float32)
    return batch, a0, a1, a2, b0, b1, b2, yaw


@triton.jit
def volume_of(a0, a1, a2, b0, b1, b2, columns: tl.constexpr):
    """What the level is chosen by."""
    if columns == 8:
        volume = tl.maximum(b0, 0.0) * tl.maximum(b1, 0.0) * tl.maximum(b2, 0.0)
    else:
        volume = tl.maximum(b0 - a0, 0.0) * tl.maximum(b1 - a1, 0.0) * tl.maximum(b2 - a2, 0.0)
    return volume


@triton.jit
def pick_level(grids, table, volume, levels: tl.constexpr):
    """Data, extents (fp32) and scale of the level that a box of this volume reads.

    `table` holds X, Y, Z, scale and least volume of level after level, all as fp32: Triton compiles a kernel anew for
    integers of other divisibility, and extents change from scene to scene.
    """
    grid = grids[0]
    # The interpreter passes the table as Python's floats.
    zero = tl.zeros((), dtype=tl.float32)
    x, y, z, scale = zero + table[0], zero + table[1], zero + table[2], zero + table[3]
    for level in tl.static_range(1, levels):
        if volume >= table[5 * level + 4]:
            grid = grids[level]
            x = zero + table[5 * level]
            y = zero + table[5 * level + 1]
            z = zero + table[5 * level + 2]
            scale = zero + table[5 * level + 3]
    return grid, x, y, z, scale


@triton.jit
def names_a_grid(batch, grids):
    """Whether a batch index is one of 0 .. grids - 1."""
    return (batch >= 0) & (batch < grids) & (batch == tl.floor(batch))


@triton.jit
def usable(a, b):
    """Whether both numbers of a box, in voxels, are finite and not absurd; false for NaN."""
    return (tl.abs(a) <= COORDINATE_LIMIT) & (tl.abs(b) <= COORDINATE_LIMIT)


@triton.jit
def bin_samples(index, start, end, bins: tl.constexpr, ratio: tl.constexpr, aligned: tl.constexpr):
    """Begin and size of bin `index` (fp32) along one axis and its number of samples, at least 1 and as adaptive."""
    size = end - start
    if not aligned:
        size = tl.maximum(size, 1.0)
    bin_size = tl.math.div_rn(size, bins * 1.0)
    if ratio > 0:  # noqa: SIM108  a compile-time branch
        count = ratio + 0.0 * bin_size
    else:
        count = tl.maximum(tl.ceil(bin_size), 0.0)
    return start + index * bin_size, bin_size, count


@triton.jit
def sample_position(begin, bin_size, count, sample):
    """Position of a bin's sample number `sample` (fp32)."""
    return begin + tl.math.div_rn((sample + 0.5) * bin_size, tl.maximum(count, 1.0))


@triton.jit
def corner_position(index, start, end, bins: tl.constexpr):
    """The only sample of a bin in crop and resize."""
    if bins == 1:
        position = 0.5 * (start + end) + 0.0 * index
    else:
        position = start + index * tl.math.div_rn(end - start, bins - 1.0)
    return position
