"""RoIAlign in 3D with `F.embedding_bag`: vectorised, deterministic, no compiler. The backend for CPUs.

A bin is a bag of voxels, and the features, channels last, are the table. On CUDA it serves fp64 and the deterministic
backward; there it waits for the device, since it sizes its tensors by their contents.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from roi_align3d.sampling import Pyramid, Sampling, assign_levels, coordinate_dtype
from roi_align3d.taps import Taps, make_taps

_TAPS_PER_CHUNK = 2**22  # 8 to 16 bytes each, a few times over


def forward(
    features: Sequence[Float[Tensor, "N _ _ _ C"]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
    pooled: Float[Tensor, "K P Q R C"] | None = None,
) -> Float[Tensor, "K P Q R C"]:
    """Pools every RoI from its level, into `pooled` if given; rows whose batch index names no grid are NaN."""
    compute = coordinate_dtype(rois, *features)
    if pooled is None:
        pooled = features[0].new_empty(len(rois), *sampling.output_size, features[0].shape[4])
    for level, chunk, shape in _chunks(rois.to(compute), [f.shape for f in features], pyramid, sampling):
        table = features[level].reshape(-1, features[level].shape[4]).to(compute)
        taps = _taps(rois[chunk].to(compute), features[level].shape, pyramid.scales[level], sampling)
        voxels, weights = _bags(taps, shape[2])
        bags = F.embedding_bag(voxels, table, per_sample_weights=weights, mode="sum")
        # The taps that pad an empty bin have no weight, but zero times an infinite feature is NaN.
        bags.index_fill_(0, (~_covered(taps)).flatten().nonzero().squeeze(1), 0.0)
        pooled.index_copy_(0, chunk, bags.to(pooled.dtype).view(len(chunk), *pooled.shape[1:]))
    if rois.is_cuda:
        pooled[~names_a_grid(rois, len(features[0]))] = float("nan")
    return pooled


def features_backward(
    gradient: Float[Tensor, "K P Q R C"],
    shapes: Sequence[Sequence[int]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> list[Float[Tensor, "N X Y Z C"]]:
    """Gradient for the features, as bags again: every voxel is a bag of bins. The order of summation is fixed.

    Args:
        gradient: of the output, channels last.
        shapes: `(N, X, Y, Z, C)` of each level.
    """
    compute = coordinate_dtype(rois, gradient)
    sums = [gradient.new_zeros(s[0] * s[1] * s[2] * s[3], s[4], dtype=compute) for s in shapes]
    for level, chunk, shape in _chunks(rois.to(compute), shapes, pyramid, sampling):
        taps = _taps(rois[chunk].to(compute), shapes[level], pyramid.scales[level], sampling)
        voxels, weights = _bags(taps, shape[2])
        bins = gradient[chunk].to(compute).reshape(-1, gradient.shape[-1])
        used = weights.flatten().nonzero().squeeze(1)
        voxel, order = voxels.flatten()[used].sort(stable=True)
        used = used[order]
        of_bin = (used // voxels.shape[1]).to(voxel.dtype)
        read = voxel.unique_consecutive()
        offsets = torch.searchsorted(voxel, read, out_int32=voxel.dtype == torch.int32)
        weights = weights.flatten()[used]
        sums[level][read] += F.embedding_bag(of_bin, bins, offsets, per_sample_weights=weights, mode="sum")
    return [total.to(gradient.dtype).view(*shape) for total, shape in zip(sums, shapes, strict=True)]


def rois_backward(
    gradient: Float[Tensor, "K P Q R C"],
    features: Sequence[Float[Tensor, "N _ _ _ C"]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> Float[Tensor, "K columns"]:
    """Gradient for the boxes: the forward pass again, under autograd; the batch index has none."""
    compute = coordinate_dtype(rois, *features)
    boxes = torch.zeros_like(rois, dtype=compute)
    for level, chunk, shape in _chunks(rois.to(compute), [f.shape for f in features], pyramid, sampling):
        table = features[level].reshape(-1, features[level].shape[4]).detach().to(compute)
        with _autograd():
            leaf = rois[chunk].detach().to(compute).requires_grad_()
            taps = _taps(leaf, features[level].shape, pyramid.scales[level], sampling)
            voxels, weights = _bags(taps, shape[2])
            bags = F.embedding_bag(voxels, table, per_sample_weights=weights, mode="sum")
            bins = gradient[chunk].to(compute).reshape(bags.shape)
            (boxes[chunk],) = torch.autograd.grad(bags, leaf, bins)
    return boxes.to(rois.dtype)


@contextmanager
def _autograd() -> Iterator[None]:
    """Autograd, where an operator's implementation runs without: the dispatcher is past it there."""
    below = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with torch.inference_mode(False), below, torch.enable_grad():
        yield


