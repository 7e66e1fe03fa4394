"""Normalisation of padded feature maps: statistics of the grids alone, zeros for padding, and ReLU where it follows."""

from functools import cache
from importlib.util import find_spec
from math import gcd, prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones.padding import Padding, crop_grids, pack_cells, unpack_cells, zero_padding_
from rcnn.backbones.recompute import is_recomputing

NormKind = Literal["batch", "group"]


def make_norm(kind: NormKind, channels: int, groups: int = 32) -> nn.Module:
    """BatchNorm, or GroupNorm in the most groups up to `groups` that divide both it and the channels."""
    return BatchNorm(channels) if kind == "batch" else GroupNorm(gcd(groups, channels), channels)


class BatchNorm(nn.BatchNorm3d):
    """BatchNorm whose statistics are those of the cells inside the grids, with zeros for padding, and ReLU if asked.

    Gradient checkpointing does not count a batch twice in the running statistics. In training, maps in
    `torch.channels_last_3d` on CUDA go through `rcnn.backbones.batch_norm_kernels`.
    """

    def forward(
        self, input: Float[Tensor, "N C X Y Z"], padding: Padding | None = None, relu: bool = False
    ) -> Float[Tensor, "N C X Y Z"]:
        if self.training and input.is_cuda and (kernels := _batch_kernels()) is not None and kernels.takes(input):
            return self._by_kernels(kernels, input, padding, relu)
        if padding is None or not self.training:
            normal = zero_padding_(self._normalize(input), padding)
        else:
            # As rows: torch 2.15 on CPUs finds wrong gradients for their transpose as a map (1, C, M, 1, 1).
            rows = self._normalize(pack_cells(input, padding))
            x, y, z = input.shape[2:]
            normal = unpack_cells(rows, padding.extents, (x, y, z))
        return normal.relu_() if relu else normal

    def _by_kernels(
        self, kernels: Any, x: Float[Tensor, "N C X Y Z"], padding: Padding | None, relu: bool
    ) -> Float[Tensor, "N C X Y Z"]:
        extents = [tuple(x.shape[2:])] * len(x) if padding is None else padding.extents
        if sum(map(prod, extents)) == 1:
            raise ValueError("BatchNorm in training needs more than one cell")
        running = (self.running_mean, self.running_var) if self._counts() else None
        outside = None if padding is None else padding.outside
        return kernels.batch_norm(x, self.weight, self.bias, self.eps, relu, outside, running, self.momentum)

    def _normalize(self, x: Float[Tensor, "N C *cells"]) -> Float[Tensor, "N C *cells"]:
        # The second run of a block saves the same tensors, with a momentum that leaves the statistics alone.
        momentum = self.momentum if self.training and self._counts() else 0.0
        assert momentum is not None
        parameters = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(x, *parameters, self.training, momentum, self.eps)

    def _counts(self) -> bool:
        """Whether this batch enters the running statistics, in which case it is counted."""
        if is_recomputing():
            return False
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return True


class GroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics are those of the cells inside each grid, with zeros for padding, and ReLU if asked.

    Maps in `torch.channels_last_3d` on CUDA go through `rcnn.backbones.group_norm_kernels`; torch's own GroupNorm would
    copy them to another memory format and back.
    """

    def forward(
        self,
        input: Float[Tensor, "N C X Y Z"],
        padding: Padding | None = None,
        relu: bool = False,
        added: Float[Tensor, "C"] | None = None,
    ) -> Float[Tensor, "N C X Y Z"]:
        """`added` is the bias of a convolution that leaves it to the norm, where it costs no pass over the map."""
        if input.is_cuda and (kernels := _group_kernels()) is not None and kernels.takes(input):
            outside = None if padding is None else padding.outside
            return kernels.group_norm(input, self.num_groups, self.weight, self.bias, self.eps, relu, outside, added)
        if added is not None:
            input = input + added.to(input.dtype)[:, None, None, None]
        if padding is None:
            normal = self._normalize(input)
        else:
            x, y, z = input.shape[2:]
            grids = [
                F.pad(self._normalize(grid), (0, z - c, 0, y - b, 0, x - a))
                for grid, (a, b, c) in zip(crop_grids(input, padding), padding.extents, strict=True)
            ]
            normal = torch.cat(grids)
        return normal.relu_() if relu else normal

    def _normalize(self, x: Tensor) -> Tensor:
        # Autocast would return float32, twice the memory; the kernels accumulate in float32 anyway.
        with torch.autocast(x.device.type, enabled=False):
            # Not torch.nn.functional's, which refuses a grid of one cell although its groups have several channels.
            return torch.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


@cache
def _group_kernels() -> Any:
    """The Triton kernels, imported with the first CUDA tensor; None where there is no Triton."""
    if find_spec("triton") is None:
        return None
    from rcnn.backbones import group_norm_kernels

    return group_norm_kernels


@cache
def _batch_kernels() -> Any:
    if find_spec("triton") is None:
        return None
    from rcnn.backbones import batch_norm_kernels

    return batch_norm_kernels
