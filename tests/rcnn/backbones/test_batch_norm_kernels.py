"""The BatchNorm kernels: run by Triton's interpreter, and by a GPU."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from test_group_norm_kernels import compare

from rcnn.backbones import STRIDES, GridBatch, ResNetConfig, build_backbone
from rcnn.backbones.norms import BatchNorm
from rcnn.backbones.padding import Extent, Padding

# Grids, channels, cells along x, y and z, and the extents where grids are padded.
Case = tuple[int, int, Extent, tuple[Extent, ...] | None]
CASES: list[Case] = [
    (2, 12, (3, 4, 7), None),
    (2, 12, (3, 4, 7), ((3, 2, 7), (2, 4, 1))),
    (1, 4, (1, 2, 3), None),
    (3, 8, (9, 7, 6), ((1, 1, 1), (9, 7, 5), (4, 2, 6))),
]


def check(device: str, dtype: torch.dtype, cases: Sequence[Case] = CASES) -> None:
    """Kernels in a dtype against torch in double precision: results, running statistics and all gradients."""
    from rcnn.backbones import batch_norm_kernels

    loose = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    for index, (grids, channels, shape, extents) in enumerate(cases):
        relu = index % 2 == 1
        generator = torch.Generator().manual_seed(channels)
        x = torch.randn(grids, channels, *shape, generator=generator)
        # Channels far from zero, and from each other.
        x = (x * 0.5 + 4 * torch.randn(1, channels, 1, 1, 1, generator=generator)).to(dtype)
        gradient = torch.randn(grids, channels, *shape, generator=generator).to(dtype)
        norm = BatchNorm(channels).double()
        for parameter in norm.parameters():
            parameter.data = torch.randn(channels, generator=generator).double()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        running = [norm.running_mean.float().to(device), norm.running_var.float().to(device)]
        padding = None if extents is None else Padding.of(extents, shape, torch.device("cpu"))
        exact_x = x.double().requires_grad_()
        exact = norm(exact_x, padding, relu)
        wanted = torch.autograd.grad(exact, (exact_x, *norm.parameters()), gradient.double())

        outside = None
        if padding is not None:
            x = x.masked_fill(padding.outside, float("nan"))
            outside = padding.outside.to(device)
        leaf = x.to(device, memory_format=torch.channels_last_3d).requires_grad_()
        weight, bias = (p.detach().float().to(device).requires_grad_() for p in norm.parameters())
        out = batch_norm_kernels.batch_norm(leaf, weight, bias, norm.eps, relu, outside, (running[0], running[1]))
        assert out.dtype == dtype
        assert out.stride() == leaf.stride()
        compare(out, exact, loose)
        for got, want in zip(running, (norm.running_mean, norm.running_var), strict=True):
            compare(got, want, 2e-5)
        for got, want in zip(torch.autograd.grad(out, (leaf, weight, bias), gradient.to(device)), wanted, strict=True):
            compare(got, want, loose, 1e-2)
        again = batch_norm_kernels.batch_norm(leaf, weight, bias, norm.eps, relu, outside)
        assert torch.equal(again, out)
        compare(running[0], norm.running_mean, 2e-5)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    check("cuda", dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_backbone_on_a_gpu(checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training, against torch in double precision: maps, gradients and running statistics of padded grids."""
    torch.manual_seed(0)
    config = ResNetConfig(blocks=(1, 1, 1, 1), width=16, out_channels=16, checkpointing=checkpointing)
    exact, model = build_backbone(config).double().cuda(), build_backbone(config).cuda()
    model.load_state_dict(exact.state_dict())
    # TF32 alone would be off by more than the kernels may be.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    grids = [torch.rand(4, *size) for size in ((64, 50, 40), (60, 64, 33))]
    results, weights = [], None
    for network, dtype in ((exact, torch.float64), (model, torch.float32)):
        levels = network(GridBatch.collate([grid.to("cuda", dtype) for grid in grids]))
        # What squares would pull at, norms undo: their gradients are differences of large numbers.
        weights = weights or [torch.randn_like(level) for level in levels]
        torch.stack([(level * w.to(dtype)).sum() for level, w in zip(levels, weights, strict=True)]).sum().backward()
        results.append((*levels, *(p.grad for p in network.parameters()), *network.state_dict().values()))
    assert len(results[1][: len(STRIDES)]) == 4
    for want, got in zip(*results, strict=True):
        compare(got, want.cpu().double(), 2e-2)


if __name__ == "__main__":
    check("cpu", torch.float32)
    check("cpu", torch.bfloat16, CASES[1:2])
    from rcnn.backbones import group_norm_kernels

    # Several tiles in each of several programs.
    group_norm_kernels._ELEMENTS, group_norm_kernels._PROGRAMS = 64, 4
    check("cpu", torch.float32, CASES[3:])
    print("kernels agree")
