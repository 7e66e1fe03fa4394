"""The forward pass of an MLP of two or three layers as one Triton kernel; see `fused_mlp`."""
# Triton reads the kernels itself; their types are not Python's.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportCallIssue=false

from collections.abc import Sequence

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor, nn

from instance_nerfstudio.kernel_launch import launch

_BLOCK = 128  # rows per program
_WARPS = 4
_SMALLEST = 16  # side of a matrix that tensor cores take


@triton.jit
def _relu(x):
    return tl.where(x < 0, 0.0, x)  # NaN stays


@triton.jit
def _layer(x, weight, bias, inputs: tl.constexpr, outputs: tl.constexpr, wide_in: tl.constexpr, wide_out: tl.constexpr):
    """`x` [rows, wide_in] times the weight [outputs, inputs] transposed, plus the bias; zeros beyond the widths."""
    i, o = tl.arange(0, wide_in), tl.arange(0, wide_out)
    inside = (i < inputs)[:, None] & (o < outputs)[None, :]
    matrix = tl.load(weight + o[None, :] * inputs + i[:, None], mask=inside, other=0.0)
    # Three products of TF32 are as exact as one of fp32, and several times as fast.
    y = tl.dot(x, matrix, input_precision="tf32x3")
    return y + tl.load(bias + o, mask=o < outputs, other=0.0)[None, :]


@triton.jit(do_not_specialize=["count"])
def _mlp(
    x, out, weight1, bias1, weight2, bias2, weight3, bias3, count,
    inputs: tl.constexpr, hidden: tl.constexpr, outputs: tl.constexpr, layers: tl.constexpr, end: tl.constexpr,
    wide_in: tl.constexpr, wide_hidden: tl.constexpr, wide_out: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Writes `out` [count, outputs] from `x` [count, inputs]; the last layer's weight is `weight3`."""
    row = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    i, o = tl.arange(0, wide_in), tl.arange(0, wide_out)
    here = (row < count)[:, None]
    y = tl.load(x + row[:, None] * inputs + i[None, :], mask=here & (i < inputs)[None, :], other=0.0)
    y = _relu(_layer(y, weight1, bias1, inputs, hidden, wide_in, wide_hidden))
    if layers == 3:
        y = _relu(_layer(y, weight2, bias2, hidden, hidden, wide_hidden, wide_hidden))
    y = _layer(y, weight3, bias3, hidden, outputs, wide_hidden, wide_out)
    if end == "relu":
        y = _relu(y)
    elif end == "sigmoid":
        y = tl.sigmoid(y)
    tl.store(out + row[:, None] * outputs + o[None, :], y, mask=here & (o < outputs)[None, :])


def mlp_forward(
    x: Float[Tensor, "rows inputs"], layers: Sequence[nn.Linear], out_activation: nn.Module | None
) -> Float[Tensor, "rows outputs"]:
    """Two or three linear layers with ReLU in between, without gradients.

    Args:
        x: fp32.
        layers: fp32, with biases.
        out_activation: ReLU, Sigmoid or None.
    """
    first, last = layers[0], layers[-1]
    middle = layers[1] if len(layers) == 3 else last
    out = x.new_empty(len(x), last.out_features)
    if len(x):
        wide = [max(triton.next_power_of_2(n), _SMALLEST) for n in (x.shape[1], first.out_features, out.shape[1])]
        end = "none" if out_activation is None else type(out_activation).__name__.lower()
        launch(
            _mlp, (triton.cdiv(len(x), _BLOCK),),
            x.contiguous(), out, first.weight, first.bias, middle.weight, middle.bias, last.weight, last.bias,
            len(x), inputs=x.shape[1], hidden=first.out_features, outputs=out.shape[1], layers=len(layers), end=end,
            wide_in=wide[0], wide_hidden=wide[1], wide_out=wide[2], block=_BLOCK, num_warps=_WARPS,
        )  # fmt: skip
    return out
