"""Launches of the kernels: what they expect of tensors, and their block sizes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from roi_align3d.kernels import contraction, gather, separable
from roi_align3d.kernels.direct_launch import DirectLaunch
from roi_align3d.sampling import Pyramid, Sampling


class ForwardBlocks(NamedTuple):
    """Block sizes of `contract_forward`."""

    rows: int = 16
    """Bins along y and z."""
    voxels: int = 64
    channels: int = 64
    rounds: int = 1
    """Blocks of channels that a program takes one after the other, with the same weights."""
    bins: int = 8
    """Most bins along x that are summed at a time, in registers."""
    unroll: int = 1
    num_warps: int = 2
    maxnreg: int | None = None


class BackwardBlocks(NamedTuple):
    """Block sizes of `contract_backward`."""

    shares: int = 8
    planes: int = 4
    """Planes along x that are summed at a time, in registers."""
    rows: int = 32
    """Voxels along y and z."""
    bins: int = 32
    channels: int = 128
    stages: int = 2
    num_warps: int = 4
    maxnreg: int | None = None


# Measured on an H200 with 256 channels. Forward, small programs hide the latency of scattered reads, and a program's
# channels fill one cache line of a voxel. Backward, whole rows of channels make the widest atomic additions.
_FORWARD_ROWS, _FORWARD_BYTES = 8, 128
_BACKWARD_ROWS, _BACKWARD_CHANNELS, _BACKWARD_SHARES = 4, 256, 8
_GATHER_CHANNELS = 64
_LEAST_BLOCK = 16  # of a matrix product
_MOST_SAMPLES = 64  # of a bin along an axis: weights in fp16 overflow at 256

_contract_forward = DirectLaunch(contraction.contract_forward)
_contract_backward = DirectLaunch(contraction.contract_backward)
_pool_forward = DirectLaunch(separable.pool_forward)
_pool_backward = DirectLaunch(separable.pool_backward)
_pool_samples = DirectLaunch(gather.pool_samples)


def forward(
    features: Sequence[Float[Tensor, "N C _ _ _"]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> Float[Tensor, "K C P Q R"]:
    """Pools every RoI from its level; rows whose batch index names no grid are NaN."""
    count, columns = rois.shape
    channels = features[0].shape[1]
    out = _empty((count, channels, *sampling.output_size), features[0].dtype, features[0].device)
    if count > 0 and channels > 0:
        levels = [_channels_last(level) for level in features]
        if columns == 8:
            _gather(gather.FORWARD.value, out, out, levels, rois, pyramid, sampling)
        elif _contracts(out.dtype, sampling):
            plan = _contract_forward_plan(channels, len(levels), sampling)
            constants, parts, blocks, num_warps, maxnreg = plan
            _contract_forward(
                (count * parts, blocks, 1), (out, rois.contiguous()), levels, _table(levels, pyramid),
                levels[0].shape[0], constants, num_warps, maxnreg,
            )  # fmt: skip
        else:
            constants, chunks, blocks, num_warps = _forward_plan(channels, len(levels), out.element_size(), sampling)
            _pool_forward(
                (count * chunks, blocks, 1), (out, rois.contiguous()), levels, _table(levels, pyramid),
                levels[0].shape[0], constants, num_warps,
            )  # fmt: skip
    return out


def features_backward(
    gradient: Float[Tensor, "K C P Q R"],
    shapes: Sequence[Sequence[int]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> list[Float[Tensor, "N C X Y Z"]]:
    """Gradient for the features, of these shapes, by atomic additions in fp32, whose order is not fixed."""
    sums = [_empty(shape, torch.float32, gradient.device).zero_() for shape in shapes]
    if gradient.numel() > 0 and shapes[0][0] > 0:
        gradient = _channels_last(gradient)
        count, columns = rois.shape
        if columns == 8:
            _gather(gather.FEATURES.value, gradient, gradient, sums, rois, pyramid, sampling)
        elif _contracts(gradient.dtype, sampling):
            plan = _contract_backward_plan(gradient.shape[1], len(sums), sampling)
            constants, shares, blocks, num_warps, maxnreg = plan
            _contract_backward(
                (count * shares, blocks, 1), (gradient, rois.contiguous()), sums, _table(sums, pyramid), shapes[0][0],
                constants, num_warps, maxnreg,
            )  # fmt: skip
        else:
            constants, blocks = _backward_plan(gradient.shape[1], len(sums), sampling)
            _pool_backward(
                (count * _BACKWARD_SHARES, blocks, 1), (gradient, rois.contiguous()), sums, _table(sums, pyramid),
                shapes[0][0], constants, 2,
            )  # fmt: skip
    return sums if gradient.dtype == torch.float32 else [total.to(gradient.dtype) for total in sums]


def rois_backward(
    gradient: Float[Tensor, "K C P Q R"],
    features: Sequence[Float[Tensor, "N C _ _ _"]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> Float[Tensor, "K columns"]:
    """Gradient for the boxes; the batch index has none."""
    boxes = torch.zeros(rois.shape, dtype=torch.float32, device=rois.device)
    if gradient.numel() > 0 and features[0].shape[0] > 0:
        p, q, _ = sampling.output_size
        blocks = _blocks(gradient.shape[1], _channel_block(gradient.shape[1], _GATHER_CHANNELS))
        parts = boxes.new_empty(len(rois), p * q * blocks, rois.shape[1] - 1)
        levels = [_channels_last(level) for level in features]
        _gather(gather.ROIS.value, parts, _channels_last(gradient), levels, rois, pyramid, sampling)
        boxes[:, 1:] = parts.sum(1)
    return boxes.to(rois.dtype)


def _contracts(dtype: torch.dtype, sampling: Sampling) -> bool:
    """Whether tensor cores multiply this type, can hold the weights, and are faster: not for one sample."""
    few = 2 <= sampling.sampling_ratio <= _MOST_SAMPLES and not sampling.crop_and_resize
    return few and dtype in (torch.float16, torch.bfloat16)


def _gather(
    task: int, out: Tensor, gradient: Tensor, levels: Sequence[Tensor], rois: Tensor, pyramid: Pyramid,
    sampling: Sampling,
) -> None:  # fmt: skip
    count, columns = rois.shape
    constants, bins, blocks = _gather_plan(task, levels[0].shape[1], len(levels), columns, sampling)
    _pool_samples(
        (count * bins, blocks, 1), (out, gradient, rois.contiguous()), levels, _table(levels, pyramid),
        levels[0].shape[0], constants, 4,
    )  # fmt: skip


def _empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Not a permuted one: results of autograd functions must not be views, or they cannot be modified in place.
    return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last_3d)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last_3d)


def _table(levels: Sequence[Tensor], pyramid: Pyramid) -> tuple[float, ...]:
    return _table_of_shapes(tuple([level.shape for level in levels]), pyramid)


@lru_cache
def _table_of_shapes(shapes: tuple[Sequence[int], ...], pyramid: Pyramid) -> tuple[float, ...]:
    """See `pick_level`. All are Python's floats: Triton compiles anew for integers."""
    table: list[float] = []
    for (_, _, x, y, z), scale, volume in zip(shapes, pyramid.scales, (0.0, *pyramid.volumes), strict=True):
        table += (float(x), float(y), float(z), float(scale), float(volume))
    return tuple(table)


