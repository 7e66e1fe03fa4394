"""GroupNorm of maps in `torch.channels_last_3d`, with ReLU and padding, by Triton kernels.

Forward and backward take two launches each, of `rcnn.backbones.group_norm_device_kernels`, and backward one sum more.
"""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false

from typing import Any

import torch
import triton
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from rcnn.backbones.group_norm_device_kernels import normalize, sum_gradients, sum_values, write_gradient

# Elements of a map that a program holds at a time, and about how many programs there are: a few for each
# multiprocessor, each of which walks over its share of the cells and reads the sums of all shares of its grid.
_ELEMENTS, _PROGRAMS, _WARPS = 4096, 512, 8
_SUMS = 4096
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def takes(x: Float[Tensor, "N C X Y Z"]) -> bool:
    """Whether the kernels can take a map, if Triton can run on its device."""
    return (
        x.dtype in DTYPES
        and x.is_contiguous(memory_format=torch.channels_last_3d)
        and x.numel() > 0
        and x[0, 0].numel() < 2**30
    )


def group_norm(
    x: Float[Tensor, "N C X Y Z"],
    groups: int,
    weight: Float[Tensor, "C"],
    bias: Float[Tensor, "C"],
    eps: float,
    relu: bool,
    outside: Bool[Tensor, "N 1 X Y Z"] | None,
    added: Float[Tensor, "C"] | None = None,
) -> Float[Tensor, "N C X Y Z"]:
    """GroupNorm (Wu and He, ECCV 2018) of each grid over the cells inside it, in the dtype and memory format of x.

    The gradient can't be differentiated again.

    Args:
        x: a map that `takes` accepts. What the padding holds does not matter.
        groups: of channels next to each other; it divides C.
        weight: scale of each channel.
        bias: added to each channel after that.
        eps: added to the variance.
        relu: whether what is negative then becomes zero.
        outside: True where a cell is padding, for zeros in the result.
        added: to each channel of x before, the bias of a convolution.
    """
    return _GroupNorm.apply(x, groups, weight, bias, eps, relu, outside, added)  # type: ignore[return-value]


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        x: Tensor,
        groups: int,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        relu: bool,
        outside: Tensor | None,
        added: Tensor | None,
    ) -> Tensor:
        layout = Layout(x, groups, outside, added)
        out = torch.empty_like(x)
        shares = x.new_empty(layout.grids, layout.blocks, 3 * layout.padded_groups, dtype=torch.float32)
        statistics = x.new_empty(layout.grids, 3 * layout.padded_groups, dtype=torch.float32)
        # Triton launches on the current device.
        with torch.cuda.device_of(x):
            sum_values[layout.programs](x, shares, *layout.place, **layout.constants)
            normalize[layout.programs](
                x, out, weight, bias, shares, statistics, eps, weight, bias, 0.0, *layout.place,
                relu=relu, joined=False, tracks=False, **layout.sums, **layout.constants,
            )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, statistics, outside, added)
        ctx.groups, ctx.relu = groups, relu
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        x, weight, bias, statistics, outside, added = ctx.saved_tensors
        layout = Layout(x, ctx.groups, outside, added)
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        x_gradient = torch.empty_like(x)
        shares = x.new_empty(layout.grids, layout.blocks, 2 * layout.padded_groups, dtype=torch.float32)
        sums = 2 if added is None else 3
        of_channels = x.new_empty(layout.grids * layout.blocks, sums, x.shape[1], dtype=torch.float32)
        with torch.cuda.device_of(x):
            sum_gradients[layout.programs](
                x, gradient, weight, bias, statistics, shares, of_channels, *layout.place,
                relu=ctx.relu, **layout.constants,
            )  # fmt: skip
            write_gradient[layout.programs](
                x, gradient, x_gradient, weight, bias, statistics, shares, of_channels, *layout.place,
                relu=ctx.relu, joined=False, **layout.sums, **layout.constants,
            )  # fmt: skip
        of_weight, of_bias, *of_added = of_channels.sum(0).unbind(0)
        of_added = None if added is None else of_added[0].to(added.dtype)
        return x_gradient, None, of_weight.to(weight.dtype), of_bias.to(bias.dtype), None, None, None, of_added


class Layout:
    """How the cells and channels of a map are divided among programs."""

    def __init__(
        self,
        x: Float[Tensor, "N C X Y Z"],
        groups: int,
        outside: Bool[Tensor, "N 1 X Y Z"] | None,
        added: Float[Tensor, "C"] | None,
    ) -> None:
        self.grids, channels, size_x, size_y, size_z = x.shape
        cells = size_x * size_y * size_z
        self.padded_groups = triton.next_power_of_2(groups)
        padded_channels = triton.next_power_of_2(channels // groups)
        tile = max(_ELEMENTS // (self.padded_groups * padded_channels), 1)
        tiles = triton.cdiv(cells, tile)
        tiles_each = triton.cdiv(tiles, max(_PROGRAMS // self.grids, 1))
        self.blocks = triton.cdiv(tiles, tiles_each)
        self.programs = (self.blocks, self.grids)
        mask, strides = x, (0, 0, 0, 0)
        if outside is not None:
            mask = outside.view(torch.uint8)
            n, _, *cell = outside.stride()
            strides = (n, *cell)
        self.place = (x if added is None else added, mask, *strides, size_y, size_z, cells, tiles_each)
        self.constants: dict[str, Any] = {
            "groups": groups, "width": channels // groups, "padded_groups": self.padded_groups,
            "padded_width": padded_channels, "tile": tile, "padded": outside is not None, "adds": added is not None,
            "num_warps": _WARPS,
            # Forward and backward must find the same sign before ReLU.
            "enable_fp_fusion": False,
        }  # fmt: skip
        self.sums = {"rows": max(_SUMS // self.padded_groups, 1)}
