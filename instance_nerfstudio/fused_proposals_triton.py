"""The proposal networks' part of rendering as three Triton kernels; see `fused_proposals`."""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportCallIssue=false

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from instance_nerfstudio.hash_grids.hash_grid_triton import _axis_of
from instance_nerfstudio.kernel_launch import launch

# Points per program, and its warps.
_DENSITY: dict[str, Any] = {"block": 128, "num_warps": 4, "enable_fp_fusion": False}
_RAYS = 4  # per program that sums along rays
_BINS = 1024  # per program that places new samples
# nerfstudio's, of its PDF sampler.
_HISTOGRAM_PADDING = 0.01
_SMALLEST_SUM = 1e-5


@triton.jit
def _distance(bins, row, column, bin_stride, near, far, mask, piecewise: tl.constexpr):
    """Distance along the ray of a bin's edge, which lies in the spacing between `near` and `far`."""
    place = tl.load(bins + row * bin_stride + column, mask=mask, other=0.0)
    place = place * far + (1 - place) * near
    if piecewise:
        place = tl.where(place < 0.5, 2 * place, 1 / (2 - 2 * place))
    return place


@triton.jit(do_not_specialize=["count", "scale"])
def _density(
    origin, direction, bins, near, far, bin_stride, table, scalings, weight1, bias1, weight2, bias2, out, count, scale,
    samples: tl.constexpr, levels: tl.constexpr, size: tl.constexpr, hidden: tl.constexpr, wide: tl.constexpr,
    piecewise: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Writes the density `out` [rays, samples] in the middle of each bin.

    `table` holds its pairs of fp32 features as one int64 each.
    """
    point = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = point < count
    ray, sample = point // samples, point % samples
    near_here = tl.load(near + ray, mask=mask, other=0.0)
    far_here = tl.load(far + ray, mask=mask, other=0.0)
    start = _distance(bins, ray, sample, bin_stride, near_here, far_here, mask, piecewise)
    end = _distance(bins, ray, sample + 1, bin_stride, near_here, far_here, mask, piecewise)
    middle = (start + end) / 2
    x = tl.load(origin + ray * 3, mask=mask, other=0.0) + tl.load(direction + ray * 3, mask=mask, other=0.0) * middle
    y = (
        tl.load(origin + ray * 3 + 1, mask=mask, other=0.0)
        + tl.load(direction + ray * 3 + 1, mask=mask, other=0.0) * middle
    )
    z = (
        tl.load(origin + ray * 3 + 2, mask=mask, other=0.0)
        + tl.load(direction + ray * 3 + 2, mask=mask, other=0.0) * middle
    )
    # nerfacto's contraction and the unit cube in which its fields live.
    length = tl.maximum(tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z)), 1.0)
    shrink = (2 - 1 / length) / length
    x, y, z = (x * shrink + 2) / 4, (y * shrink + 2) / 4, (z * shrink + 2) / 4
    inside = (x > 0) & (x < 1) & (y > 0) & (y < 1) & (z > 0) & (z < 1)
    x, y, z = tl.where(inside, x, 0.0), tl.where(inside, y, 0.0), tl.where(inside, z, 0.0)

    unit = tl.arange(0, wide)
    used = unit < hidden
    total = tl.zeros([block, wide], dtype=tl.float32) + tl.load(bias1 + unit, mask=used, other=0.0)[None, :]
    for level in tl.static_range(levels):
        scaling = tl.load(scalings + level)
        hash_x, weight_x, _ = _axis_of(x * scaling, 0, 1)
        hash_y, weight_y, _ = _axis_of(y * scaling, 1, -1640531535)  # 2654435761 as int32
        hash_z, weight_z, _ = _axis_of(z * scaling, 2, 805459861)
        row = (hash_x ^ hash_y ^ hash_z) & (size - 1)
        pair = tl.load(table + level * size + row, mask=mask[:, None], other=0)
        corner = weight_x * weight_y * weight_z
        first = tl.sum((pair & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True) * corner, axis=1)
        second = tl.sum((pair >> 32).to(tl.int32).to(tl.float32, bitcast=True) * corner, axis=1)
        column = weight1 + unit * (2 * levels) + 2 * level
        total += first[:, None] * tl.load(column, mask=used, other=0.0)[None, :]
        total += second[:, None] * tl.load(column + 1, mask=used, other=0.0)[None, :]
    total = tl.where(total < 0, 0.0, total)  # NaN stays
    value = tl.sum(total * tl.load(weight2 + unit, mask=used, other=0.0)[None, :], axis=1) + tl.load(bias2)
    tl.store(out + point, tl.where(inside, scale * tl.exp(value), 0.0), mask=mask)


@triton.jit(do_not_specialize=["count"])
def _cumulate(
    density, bins, near, far, bin_stride, anneal, cdf, depth, count,
    samples: tl.constexpr, wide: tl.constexpr, padding: tl.constexpr, smallest: tl.constexpr,
    piecewise: tl.constexpr, rays: tl.constexpr,
):  # fmt: skip
    """Writes `cdf` [rays, samples + 1], of the annealed weights, and the median `depth` [rays]."""
    ray = (tl.program_id(0).to(tl.int64) * rays + tl.arange(0, rays))[:, None]
    here = ray < count
    sample = tl.arange(0, wide)[None, :]
    mask = here & (sample < samples)
    near_here = tl.load(near + ray, mask=here, other=0.0)
    far_here = tl.load(far + ray, mask=here, other=0.0)
    start = _distance(bins, ray, sample, bin_stride, near_here, far_here, mask, piecewise)
    end = _distance(bins, ray, sample + 1, bin_stride, near_here, far_here, mask, piecewise)
    thickness = tl.load(density + ray * samples + sample, mask=mask, other=0.0) * (end - start)
    # What lies before a sample: summed without itself, for the difference of two infinite sums is none.
    earlier = mask & (sample > 0)
    previous = _distance(bins, ray, sample - 1, bin_stride, near_here, far_here, earlier, piecewise)
    before = tl.load(density + ray * samples + sample - 1, mask=earlier, other=0.0) * (start - previous)
    before = tl.where(earlier, before, 0.0)
    weight = (1 - tl.exp(-thickness)) * tl.exp(-tl.cumsum(before, axis=1))
    weight = tl.where(mask & (weight == weight), weight, 0.0)

    passed = tl.sum((mask & (tl.cumsum(weight, axis=1) < 0.5)).to(tl.int32), axis=1)
    at = sample == tl.minimum(passed, samples - 1)[:, None]
    middle = tl.sum(tl.where(at, (start + end) / 2, 0.0), axis=1)
    tl.store(depth + ray, middle[:, None], mask=here)

    exponent = tl.load(anneal)
    weight = tl.where(weight > 0, tl.exp2(tl.log2(weight) * exponent), tl.where(exponent == 0, 1.0, 0.0))
    weight = tl.where(mask, weight + padding, 0.0)
    missing = tl.maximum(smallest - tl.sum(weight, axis=1), 0.0)
    weight = tl.where(mask, weight + missing[:, None] / samples, 0.0)
    share = weight / tl.sum(weight, axis=1)[:, None]
    cdf += ray * (samples + 1)
    tl.store(cdf + sample + 1, tl.minimum(tl.cumsum(share, axis=1), 1.0), mask=mask)
    tl.store(cdf, tl.zeros([rays, 1], dtype=tl.float32), mask=here)


@triton.jit(do_not_specialize=["count"])
def _place(
    cdf, bins, bin_stride, out, count,
    samples: tl.constexpr, edges: tl.constexpr, steps: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Writes the `edges` new bin edges of each ray, in the spacing, where `cdf` reaches even shares."""
    number = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = number < count
    ray, edge = number // edges, (number % edges).to(tl.int32)
    wanted = (edge.to(tl.float32) + 0.5) / edges
    cdf += ray * (samples + 1)
    # The last entry that does not exceed what is wanted, by bisection; the first is 0 and never exceeds it.
    low = tl.zeros([block], dtype=tl.int32)
    high = low + samples + 1
    for _ in tl.static_range(steps):
        middle = (low + high) // 2
        reached = tl.load(cdf + middle, mask=mask & (middle <= samples), other=2.0) <= wanted
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    above = tl.minimum(low + 1, samples)
    share, next_share = tl.load(cdf + low, mask=mask, other=0.0), tl.load(cdf + above, mask=mask, other=1.0)
    bins += ray * bin_stride
    here, there = tl.load(bins + low, mask=mask, other=0.0), tl.load(bins + above, mask=mask, other=0.0)
    gap = next_share - share
    between = tl.where(gap > 0, (wanted - share) / tl.where(gap > 0, gap, 1.0), 0.0)
    between = tl.minimum(tl.maximum(between, 0.0), 1.0)
    tl.store(out + number, here + between * (there - here), mask=mask)


def proposal_density(
    rays: tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"]],
    bins: Float[Tensor, "rays edges"],
    near_far: tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]],
    piecewise: bool,
    table: Float[Tensor, "rows 2"],
    scalings: Float[Tensor, " levels"],
    layers: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: float,
) -> Float[Tensor, "rays samples"]:
    """Density of a `HashMLPDensityField` with two layers in the middle of each bin, without gradients.

    Args:
        rays: origins and directions in the scene frame, fp32.
        bins: edges in the spacing, ascending in [0, 1]; a single row may stand for all rays.
        near_far: where the rays begin and end, in the spacing.
        piecewise: the spacing is nerfstudio's piecewise one, else it is the distance itself.
        table: fp32 rows of all levels.
        scalings: fp32 grid resolution of each level.
        layers: weight and bias of the hidden layer and of the last one.
        scale: factor of the density.
    """
    count, samples = len(rays[0]), bins.shape[1] - 1
    out = bins.new_empty(count, samples)
    hidden = layers[0].shape[0]
    if count:
        launch(
            _density, (triton.cdiv(count * samples, _DENSITY["block"]),),
            *rays, bins, *near_far, _stride(bins), table.view(torch.int64), scalings, *layers, out, count * samples,
            scale, samples=samples, levels=len(scalings), size=len(table) // len(scalings), hidden=hidden,
            wide=triton.next_power_of_2(hidden), piecewise=piecewise, **_DENSITY,
        )  # fmt: skip
    return out


