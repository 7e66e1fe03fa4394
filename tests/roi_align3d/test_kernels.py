"""The Triton kernels without a GPU: run by Triton's interpreter, and compiled for a GPU that is not there."""

import os
import subprocess
import sys
from typing import Any
from unittest.mock import patch

import pytest
import torch
from roi_cases import Case, make_case

NAN = float("nan")
# rotated, sampling_ratio, aligned, crop_and_resize
RULES = [
    (False, 2, True, False),
    (False, -1, False, False),
    (False, 1, True, True),
    (True, 2, False, False),
    (True, -1, True, False),
]

# For fp16 on tensor cores: more x bins than a program sums at a time, fewer and more z bins than it has rows.
HALF_RULES: list[dict[str, Any]] = [
    {"output_size": (2, 1, 2), "sampling_ratio": 2},
    {"output_size": (9, 3, 2), "sampling_ratio": 2, "aligned": False},
    {"output_size": (3, 3, 7), "sampling_ratio": 3, "levels": 1},
    {"output_size": (1, 2, 34), "sampling_ratio": 2, "levels": 3},
    {"output_size": (1, 1, 1), "sampling_ratio": 9},
]


def compare_with_reference(case: Case, of_boxes: bool = True) -> None:
    """Values and gradients of the kernels."""
    from roi_align3d import kernels

    features = case.features
    arguments = (case.rois, case.pyramid, case.sampling)
    expected = case.reference()
    pooled = kernels.forward(features, *arguments)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    *of_features, of_rois = case.reference_gradients(upstream)
    sums = kernels.features_backward(upstream, [level.shape for level in features], *arguments)
    for level, wanted in zip(sums, of_features, strict=True):
        torch.testing.assert_close(level, wanted, atol=1e-5, rtol=1e-5)
    if of_boxes:
        boxes = kernels.rois_backward(upstream, features, *arguments)
        torch.testing.assert_close(boxes, of_rois, atol=1e-4, rtol=1e-4)


def compare_half_precision_with_reference(case: Case) -> None:
    """Values and gradients of the kernels for fp16; the interpreter cannot multiply matrices in bf16."""
    from roi_align3d import kernels

    half = case.to("cpu", torch.float16)
    exact = half.to("cpu", torch.float32)
    arguments = (case.rois, case.pyramid, case.sampling)
    expected = exact.reference()
    pooled = kernels.forward(half.features, *arguments)
    assert pooled.dtype == torch.float16
    torch.testing.assert_close(pooled.float(), expected, atol=2e-3, rtol=2e-3)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).half()
    *of_features, _ = exact.reference_gradients(upstream.float())
    sums = kernels.features_backward(upstream, [level.shape for level in half.features], *arguments)
    for level, wanted in zip(sums, of_features, strict=True):
        assert level.dtype == torch.float16
        torch.testing.assert_close(level.float(), wanted, atol=2e-3, rtol=2e-3)


def run_kernels() -> None:
    """What the interpreter runs, in a process of its own."""
    from roi_align3d import kernels

    for seed, rule in enumerate(HALF_RULES):
        case = make_case(seed, channels=2, shape=(5, 9, 6), count=3, largest=5.0, **rule)
        assert case.reference().ne(0).any()
        compare_half_precision_with_reference(case)
    for seed, (rotated, sampling_ratio, aligned, crop) in enumerate(RULES):
        case = make_case(
            seed, channels=2, shape=(5, 4, 6), count=2, rotated=rotated, output_size=(2, 1, 2),
            sampling_ratio=sampling_ratio, aligned=aligned, crop_and_resize=crop, largest=3.0,
        )  # fmt: skip
        compare_with_reference(case)
    # Longer along z than one tile, more samples than are unrolled, and boxes of no use.
    tall = make_case(0, shape=(3, 3, 40), levels=1, count=1, output_size=(1, 1, 3), sampling_ratio=9)
    compare_with_reference(tall._replace(rois=torch.tensor([[1, 0.2, 0.3, 1.0, 1.4, 2.2, 38.3]])), of_boxes=False)
    # Few samples far apart, in all axes in turn.
    wide = make_case(1, shape=(9, 8, 9), levels=1, count=1, output_size=(1, 1, 1), sampling_ratio=2)
    compare_with_reference(wide._replace(rois=torch.tensor([[0, 0.3, 0.1, 0.2, 8.6, 7.7, 8.9]])), of_boxes=False)
    odd = torch.tensor(
        [
            [0, NAN, 1, 1, 2, 2, 2],
            [0, 1, 1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1e30, 2, 2],
            [0, -9e5, 0, 0, 9e5, 3, 3],
        ]
    )
    compare_with_reference(make_case(count=1, output_size=(1, 1, 2), sampling_ratio=-1)._replace(rois=odd[:3]))
    case = make_case(count=1, output_size=(1, 1, 2), sampling_ratio=-1, grids=1)
    huge = kernels.forward(case.features, odd[3:], case.pyramid, case.sampling)
    assert huge.abs().max() < 1e-3
    unknown = torch.tensor([[1.0, 0, 0, 0, 2, 2, 2], [0.5, 0, 0, 0, 2, 2, 2]])
    assert kernels.forward(case.features, unknown, case.pyramid, case.sampling).isnan().all()
    sums = kernels.features_backward(
        torch.ones(2, 3, 1, 1, 2), [f.shape for f in case.features], unknown, case.pyramid, case.sampling
    )
    assert all(level.eq(0).all() for level in sums)
    small = make_case(
        2, grids=1, channels=2, shape=(3, 3, 2), levels=1, count=1, output_size=(1, 1, 1), sampling_ratio=1, largest=2.0
    )  # fmt: skip
    compare_without_dispatcher(small)
    print("kernels agree")