def names_a_grid(rois: Float[Tensor, "K columns"], grids: int) -> Bool[Tensor, " K"]:
    """Whether each RoI's batch index is one of 0 .. grids - 1."""
    batch = rois[:, 0]
    return (batch >= 0) & (batch < grids) & (batch == batch.floor())


def _taps(rois: Tensor, shape: Sequence[int], scale: float, sampling: Sampling) -> Taps:
    named = names_a_grid(rois.detach(), shape[0])
    batch = torch.where(named, rois.detach()[:, 0], 0.0).long()
    taps = make_taps(rois, batch, (shape[1], shape[2], shape[3]), scale, sampling)
    return taps._replace(height_weight=taps.height_weight * named[:, None, None])


def _bags(taps: Taps, extent_z: int) -> tuple[Int[Tensor, "bins taps"], Float[Tensor, "bins taps"]]:
    """Voxels and weights of every bin, the bins in the order (RoI, p, q, r)."""
    column, height = taps.column[:, :, None, None], taps.height[:, None, :, :, None]
    # Half the bytes if they fit.
    narrow = int(taps.column.max()) < (2**31 - 1) // extent_z - 1
    index = torch.int32 if narrow else torch.int64
    voxels = (column.to(index) * extent_z) + height.to(index)
    weights = taps.column_weight[:, :, None, None] * taps.height_weight[:, None, :, :, None]
    return voxels.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _covered(taps: Taps) -> Bool[Tensor, "K PQ R"]:
    """Bins with at least one sample on the grid."""
    return (taps.column_weight != 0).any(-1)[:, :, None] & (taps.height_weight != 0).any(-1)[:, None]


def _chunks(
    rois: Float[Tensor, "K columns"], shapes: Sequence[Sequence[int]], pyramid: Pyramid, sampling: Sampling
) -> Iterator[tuple[int, Int[Tensor, " chunk"], tuple[int, int, int]]]:
    """Splits RoIs by level, by how many taps a bin of theirs needs, since all in a chunk get as many, and by memory."""
    if len(rois) == 0 or shapes[0][4] == 0:
        return
    levels = assign_levels(rois, pyramid)
    for level, shape in enumerate(shapes):
        extents = (int(shape[1]), int(shape[2]), int(shape[3]))
        members = (levels == level).nonzero().squeeze(1) if len(shapes) > 1 else torch.arange(len(rois)).to(levels)
        if len(members) == 0:
            continue
        taps = _taps_per_bin(rois[members], pyramid.scales[level], extents, sampling)
        # On the CPU, since sums along CUDA tensors are refused where deterministic algorithms are asked for.
        taps, order = taps.cpu().sort()
        members = members[order.to(members.device)]
        bins = sampling.output_size[0] * sampling.output_size[1] * sampling.output_size[2]
        kind = taps.log2().floor() * 2**32 + (taps.cumsum(0) * bins / _TAPS_PER_CHUNK).floor()
        for chunk in members.split(kind.unique_consecutive(return_counts=True)[1].tolist()):
            yield level, chunk, extents


def _taps_per_bin(rois: Tensor, scale: float, shape: tuple[int, int, int], sampling: Sampling) -> Tensor:
    """Upper estimate per RoI, in fp64."""
    rotated = rois.shape[1] == 8
    sizes = (rois[:, 4:7] if rotated else rois[:, 4:7] - rois[:, 1:4]).double() * scale
    taps = torch.ones(len(rois), dtype=torch.float64, device=rois.device)
    for axis, (bins, extent) in enumerate(zip(sampling.output_size, shape, strict=True)):
        bin_size = sizes[:, axis].abs().nan_to_num(0.0, 0.0).clamp(max=2.0**20) / bins
        samples = bin_size.ceil().clamp(min=1, max=2 * (extent + 2))
        if sampling.crop_and_resize:
            samples = torch.ones_like(samples)
        elif sampling.sampling_ratio > 0:
            samples = torch.full_like(samples, sampling.sampling_ratio)
        span = (bin_size.ceil() + 2).clamp(max=extent)
        taps *= 2 * samples if rotated and axis < 2 else torch.minimum(2 * samples, span)
    return taps