def resample(
    density: Float[Tensor, "rays samples"],
    bins: Float[Tensor, "rays edges"],
    near_far: tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]],
    piecewise: bool,
    anneal: Float[Tensor, ""],
    samples: int,
) -> tuple[Float[Tensor, "rays new_edges"], Float[Tensor, "rays 1"]]:
    """Edges of `samples` new bins, in the spacing, as nerfstudio's PDF sampler places them in evaluation.

    Arguments as for `proposal_density`; `anneal` is the exponent of the weights.

    Returns:
        The edges; the depth at which half of the ray's light is stopped (the last sample's where it never is).
    """
    count, old = density.shape
    cdf, out = density.new_empty(count, old + 1), density.new_empty(count, samples + 1)
    depth = density.new_empty(count, 1)
    if count:
        launch(
            _cumulate, (triton.cdiv(count, _RAYS),),
            density, bins, *near_far, _stride(bins), anneal, cdf, depth, count, samples=old,
            wide=triton.next_power_of_2(old), padding=_HISTOGRAM_PADDING, smallest=_SMALLEST_SUM,
            piecewise=piecewise, rays=_RAYS, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        launch(
            _place, (triton.cdiv(out.numel(), _BINS),),
            cdf, bins, _stride(bins), out, out.numel(), samples=old, edges=samples + 1,
            steps=(old + 1).bit_length(), block=_BINS, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return out, depth


def _stride(bins: Tensor) -> int:
    return 0 if len(bins) == 1 else bins.stride(0)
