"""RoIAlign in 3D written out for reading: one RoI at a time, every sample on its own, gradients by autograd.

The truth that every other backend is tested against. Slow, and its memory grows with the number of samples.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from roi_align3d.sampling import COORDINATE_LIMIT, Pyramid, Sampling, assign_levels, coordinate_dtype


def roi_align_reference(
    features: Sequence[Float[Tensor, "N C _ _ _"]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> Float[Tensor, "K C P Q R"]:
    """Pools every RoI from its level; differentiable in `features` and `rois`, any device, any float dtype.

    Args:
        features: levels of the pyramid, `[N, C, X, Y, Z]` each.
        rois: `[K, 7]` (batch index, x1, y1, z1, x2, y2, z2) or `[K, 8]` (batch index, centre, size, yaw).
        pyramid: scale of each level and how RoIs choose one.
        sampling: output size and rule for the samples.
    """
    dtype = coordinate_dtype(rois, *features)
    levels = assign_levels(rois.to(dtype), pyramid).tolist()
    pooled = [torch.zeros(0, features[0].shape[1], *sampling.output_size, dtype=dtype, device=rois.device)]
    for roi, level in zip(rois.to(dtype), levels, strict=True):
        batch = int(roi[0].item())
        if not 0 <= batch < len(features[0]) or batch != roi[0]:
            raise ValueError(f"batch index {roi[0].item()} for {len(features[0])} grids")
        grid = features[level][batch].to(dtype)
        pooled.append(_pool(grid, roi[1:], pyramid.scales[level], sampling)[None])
    return torch.cat(pooled).to(features[0].dtype)


def _pool(
    grid: Float[Tensor, "C X Y Z"], box: Float[Tensor, " 6_or_7"], scale: float, sampling: Sampling
) -> Float[Tensor, "C P Q R"]:
    rotated = len(box) == 7
    first, second = box[:3] * scale - sampling.offset, box[3:6] * scale
    if not rotated:
        second = second - sampling.offset
    coordinates = torch.cat([first, second, box[6:]])
    if not (coordinates[:6].abs() <= COORDINATE_LIMIT).all() or not coordinates.isfinite().all():
        return grid.new_zeros(len(grid), *sampling.output_size)

    if rotated and not sampling.aligned:
        second = second.clamp(min=1)
    start, end = (-0.5 * second, 0.5 * second) if rotated else (first, second)
    axes = [_sample_positions(start[a], end[a], sampling.output_size[a], sampling) for a in range(3)]
    # One dimension per bin and per sample of each axis: [P, Sx, Q, Sy, R, Sz].
    x, y, z = axes[0][:, :, None, None, None, None], axes[1][:, :, None, None], axes[2]
    if rotated:
        cos, sin = torch.cos(box[6]), torch.sin(box[6])
        x, y, z = first[0] + (x * cos - y * sin), first[1] + (x * sin + y * cos), first[2] + z
    samples = _trilinear(grid, x, y, z, sampling.crop_and_resize)
    count = math.prod(samples.shape[axis] for axis in (2, 4, 6))
    return samples.sum(dim=(2, 4, 6)) / max(count, 1)


def _sample_positions(start: Tensor, end: Tensor, bins: int, sampling: Sampling) -> Float[Tensor, "bins samples"]:
    index = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    if sampling.crop_and_resize:
        if bins == 1:
            return (0.5 * (start + end)).reshape(1, 1)
        return start + index * ((end - start) / (bins - 1))
    size = end - start
    if not sampling.aligned:
        size = size.clamp(min=1)
    bin_size = size / bins
    count = sampling.sampling_ratio if sampling.sampling_ratio > 0 else max(math.ceil(bin_size.item()), 0)
    sample = torch.arange(count, device=start.device, dtype=start.dtype) + 0.5
    return start + index * bin_size + sample * bin_size / count


def _trilinear(
    grid: Float[Tensor, "C X Y Z"], x: Tensor, y: Tensor, z: Tensor, crop_and_resize: bool
) -> Float[Tensor, "C P Sx Q Sy R Sz"]:
    """Samples up to one voxel outside take the border's value, those beyond are zero; in crop and resize all are."""
    margin = 0 if crop_and_resize else 1
    inside: Tensor | bool = True
    corners = []
    for position, extent in zip((x, y, z), grid.shape[1:], strict=True):
        inside = inside & (position >= -margin) & (position <= extent - 1 + margin)
        position = position.clamp(0, extent - 1)
        low = position.detach().floor()
        fraction = position - low
        corners.append(((low.long(), 1 - fraction), ((low.long() + 1).clamp(max=extent - 1), fraction)))
    value = torch.zeros((), dtype=grid.dtype, device=grid.device)
    for i, weight_x in corners[0]:
        for j, weight_y in corners[1]:
            for k, weight_z in corners[2]:
                value = value + grid[:, i, j, k] * (weight_x * weight_y * weight_z)
    return torch.where(torch.as_tensor(inside), value, 0.0)