# Constants of the kernels in the order of their parameters, and what follows from them.


def _forward_blocks(bins: int) -> ForwardBlocks:
    """Measured on an H200 with 256 channels, fp16 and two samples, for 5, 7 and 10 bins along each axis.

    With few bins, more and shorter programs balance large boxes better; with many, weights for more channels save more.
    """
    if bins <= 5:
        return ForwardBlocks()
    if bins <= 8:
        return ForwardBlocks(voxels=32, rounds=4, unroll=2)
    return ForwardBlocks(rows=32, rounds=2, num_warps=4, maxnreg=168)


def _backward_blocks(bins: int) -> BackwardBlocks:
    """Measured likewise."""
    if bins <= 5:
        return BackwardBlocks()
    if bins <= 8:
        return BackwardBlocks(shares=4)
    return BackwardBlocks(channels=64, stages=3, maxnreg=128)


@lru_cache
def _contract_forward_plan(channels: int, levels: int, sampling: Sampling) -> tuple[tuple, int, int, int, int | None]:
    """Constants, programs per RoI, blocks of channels, warps, registers."""
    p, q, r = sampling.output_size
    sizes = _forward_blocks(r)
    slabs, strips, runs = _blocks(p, sizes.bins), _blocks(q, max(sizes.rows // r, 1)), _blocks(r, sizes.rows)
    block_c = max(_channel_block(channels, sizes.channels), _LEAST_BLOCK)
    rounds = min(sizes.rounds, _blocks(channels, block_c))
    constants = (
        channels, levels, *_rule(sampling), slabs, strips, runs, sizes.rows, sizes.voxels, block_c, rounds,
        sizes.unroll,
    )  # fmt: skip
    blocks = _blocks(channels, block_c * rounds)
    return constants, slabs * strips * runs, blocks, sizes.num_warps, sizes.maxnreg


@lru_cache
def _contract_backward_plan(channels: int, levels: int, sampling: Sampling) -> tuple[tuple, int, int, int, int | None]:
    """Constants, programs per RoI, blocks of channels, warps, registers."""
    sizes = _backward_blocks(sampling.output_size[2])
    block_c = max(_channel_block(channels, sizes.channels), _LEAST_BLOCK)
    constants = (
        channels, levels, *_rule(sampling), sizes.shares, sizes.planes, sizes.rows, sizes.bins, block_c, sizes.stages,
    )  # fmt: skip
    return constants, sizes.shares, _blocks(channels, block_c), sizes.num_warps, sizes.maxnreg


@lru_cache
def _forward_plan(channels: int, levels: int, element_size: int, sampling: Sampling) -> tuple[tuple, int, int, int]:
    """Constants, programs per RoI, blocks of channels, warps."""
    _, q, r = sampling.output_size
    rows = min(_power_of_2(q * r), _FORWARD_ROWS)
    block_c = _channel_block(channels, _FORWARD_BYTES // element_size)
    constants = (channels, levels, *_rule(sampling), rows, block_c)
    return constants, _blocks(q * r, rows), _blocks(channels, block_c), max(block_c // 32, 1)


@lru_cache
def _backward_plan(channels: int, levels: int, sampling: Sampling) -> tuple[tuple, int]:
    """Constants, blocks of channels."""
    block_c = _channel_block(channels, _BACKWARD_CHANNELS)
    constants = (channels, levels, *_rule(sampling), _BACKWARD_SHARES, _BACKWARD_ROWS, block_c)
    return constants, _blocks(channels, block_c)


@lru_cache
def _gather_plan(task: int, channels: int, levels: int, columns: int, sampling: Sampling) -> tuple[tuple, int, int]:
    """Constants, programs per RoI, blocks of channels."""
    p, q, r = sampling.output_size
    block_c = _channel_block(channels, _GATHER_CHANNELS)
    constants = (channels, levels, columns, *_rule(sampling), task, _power_of_2(r), block_c)
    return constants, p * q, _blocks(channels, block_c)


def _rule(sampling: Sampling) -> tuple[int, int, int, int, bool, bool]:
    """P, Q, R, ratio, aligned, crop."""
    p, q, r = sampling.output_size
    ratio = max(int(sampling.sampling_ratio), 0)
    return int(p), int(q), int(r), ratio, bool(sampling.aligned), bool(sampling.crop_and_resize)


def _channel_block(channels: int, most: int) -> int:
    return min(_power_of_2(channels), most)


def _power_of_2(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _blocks(total: int, size: int) -> int:
    return -(-total // size)
