"""BatchNorm in training, of maps in `torch.channels_last_3d`, with ReLU and padding, by the kernels of GroupNorm.

All cells of a batch are next to each other in memory: it is GroupNorm of one large grid, in groups of one channel.
"""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from rcnn.backbones import group_norm_kernels
from rcnn.backbones.group_norm_device_kernels import normalize, sum_gradients, sum_values, write_gradient


def takes(x: Float[Tensor, "N C X Y Z"]) -> bool:
    """Whether the kernels can take a map, if Triton can run on its device."""
    return group_norm_kernels.takes(x) and x[:, 0].numel() < 2**30


def batch_norm(
    x: Float[Tensor, "N C X Y Z"],
    weight: Float[Tensor, "C"],
    bias: Float[Tensor, "C"],
    eps: float,
    relu: bool,
    outside: Bool[Tensor, "N 1 X Y Z"] | None,
    running: tuple[Float[Tensor, "C"], Float[Tensor, "C"]] | None = None,
    momentum: float = 0.1,
) -> Float[Tensor, "N C X Y Z"]:
    """BatchNorm (Ioffe and Szegedy, ICML 2015) by the statistics of the cells inside the grids, like x in memory.

    The gradient can't be differentiated again.

    Args:
        x: a map that `takes` accepts. What the padding holds does not matter.
        weight: scale of each channel.
        bias: added to each channel after that.
        eps: added to the variance.
        relu: whether what is negative then becomes zero.
        outside: True where a cell is padding, for zeros in the result.
        running: means and unbiased variances of float32, which are moved towards those of the batch.
        momentum: share of the way.
    """
    return _BatchNorm.apply(x, weight, bias, eps, relu, outside, running, momentum)  # type: ignore[return-value]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        relu: bool,
        outside: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
        momentum: float,
    ) -> Tensor:
        layout = _layout(x, outside)
        out = torch.empty_like(x)
        shares = x.new_empty(layout.blocks, 3 * layout.padded_groups, dtype=torch.float32)
        statistics = x.new_empty(3 * layout.padded_groups, dtype=torch.float32)
        # Triton launches on the current device.
        with torch.cuda.device_of(x):
            sum_values[layout.programs](x, shares, *layout.place, **layout.constants)
            # Each program would have to add up the shares of all, which are many for so many groups.
            sums = shares.sum(0)
            normalize[layout.programs](
                x, out, weight, bias, sums, statistics, eps, *(running or (weight, bias)), momentum, *layout.place,
                relu=relu, joined=True, tracks=running is not None, rows=1, **layout.constants,
            )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, statistics, outside)
        ctx.relu = relu
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        x, weight, bias, statistics, outside = ctx.saved_tensors
        layout = _layout(x, outside)
        channels = x.shape[1]
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        x_gradient = torch.empty_like(x)
        shares = x.new_empty(layout.blocks, 2 * layout.padded_groups, dtype=torch.float32)
        of_channels = x.new_empty(layout.blocks, 2 * channels, dtype=torch.float32)
        with torch.cuda.device_of(x):
            sum_gradients[layout.programs](
                x, gradient, weight, bias, statistics, shares, of_channels, *layout.place,
                relu=ctx.relu, **layout.constants,
            )  # fmt: skip
            write_gradient[layout.programs](
                x, gradient, x_gradient, weight, bias, statistics, shares.sum(0), of_channels, *layout.place,
                relu=ctx.relu, joined=True, rows=1, **layout.constants,
            )  # fmt: skip
        of_weight, of_bias = of_channels.sum(0).split(channels)
        return x_gradient, of_weight.to(weight.dtype), of_bias.to(bias.dtype), None, None, None, None, None


def _layout(x: Tensor, outside: Tensor | None) -> group_norm_kernels.Layout:
    grids, channels, size_x, size_y, size_z = x.shape
    cells = x.permute(0, 2, 3, 4, 1).reshape(1, grids * size_x, size_y, size_z, channels).permute(0, 4, 1, 2, 3)
    mask = None if outside is None else outside.reshape(1, 1, grids * size_x, size_y, size_z)
    return group_norm_kernels.Layout(cells, channels, mask, None)
