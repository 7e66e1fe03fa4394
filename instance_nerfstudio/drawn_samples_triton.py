"""The samples that the instance head trains on, drawn and looked up by one Triton kernel instead of thirty."""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportCallIssue=false

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from instance_nerfstudio.kernel_launch import launch

if TYPE_CHECKING:  # takes seconds to load
    from nerfstudio.cameras.rays import RaySamples

_RAYS = 8  # per program


@triton.jit(do_not_specialize=["count"])
def _draw(
    weights, jitter, origin, direction, starts, ends, geometry, positions, drawn_geometry, total,
    count, weight_stride, origin_stride, direction_stride, start_stride, end_stride, ray_stride, sample_stride,
    samples: tl.constexpr, wide: tl.constexpr, draws: tl.constexpr, features: tl.constexpr, padded: tl.constexpr,
    rays: tl.constexpr,
):  # fmt: skip
    """Writes `positions` [rays, draws, 3], `drawn_geometry` [rays, draws, features] and `total` [rays]."""
    ray = tl.program_id(0).to(tl.int64) * rays + tl.arange(0, rays)
    here = ray < count
    sample = tl.arange(0, wide)
    used = here[:, None] & (sample < samples)[None, :]
    weight = tl.load(weights + ray[:, None] * weight_stride + sample[None, :], mask=used, other=0.0)
    cumulated = tl.cumsum(weight, axis=1)
    sum_here = tl.sum(tl.where((sample == samples - 1)[None, :], cumulated, 0.0), axis=1)
    tl.store(total + ray, sum_here, mask=here)
    x0 = tl.load(origin + ray * origin_stride, mask=here, other=0.0)
    y0 = tl.load(origin + ray * origin_stride + 1, mask=here, other=0.0)
    z0 = tl.load(origin + ray * origin_stride + 2, mask=here, other=0.0)
    dx = tl.load(direction + ray * direction_stride, mask=here, other=0.0)
    dy = tl.load(direction + ray * direction_stride + 1, mask=here, other=0.0)
    dz = tl.load(direction + ray * direction_stride + 2, mask=here, other=0.0)
    feature = tl.arange(0, padded)
    both = here[:, None] & (feature < features)[None, :]
    for draw in range(draws):  # unrolled it would take seconds to compile
        offset = tl.load(jitter + ray * draws + draw, mask=here, other=0.0)
        quantile = (draw + offset) / draws * sum_here
        before = used & (cumulated < quantile[:, None])
        chosen = tl.minimum(tl.sum(before.to(tl.int32), axis=1), samples - 1)
        start = tl.load(starts + ray * start_stride + chosen, mask=here, other=0.0)
        end = tl.load(ends + ray * end_stride + chosen, mask=here, other=0.0)
        middle = (start + end) / 2
        x, y, z = x0 + dx * middle, y0 + dy * middle, z0 + dz * middle
        # nerfacto's contraction and the unit cube in which its fields live.
        length = tl.maximum(tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z)), 1.0)
        shrink = (2 - 1 / length) / length
        x, y, z = (x * shrink + 2) / 4, (y * shrink + 2) / 4, (z * shrink + 2) / 4
        inside = (x > 0) & (x < 1) & (y > 0) & (y < 1) & (z > 0) & (z < 1)
        place = positions + (ray * draws + draw) * 3
        tl.store(place, tl.where(inside, x, 0.0), mask=here)
        tl.store(place + 1, tl.where(inside, y, 0.0), mask=here)
        tl.store(place + 2, tl.where(inside, z, 0.0), mask=here)
        row = geometry + ray * ray_stride + chosen * sample_stride
        value = tl.load(row[:, None] + feature[None, :], mask=both, other=0.0)
        tl.store(drawn_geometry + (ray * draws + draw)[:, None] * features + feature[None, :], value, mask=both)


def draw_samples(
    weights: Float[Tensor, "rays all"],
    jitter: Float[Tensor, "rays draws"],
    ray_samples: "RaySamples",
    geometry: Float[Tensor, "rays all features"],
) -> tuple[Float[Tensor, "rays draws 3"], Float[Tensor, "rays draws features"], Float[Tensor, " rays"]]:
    """Samples at jittered quantiles of each ray's weights, as `weight_quantiles` finds them, without gradients.

    Args:
        weights: volume rendering weights, fp32.
        jitter: where in its stratum each quantile lies, in [0, 1).
        ray_samples: all samples, with positions in the scene frame.
        geometry: the field's geometry features, fp32.

    Returns:
        Contracted positions in nerfacto's unit cube, those outside as 0; geometry features; summed weights.
    """
    (count, samples), draws, features = weights.shape, jitter.shape[1], geometry.shape[2]
    frustums = ray_samples.frustums
    rows = [x[:, 0] for x in (frustums.origins, frustums.directions)] + [
        x[..., 0] for x in (frustums.starts, frustums.ends)
    ]
    rows = [x if x.stride(-1) == 1 else x.contiguous() for x in (weights, *rows)]
    geometry = geometry if geometry.stride(-1) == 1 else geometry.contiguous()
    positions = weights.new_empty(count, draws, 3)
    drawn = weights.new_empty(count, draws, features)
    total = weights.new_empty(count)
    if count:
        weights, *rows = rows
        launch(
            _draw, (triton.cdiv(count, _RAYS),),
            weights, jitter.contiguous(), *rows, geometry, positions, drawn, total,
            count, weights.stride(0), *(x.stride(0) for x in rows), geometry.stride(0), geometry.stride(1),
            samples=samples, wide=triton.next_power_of_2(samples), draws=draws, features=features,
            padded=triton.next_power_of_2(features), rays=_RAYS, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return positions, drawn, total
