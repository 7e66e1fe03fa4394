"""The GroupNorm kernels: run by Triton's interpreter, compiled for a GPU that is not there, and run by one."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rcnn.backbones.norms import GroupNorm
from rcnn.backbones.padding import Extent, Padding

# Grids, groups, channels, cells along x, y and z, and the extents where grids are padded.
Case = tuple[int, int, int, Extent, tuple[Extent, ...] | None]
CASES: list[Case] = [
    (2, 32, 96, (3, 4, 7), None),
    (2, 32, 96, (3, 4, 7), ((3, 2, 7), (2, 4, 1))),
    (1, 2, 4, (1, 1, 1), None),
    (2, 1, 6, (9, 7, 6), ((1, 1, 1), (9, 7, 5))),
    (3, 8, 8, (2, 3, 2), None),
    (2, 5, 35, (3, 5, 2), ((3, 4, 2), (2, 5, 2))),
]


def check(device: str, dtype: torch.dtype, cases: Sequence[Case] = CASES, both: bool = True) -> None:
    """Kernels in a dtype against torch in double precision: what comes out, and the gradients of all that goes in.

    `both` runs each case with ReLU and without, otherwise they take turns.
    """
    from rcnn.backbones import group_norm_kernels

    loose = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    for index, (grids, groups, channels, shape, extents) in enumerate(cases):
        for relu in (False, True) if both else (index % 2 == 1,):
            generator = torch.Generator().manual_seed(channels)
            x = torch.randn(grids, channels, *shape, generator=generator)
            # Channels far from zero, and from each other.
            x = (x * 0.5 + 4 * torch.randn(1, channels, 1, 1, 1, generator=generator)).to(dtype)
            gradient = torch.randn(grids, channels, *shape, generator=generator).to(dtype)
            norm = GroupNorm(groups, channels).double()
            for parameter in norm.parameters():
                parameter.data = torch.randn(channels, generator=generator).double()
            # With ReLU, the bias of a convolution too.
            added = torch.randn(channels, generator=generator) if relu else None
            padding = None if extents is None else Padding.of(extents, shape, torch.device("cpu"))

            exact_x = x.double().requires_grad_()
            exact_added = [] if added is None else [added.double().requires_grad_()]
            exact = norm(exact_x, padding, relu, *exact_added)
            wanted = torch.autograd.grad(exact, (exact_x, *norm.parameters(), *exact_added), gradient.double())

            if padding is not None:
                x = x.masked_fill(padding.outside, float("nan"))
                # As at coarser levels, a view of the mask of a finer one.
                finer = padding.outside.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
                outside = finer.to(device)[..., ::2, ::2, ::2]
            else:
                outside = None
            leaf = x.to(device, memory_format=torch.channels_last_3d).requires_grad_()
            weight, bias = (p.detach().float().to(device).requires_grad_() for p in norm.parameters())
            leaves = [leaf, weight, bias]
            if added is not None:
                leaves.append(added.to(device).requires_grad_())
            out = group_norm_kernels.group_norm(leaf, groups, weight, bias, norm.eps, relu, outside, *leaves[3:])
            assert out.dtype == dtype
            assert out.stride() == leaf.stride()
            compare(out, exact, loose)
            found = torch.autograd.grad(out, leaves, gradient.to(device))
            for got, want in zip(found[:3], wanted[:3], strict=True):
                compare(got, want, loose)
            for got, want in zip(found[3:], wanted[3:], strict=True):
                # A sum that cancels out in groups of one channel.
                compare(got, want, loose, 1e-3 + float(wanted[0].norm()))


def compare(got: Tensor, want: Tensor, loose: float, size: float = 1e-3) -> None:
    assert got.isfinite().all()
    error = (got.detach().cpu().double() - want.detach()).norm()
    assert error <= loose * (size + want.norm()), (float(error), float(want.norm()))


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    # Triton reads the variable when it is imported, so it needs a process that has not imported it yet.
    result = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert "kernels agree" in result.stdout, result.stderr[-3000:]


@pytest.mark.parametrize("name", ["sum_values", "normalize", "sum_gradients", "write_gradient"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_kernels_compile(name: str, padded: bool, batch: bool) -> None:
    """The interpreter takes much that the compiler does not. For GroupNorm, and for BatchNorm of many channels."""
    pytest.importorskip("triton")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rcnn.backbones import group_norm_device_kernels, group_norm_kernels

    channels = 2048 if batch else 96
    groups = channels if batch else 32
    layout = group_norm_kernels.Layout(torch.empty(4, channels, 9, 9, 9, device="meta"), groups, None, None)
    choices = {"relu": True, "padded": padded, "adds": padded and not batch, "joined": batch, "tracks": batch}
    constants: dict[str, Any] = {**layout.constants, **layout.sums, **choices}
    kernel = getattr(group_norm_device_kernels, name)
    options = {key: constants.pop(key) for key in ("num_warps", "enable_fp_fusion")}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    types = (
        dict.fromkeys(("x", "out", "gradient", "x_gradient"), "*bf16")
        | {"outside": "*u8"}
        | dict.fromkeys(("eps", "momentum"), "fp32")
    )
    types |= dict.fromkeys(("weight", "bias", "shares", "statistics", "of_channels", "added"), "*fp32")
    types |= dict.fromkeys(("running_mean", "running_var"), "*fp32")
    signature = {
        argument: "constexpr" if argument in constants else types.get(argument, "i32") for argument in kernel.arg_names
    }
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(key),): value for key, value in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert name in compiled.asm["ptx"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    check("cuda", dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("padded", [False, True])
def test_module_on_a_gpu(padded: bool) -> None:
    """Large maps under autocast, in both memory formats: one takes the kernels, the other torch's."""
    norm = GroupNorm(32, 256).cuda()
    shape = (40, 37, 21)
    padding = Padding.of((shape, (40, 20, 9)), shape, torch.device("cuda")) if padded else None
    x = torch.randn(2, 256, *shape, device="cuda", dtype=torch.bfloat16)
    change = torch.randn_like(x)
    results = []
    for memory_format in (torch.channels_last_3d, torch.contiguous_format):
        leaf = x.contiguous(memory_format=memory_format).requires_grad_()
        with torch.autocast("cuda", torch.bfloat16):
            out = norm(leaf, padding, True)
        assert out.dtype == torch.bfloat16
        results.append((out, *torch.autograd.grad(out, (leaf, *norm.parameters()), change)))
    for got, want in zip(*results, strict=True):
        assert (got - want).float().norm() < 0.02 * want.float().norm()
    repeated = norm(leaf.detach().contiguous(memory_format=torch.channels_last_3d), padding, True)
    assert torch.equal(repeated, results[0][0])


if __name__ == "__main__":
    check("cpu", torch.float32, both=False)
    check("cpu", torch.bfloat16, CASES[1:2], both=False)
    from rcnn.backbones import group_norm_kernels

    # Several tiles in each of several programs, whose sums are added up in several steps.
    group_norm_kernels._ELEMENTS, group_norm_kernels._PROGRAMS, group_norm_kernels._SUMS = 512, 4, 32
    check("cpu", torch.float32, [CASES[3], CASES[5]])
    print("kernels agree")
