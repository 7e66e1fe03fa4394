"""Normalisation of padded feature maps: statistics of the grids alone, zeros for padding."""

from math import gcd
from typing import Literal

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
    """BatchNorm whose statistics are those of the cells inside the grids, with zeros for padding.

    Gradient checkpointing does not count a batch twice in the running statistics.
    """

    def forward(self, input: Float[Tensor, "N C X Y Z"], padding: Padding | None = None) -> Float[Tensor, "N C X Y Z"]:
        if padding is None:
            return self._normalize(input)
        if not self.training:
            return zero_padding_(self._normalize(input), padding)
        rows = self._normalize(pack_cells(input, padding).T[None, :, :, None, None])
        x, y, z = input.shape[2:]
        return unpack_cells(rows[0, :, :, 0, 0].T, padding.extents, (x, y, z))

    def _normalize(self, x: Float[Tensor, "N C X Y Z"]) -> Float[Tensor, "N C X Y Z"]:
        if not (self.training and is_recomputing()):
            return super().forward(x)
        # The same call, so that it saves the same tensors, with a momentum that leaves the statistics alone.
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, 0.0, self.eps)


class GroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics are those of the cells inside each grid, with zeros for padding."""

    def forward(self, input: Float[Tensor, "N C X Y Z"], padding: Padding | None = None) -> Float[Tensor, "N C X Y Z"]:
        if padding is None:
            return self._normalize(input)
        x, y, z = input.shape[2:]
        grids = [
            F.pad(self._normalize(grid), (0, z - c, 0, y - b, 0, x - a))
            for grid, (a, b, c) in zip(crop_grids(input, padding), padding.extents, strict=True)
        ]
        return torch.cat(grids)

    def _normalize(self, x: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
        # Autocast would return float32, twice the memory; the kernels accumulate in float32 anyway.
        with torch.autocast(x.device.type, enabled=False):
            # Not torch.nn.functional's, which refuses a grid of one cell although its groups have several channels.
            return torch.group_norm(x, self.num_groups, weight, bias, self.eps)
