"""Launches of the kernels: what they expect of tensors, and their block sizes."""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false

from collections.abc import Sequence
from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from roi_align3d.kernels import gather, separable
from roi_align3d.sampling import Pyramid, Sampling

# Measured on an H200 with 256 channels. Forward, small programs hide the latency of scattered reads, and a program's
# channels fill one cache line of a voxel. Backward, whole rows of channels make the widest atomic additions.
_FORWARD_ROWS, _FORWARD_BYTES = 8, 128
_BACKWARD_ROWS, _BACKWARD_CHANNELS, _BACKWARD_SHARES = 4, 256, 8
_GATHER_CHANNELS = 64
_EXACT = {"enable_fp_fusion": False}  # see `geometry`


def forward(
    features: Sequence[Float[Tensor, "N _ _ _ C"]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> Float[Tensor, "K P Q R C"]:
    """Pools every RoI from its level; rows whose batch index names no grid are NaN."""
    features = [level.contiguous() for level in features]
    out = features[0].new_empty(len(rois), *sampling.output_size, features[0].shape[4])
    if out.numel() > 0:
        if rois.shape[1] == 8:
            _gather(gather.FORWARD, out, out, features, rois, pyramid, sampling)
        else:
            _, q, r = sampling.output_size
            rows = min(triton.next_power_of_2(q * r), _FORWARD_ROWS)
            block_c = _channel_block(out.shape[-1], _FORWARD_BYTES // out.element_size())
            grid = (len(rois) * triton.cdiv(q * r, rows), triton.cdiv(out.shape[-1], block_c))
            with torch.cuda.device_of(out):
                separable.pool_forward[grid](
                    out,
                    rois.contiguous(),
                    *_levels(features, pyramid),
                    **_rule(features, sampling),
                    block_rows=rows,
                    block_c=block_c,
                    num_warps=max(block_c // 32, 1),
                    **_EXACT,
                )
    return out


def features_backward(
    gradient: Float[Tensor, "K P Q R C"],
    shapes: Sequence[Sequence[int]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> list[Float[Tensor, "N X Y Z C"]]:
    """Gradient for the features by atomic additions in fp32, whose order is not fixed."""
    sums = [torch.zeros(tuple(shape), dtype=torch.float32, device=gradient.device) for shape in shapes]
    gradient = gradient.contiguous()
    if gradient.numel() > 0 and shapes[0][0] > 0:
        if rois.shape[1] == 8:
            _gather(gather.FEATURES, gradient, gradient, sums, rois, pyramid, sampling)
        else:
            block_c = _channel_block(gradient.shape[-1], _BACKWARD_CHANNELS)
            grid = (len(rois) * _BACKWARD_SHARES, triton.cdiv(gradient.shape[-1], block_c))
            with torch.cuda.device_of(gradient):
                separable.pool_backward[grid](
                    gradient, rois.contiguous(), *_levels(sums, pyramid), **_rule(sums, sampling),
                    shares=_BACKWARD_SHARES, block_rows=_BACKWARD_ROWS, block_c=block_c, num_warps=2, **_EXACT,
                )  # fmt: skip
    return [total.to(gradient.dtype) for total in sums]


def rois_backward(
    gradient: Float[Tensor, "K P Q R C"],
    features: Sequence[Float[Tensor, "N _ _ _ C"]],
    rois: Float[Tensor, "K columns"],
    pyramid: Pyramid,
    sampling: Sampling,
) -> Float[Tensor, "K columns"]:
    """Gradient for the boxes; the batch index has none."""
    boxes = torch.zeros(rois.shape, dtype=torch.float32, device=rois.device)
    if gradient.numel() > 0 and features[0].shape[0] > 0:
        p, q, _ = sampling.output_size
        blocks = triton.cdiv(gradient.shape[-1], _channel_block(gradient.shape[-1], _GATHER_CHANNELS))
        parts = boxes.new_empty(len(rois), p * q * blocks, rois.shape[1] - 1)
        features = [level.contiguous() for level in features]
        _gather(gather.ROIS, parts, gradient.contiguous(), features, rois, pyramid, sampling)
        boxes[:, 1:] = parts.sum(1)
    return boxes.to(rois.dtype)


def _gather(
    task: Any, out: Tensor, gradient: Tensor, levels: Sequence[Tensor], rois: Tensor, pyramid: Pyramid,
    sampling: Sampling,
) -> None:  # fmt: skip
    channels = levels[0].shape[4]
    p, q, r = sampling.output_size
    block_c = _channel_block(channels, _GATHER_CHANNELS)
    with torch.cuda.device_of(out):
        gather.pool_samples[(len(rois) * p * q, triton.cdiv(channels, block_c))](
            out, gradient, rois.contiguous(), *_levels(levels, pyramid), **_rule(levels, sampling),
            columns=rois.shape[1], task=task.value, block_r=triton.next_power_of_2(r), block_c=block_c,
            num_warps=4, **_EXACT,
        )  # fmt: skip


def _levels(levels: Sequence[Tensor], pyramid: Pyramid) -> tuple[tuple[Tensor, ...], tuple[float, ...], int]:
    """The levels, their table (see `pick_level`) and the number of grids."""
    table: list[float] = []
    for level, scale, volume in zip(levels, pyramid.scales, (0.0, *pyramid.volumes), strict=True):
        _, x, y, z, _ = level.shape
        table += (float(x), float(y), float(z), scale, volume)
    return tuple(levels), tuple(table), levels[0].shape[0]


def _rule(levels: Sequence[Tensor], sampling: Sampling) -> dict[str, Any]:
    p, q, r = sampling.output_size
    return {
        "channels": levels[0].shape[4], "levels": len(levels), "P": p, "Q": q, "R": r,
        "ratio": max(sampling.sampling_ratio, 0), "aligned": sampling.aligned, "crop": sampling.crop_and_resize,
    }  # fmt: skip


def _channel_block(channels: int, most: int) -> int:
    return min(triton.next_power_of_2(channels), most)
