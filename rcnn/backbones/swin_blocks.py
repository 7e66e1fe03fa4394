"""Layers of the Swin transformer in 3D (Liu et al., ICCV 2021) on packed tokens."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones.half_precision import autocast_dtype, cast_together
from rcnn.backbones.stochastic_depth import add_residual
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
        # CUDA's LayerNorm refuses an input that has not the dtype of its weight.
        return self.norm(self.conv(x).permute(0, 2, 3, 4, 1).to(self.norm.weight.dtype))


class PatchMerging(nn.Module):
    """2³ tokens become one of twice the channels, zeros standing for what an odd side lacks.

    Under autocast, tokens stay in float32 as within `SwinBlock`.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8 * dim)
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)

    def forward(self, tokens: Float[Tensor, "M C"], merge: RowMap) -> Float[Tensor, "m 2*C"]:
        merged = self.reduction(self.norm(to_places(tokens, merge).reshape(-1, 8 * tokens.shape[1])))
        return merged.to(tokens.dtype)


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

    def forward(
        self, tokens: Float[Tensor, "M C"], windows: WindowMap, weights: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "M C"]:
        """`weights`: those of `qkv` and `proj`, and the bias, in the dtype of the tokens, where it is not their own."""
        if weights is None:
            weights = *self.weights(), self.position_bias()
        qkv_weight, qkv_bias, proj_weight, proj_bias, bias = weights
        places, channels = self.window**3, tokens.shape[1]
        qkv = F.linear(to_places(tokens, windows.map), qkv_weight, qkv_bias)
        parts = qkv.reshape(-1, places, 3, self.heads, channels // self.heads).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        if windows.blocked is not None:
            bias = bias + windows.blocked
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        rows = to_rows(attended.transpose(1, 2).reshape(-1, channels), windows.map)
        return F.linear(rows, proj_weight, proj_bias)

    def weights(self) -> tuple[Tensor, ...]:
        """Of the linear layers."""
        return self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias

    def position_bias(self) -> Float[Tensor, "1 heads P P"]:
        """For each pair of places of a window."""
        places = self.window**3
        bias = self.relative_position_bias_table.T.index_select(1, self.relative_position_index)
        return bias.reshape(1, self.heads, places, places)


class SwinBlock(nn.Module):
    """Window attention and a perceptron, each after a LayerNorm and with a shortcut.

    Under autocast, tokens and norms are in float32 and the rest in half precision, as autocast would have it; but all
    weights are cast at once.
    """

    def __init__(self, dim: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        # torchvision's MLP, with its names and without the seconds that importing it takes.
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim), nn.Identity()
        )
        self._cast: tuple[Any, tuple[Tensor, ...]] | None = None

    def forward(
        self, tokens: Float[Tensor, "M C"], windows: WindowMap, factors: Float[Tensor, "2 M 1"] | None = None
    ) -> Float[Tensor, "M C"]:
        """`factors` of the two residuals of each token, from `rcnn.backbones.stochastic_depth`."""
        dtype = autocast_dtype(tokens)
        weights = self._weights(dtype)
        of_attention, of_mlp = (None, None) if factors is None else factors.unbind(0)
        with torch.autocast(tokens.device.type, enabled=False):
            attended = self.attn(self.norm1(tokens).to(dtype), windows, weights[:5])
            tokens = add_residual(tokens, attended, of_attention)
            inner = F.gelu(F.linear(self.norm2(tokens).to(dtype), *weights[5:7]))
            return add_residual(tokens, F.linear(inner, *weights[7:9]), of_mlp)

    def train(self, mode: bool = True) -> "SwinBlock":
        self._cast = None  # moving averages are swapped in behind the weights' version, and then the mode changes
        return super().train(mode)

    def _weights(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Those of the attention, its bias, and those of the perceptron. Without gradients they are cast but once."""
        first, _, _, second, _ = self.mlp
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        of_mlp = first.weight, first.bias, second.weight, second.bias
        if torch.is_grad_enabled():
            return cast_together((*self.attn.weights(), self.attn.position_bias(), *of_mlp), dtype)
        sources = *self.attn.weights(), self.attn.relative_position_bias_table, *of_mlp
        state = dtype, *((source.data_ptr(), source._version) for source in sources)
        if self._cast is None or self._cast[0] != state:
            self._cast = state, cast_together((*self.attn.weights(), self.attn.position_bias(), *of_mlp), dtype)
        return self._cast[1]


def _relative_positions(window: int) -> Tensor:
    """Row of the bias table for each pair of places, int64 [w³ * w³]."""
    axis = torch.arange(window)
    places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    x, y, z = (places[:, None] - places[None] + window - 1).unbind(-1)
    side = 2 * window - 1
    return ((x * side + y) * side + z).reshape(-1)