def compare_without_dispatcher(case: Case) -> None:
    """Values and gradients of :func:`pool` as it calls kernels for plain tensors on a GPU."""
    from roi_align3d import operator

    with patch.object(operator, "_goes_to_kernels", lambda *_: True), patch.object(operator, "_forward", None):
        leaves = [t.detach().clone().requires_grad_() for t in (*case.features, case.rois)]
        pooled = operator.pool(leaves[:-1], leaves[-1], case.pyramid, case.sampling)
        expected = case.reference()
        torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
        upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(pooled, leaves, upstream, retain_graph=True)
        for ours, wanted in zip(gradients, case.reference_gradients(upstream), strict=True):
            torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
        (twice,) = torch.autograd.grad(pooled.sum(), leaves[0], create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivatives"):
            twice.sum().backward()
        pooled.relu_()  # allowed, since results are no views
        with torch.no_grad():
            assert torch.equal(operator.pool(leaves[:-1], leaves[-1], case.pyramid, case.sampling).relu(), pooled)


def test_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    # Triton reads the variable when it is imported, so it needs a process that has not imported it yet.
    result = subprocess.run(
        [sys.executable, __file__], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert "kernels agree" in result.stdout, result.stderr[-3000:]


RULE = {"channels": 32, "P": 2, "Q": 2, "R": 3, "aligned": False, "crop": False, "block_c": 32}

CONTRACT_FORWARD = {"slabs": 1, "strips": 1, "runs": 1, "block_rows": 16, "block_voxels": 32} | {
    "rounds": 1, "unroll": 1
}  # fmt: skip
CONTRACT_BACKWARD = {"shares": 2, "planes": 2, "block_rows": 16, "block_bins": 16, "stages": 2}


@pytest.mark.parametrize(
    ("module", "name", "features", "constants"),
    [
        ("separable", "pool_forward", "fp16", {"levels": 3, "ratio": 0, "block_rows": 8}),
        ("separable", "pool_forward", "bf16", {"levels": 1, "ratio": 2, "block_rows": 8}),
        ("separable", "pool_backward", "fp32", {"levels": 3, "ratio": 0, "block_rows": 8, "shares": 2}),
        ("contraction", "contract_forward", "fp16", CONTRACT_FORWARD | {"levels": 3, "ratio": 3}),
        ("contraction", "contract_forward", "bf16", CONTRACT_FORWARD | {"levels": 1, "ratio": 2, "unroll": 2}),
        ("contraction", "contract_backward", "fp16", CONTRACT_BACKWARD | {"levels": 3, "ratio": 3}),
        ("contraction", "contract_backward", "bf16", CONTRACT_BACKWARD | {"levels": 1, "ratio": 2}),
        ("gather", "pool_samples", "fp16", {"levels": 3, "ratio": 0, "task": 0, "columns": 8, "block_r": 4}),
        ("gather", "pool_samples", "fp32", {"levels": 3, "ratio": 2, "task": 1, "columns": 8, "block_r": 4}),
        ("gather", "pool_samples", "bf16", {"levels": 3, "ratio": 0, "task": 2, "columns": 7, "block_r": 4}),
    ],
)
def test_kernels_compile(module: str, name: str, features: str, constants: dict[str, Any]) -> None:
    """The interpreter takes much that the compiler does not."""
    pytest.importorskip("triton")
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"roi_align3d.kernels.{module}"), name)
    constants = RULE | constants
    types = {
        "grids": ("*fp32" if name == "contract_backward" else f"*{features}",) * constants["levels"],
        "table": ("fp32",) * (5 * constants["levels"]),
        "batches": "i32",
        "rois": "*fp32",
        "out": f"*{features}" if constants.get("task") != 2 else "*fp32",
        "gradient": f"*{features}",
    }
    signature = {argument: "constexpr" if argument in constants else types[argument] for argument in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(key),): value for key, value in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    assert name in compiled.asm["ptx"]


if __name__ == "__main__":
    run_kernels()
