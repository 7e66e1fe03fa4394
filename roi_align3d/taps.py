"""Which voxels a bin reads and with which weights, as dense tensors for a whole group of RoIs.

Averaged trilinear sampling of an axis-aligned box is separable: the weight of a voxel is a product of one weight per
axis, and the samples of a bin that touch the same voxel merge into one tap. A box turned about z is separable into
its footprint and z. Differentiable in the boxes by autograd.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from roi_align3d.sampling import COORDINATE_LIMIT, Sampling


class Taps(NamedTuple):
    """Voxel = column * Z + height, weight = product of both: columns are (batch, x, y), flattened."""

    column: Int[Tensor, "K PQ M"]
    column_weight: Float[Tensor, "K PQ M"]
    height: Int[Tensor, "K R T"]
    height_weight: Float[Tensor, "K R T"]


def make_taps(
    rois: Float[Tensor, "K columns"], batch: Int[Tensor, " K"], shape: tuple[int, int, int], scale: float,
    sampling: Sampling,
) -> Taps:  # fmt: skip
    """Taps of RoIs on a grid of `shape`; non-finite or overflowing boxes have weights of zero."""
    rotated = rois.shape[1] == 8
    first, second = rois[:, 1:4] * scale - sampling.offset, rois[:, 4:7] * scale
    if not rotated:
        second = second - sampling.offset
    usable = (torch.cat([first, second], dim=1).abs() <= COORDINATE_LIMIT).all(1) & rois[:, 1:].isfinite().all(1)
    first, second = (torch.where(usable[:, None], corner, 0.0) for corner in (first, second))
    if rotated and not sampling.aligned:
        second = second.clamp(min=1)
    start, end = (-0.5 * second, 0.5 * second) if rotated else (first, second)

    low, high = -torch.ones_like(start), torch.tensor(shape, device=rois.device).to(start) + torch.zeros_like(start)
    cos = sin = torch.zeros(())
    if rotated:
        yaw = torch.where(usable, rois[:, 7], 0.0)
        cos, sin = torch.cos(yaw), torch.sin(yaw)
        low, high = _grid_in_box_frame(low - first, high - first, cos, sin)
    positions, weights = zip(
        *(
            sample_positions(start[:, a], end[:, a], low[:, a], high[:, a], sampling.output_size[a], sampling)
            for a in range(3)
        ),
        strict=True,
    )
    weights = (weights[0], weights[1], weights[2] * usable[:, None, None])
    z = positions[2] + first[:, 2, None, None] if rotated else positions[2]
    height = _merged(z, weights[2], shape[2], sampling)
    batch = batch[:, None, None]
    if rotated:
        u, v = positions[0][:, :, None, :, None], positions[1][:, None, :, None, :]  # [K, P, Q, Sx, Sy]
        cos, sin = cos[:, None, None, None, None], sin[:, None, None, None, None]
        centre_x, centre_y = (first[:, a, None, None, None, None] for a in range(2))
        x, y = centre_x + (u * cos - v * sin), centre_y + (u * sin + v * cos)
        weight = (weights[0][:, :, None, :, None] * weights[1][:, None, :, None, :]).expand_as(x)
        x, y, weight = (t.flatten(3).flatten(1, 2) for t in (x, y, weight))  # [K, PQ, Sx Sy]
        index_x, weight_x = _corners(x, weight, shape[0], sampling)
        index_y, weight_y = _corners(y, torch.ones_like(weight), shape[1], sampling)
        samples = weight.shape[2]
        index_x, weight_x, index_y, weight_y = (
            t.unflatten(2, (2, samples)) for t in (index_x, weight_x, index_y, weight_y)
        )
        column = index_x[:, :, :, None] * shape[1] + index_y[:, :, None]
        weight = weight_x[:, :, :, None] * weight_y[:, :, None]
        return Taps(batch * shape[0] * shape[1] + column.flatten(2), weight.flatten(2), *height)
    index_x, weight_x = _merged(positions[0], weights[0], shape[0], sampling)
    index_y, weight_y = _merged(positions[1], weights[1], shape[1], sampling)
    column = index_x[:, :, None, :, None] * shape[1] + index_y[:, None, :, None, :]
    weight = weight_x[:, :, None, :, None] * weight_y[:, None, :, None, :]
    return Taps(batch * shape[0] * shape[1] + column.flatten(3).flatten(1, 2), weight.flatten(3).flatten(1, 2), *height)


def sample_positions(
    start: Float[Tensor, " K"], end: Float[Tensor, " K"], low: Float[Tensor, " K"], high: Float[Tensor, " K"],
    bins: int, sampling: Sampling,
) -> tuple[Float[Tensor, "K bins samples"], Float[Tensor, "K bins samples"]]:  # fmt: skip
    """Positions of a bin's samples along one axis and the weight of each, which is zero for padding.

    Adaptive sampling leaves out those outside [low, high], of which a huge box may have millions.
    """
    start, end, low, high = (t[:, None, None] for t in (start, end, low, high))
    index = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    if sampling.crop_and_resize:
        position = 0.5 * (start + end) if bins == 1 else start + index * ((end - start) / (bins - 1))
        return position, torch.ones_like(position)
    size = end - start
    if not sampling.aligned:
        size = size.clamp(min=1)
    bin_size = size / bins
    begin = start + index * bin_size
    if sampling.sampling_ratio > 0:
        count = sampling.sampling_ratio
        sample = torch.arange(count, device=start.device, dtype=start.dtype)
        position = begin + (sample + 0.5) * bin_size / count
        return position, torch.full_like(position, 1 / count)
    with torch.no_grad():
        count = bin_size.ceil().clamp(min=0)
        step = bin_size / count.clamp(min=1)
        step = torch.where(count > 0, step, 1.0)
        first = ((low - begin) / step - 0.5).floor().clamp(min=0)
        last = torch.minimum(((high - begin) / step - 0.5).ceil(), count - 1)
        most = int((last - first).max()) + 1 if len(start) else 1
        sample = first + torch.arange(max(most, 1), device=start.device)
        weight = (sample < count) / count.clamp(min=1)
    return begin + (sample + 0.5) * bin_size / count.clamp(min=1), weight


def _grid_in_box_frame(
    low: Float[Tensor, "K 3"], high: Float[Tensor, "K 3"], cos: Float[Tensor, " K"], sin: Float[Tensor, " K"]
) -> tuple[Float[Tensor, "K 3"], Float[Tensor, "K 3"]]:
    """Bounds of the grid along the axes of a box turned about z."""
    corners = [(x, y) for x in (low[:, 0], high[:, 0]) for y in (low[:, 1], high[:, 1])]
    u = torch.stack([x * cos + y * sin for x, y in corners])
    v = torch.stack([y * cos - x * sin for x, y in corners])
    return (
        torch.stack([u.amin(0), v.amin(0), low[:, 2]], dim=1),
        torch.stack([u.amax(0), v.amax(0), high[:, 2]], dim=1),
    )


def _inside(position: Tensor, extent: int, sampling: Sampling) -> Bool[Tensor, "..."]:
    margin = 0 if sampling.crop_and_resize else 1
    return (position >= -margin) & (position <= extent - 1 + margin)


def _corners(position: Tensor, weight: Tensor, extent: int, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Two taps per sample along one axis: [..., S] -> [..., 2 S]."""
    weight = torch.where(_inside(position, extent, sampling), weight, 0.0)
    position = position.clamp(0, extent - 1)
    low = position.detach().floor()
    fraction = position - low
    index = torch.cat([low, (low + 1).clamp(max=extent - 1)], dim=-1)
    return index.long(), torch.cat([weight * (1 - fraction), weight * fraction], dim=-1)


def _merged(position: Tensor, weight: Tensor, extent: int, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One tap per voxel between a bin's first and last where those are fewer than two per sample: [..., S] -> [..., T].

    A sample's weight goes to its lower and upper voxel by comparison rather than by the hat function
    `1 - |voxel - position|`, whose derivative on a voxel's centre is another one.
    """
    inside = _inside(position, extent, sampling)
    low = position.detach().clamp(0, extent - 1).floor()
    first = low.masked_fill(~inside, extent - 1).amin(-1)
    last = low.masked_fill(~inside, 0).amax(-1) + 1
    count = max(int((last - first).max()) + 1, 1) if len(position) else 1
    if count > 2 * position.shape[-1]:
        return _corners(position, weight, extent, sampling)
    weight = torch.where(inside, weight, 0.0)[..., None]
    fraction = (position.clamp(0, extent - 1) - low)[..., None]
    voxel = first[..., None] + torch.arange(count, device=position.device)
    step = voxel[..., None, :] - low[..., None]  # [..., S, T]
    share = torch.where(step == 0, 1 - fraction, torch.where(step == 1, fraction, 0.0))
    return voxel.clamp(max=extent - 1).long(), (weight * share).sum(-2)
