"""Layers of the Swin transformer in 3D (Liu et al., ICCV 2021) on packed tokens."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import MLP
from torchvision.ops.stochastic_depth import stochastic_depth

from rcnn.backbones.padding import Extent
from rcnn.backbones.token_rows import RowMap, WindowMap, to_places, to_rows


class PatchEmbedding(nn.Module):
    """Cubes of cells as tokens; the last of an axis is filled up with zeros."""

    def __init__(self, channels_in: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.conv = nn.Conv3d(channels_in, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "N C X Y Z"]) -> Float[Tensor, "N x y z dim"]:
        missing = [-cells % self.patch for cells in x.shape[2:]]
        x = F.pad(x, (0, missing[2], 0, missing[1], 0, missing[0]))
        return self.norm(self.conv(x).permute(0, 2, 3, 4, 1))


class PatchMerging(nn.Module):
    """2³ tokens become one of twice the channels, zeros standing for what an odd side lacks."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * dim)
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)

    def forward(self, tokens: Float[Tensor, "M C"], merge: RowMap) -> Float[Tensor, "m 2*C"]:
        return self.reduction(self.norm(to_places(tokens, merge).reshape(-1, 8 * tokens.shape[1])))


class WindowAttention(nn.Module):
    """Self-attention within windows of w³ places with a learned bias for each relative position.

    A grid is filled up with zeros to whole windows, and they are attended to as in the reference implementations of
    Swin: published weights expect it.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 3, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_positions(window), persistent=False)

    def forward(self, tokens: Float[Tensor, "M C"], windows: WindowMap) -> Float[Tensor, "M C"]:
        places, channels = self.window**3, tokens.shape[1]
        qkv = self.qkv(to_places(tokens, windows.map))
        q, k, v = qkv.reshape(-1, places, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table.index_select(0, self.relative_position_index).to(q.dtype)
        bias = bias.T.reshape(1, self.heads, places, places)
        if windows.blocked is not None:
            bias = bias.masked_fill(windows.blocked[:, None], float("-inf"))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(to_rows(attended.transpose(1, 2).reshape(-1, channels), windows.map))


class SwinBlock(nn.Module):
    """Window attention and a perceptron, each after a LayerNorm and with a shortcut."""

    def __init__(self, dim: int, heads: int, window: int, mlp_ratio: float, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, [int(dim * mlp_ratio), dim], activation_layer=nn.GELU, inplace=None)

    def forward(self, tokens: Float[Tensor, "M C"], windows: WindowMap) -> Float[Tensor, "M C"]:
        tokens = tokens + self._drop_grids(self.attn(self.norm1(tokens), windows), windows.extents)
        return tokens + self._drop_grids(self.mlp(self.norm2(tokens)), windows.extents)

    def _drop_grids(self, residual: Float[Tensor, "M C"], extents: tuple[Extent, ...]) -> Float[Tensor, "M C"]:
        """Stochastic depth (Huang et al., ECCV 2016): in training whole grids lose the residual."""
        if not self.training or self.drop == 0:
            return residual
        factors = stochastic_depth(residual.new_ones(len(extents), 1), self.drop, "row")
        grids = zip(factors, extents, strict=True)
        return residual * torch.cat([factor.expand(a * b * c) for factor, (a, b, c) in grids])[:, None]


def _relative_positions(window: int) -> Tensor:
    """Row of the bias table for each pair of places, int64 [w³ * w³]."""
    axis = torch.arange(window)
    places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    x, y, z = (places[:, None] - places[None] + window - 1).unbind(-1)
    side = 2 * window - 1
    return ((x * side + y) * side + z).reshape(-1)
