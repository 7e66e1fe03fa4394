"""The suppression kernels without a GPU: run by Triton's interpreter, and compiled for a GPU that is not there."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from box_cases import assert_greedy, crowded_boxes, random_boxes


def run_kernels() -> None:
    """What the interpreter runs, in a process of its own."""
    from rcnn.boxes import nms_kernels
    from rcnn.boxes.iou import masked_box_iou
    from rcnn.boxes.nms_blocks import suppress_in_blocks

    # Two words a round, so that a few boxes pass through all kernels, in few programs.
    nms_kernels.ROUND, nms_kernels._SPREAD_WORDS, nms_kernels._ROWS = 128, 1, 64
    for rotated, count, threshold in ((True, 140, 0.1), (False, 70, 0.3)):
        boxes = random_boxes(count, rotated, extent=6)
        # Flat, touching and identical boxes.
        boxes[count // 2 :: 7] = boxes[count // 2].clone()
        boxes[1::31, 3] = boxes[1::31, 0].clone()
        groups = torch.arange(count) % 2 * 2**40 if rotated else None
        expected = suppress_in_blocks(boxes, groups, threshold)
        kept = nms_kernels.suppress(boxes, groups, threshold, rotated)
        assert torch.equal(kept, expected), (rotated, count, (kept != expected).nonzero())
    # At a threshold of 0, and rounded otherwise than on the CPU: boxes that are apart must not suppress each other.
    boxes, scores, groups = crowded_boxes(128, True)
    rows = scores.argsort(descending=True, stable=True)
    kept = nms_kernels.suppress(boxes[rows], groups[rows], 0.0, True)
    assert_greedy(rows[kept], masked_box_iou(boxes.double(), boxes.double(), (groups, groups)), scores, 0.0)
    print("kernels agree")


def test_nms_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    # Triton reads the variable when it is imported, so it needs a process that has not imported it yet.
    result = subprocess.run(
        [sys.executable, __file__], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert "kernels agree" in result.stdout, result.stderr[-3000:]


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("find_suppressed", {"rotated": True, "grouped": True, "rows": 16}),
        ("find_suppressed", {"rotated": False, "grouped": False, "rows": 16}),
        ("resolve_round", {"block_words": 32}),
        ("spread_round", {"block_words": 32}),
    ],
)
def test_nms_kernels_compile(name: str, constants: dict[str, Any]) -> None:
    """The interpreter takes much that the compiler does not."""
    pytest.importorskip("triton")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rcnn.boxes import nms_kernels

    kernel = getattr(nms_kernels, name)
    types = {"table": "*fp32", "threshold": "fp32", "kept": "*i8", "bits": "*i64", "removed": "*i64", "groups": "*i64"}
    signature = {
        argument: "constexpr" if argument in constants else types.get(argument, "i32") for argument in kernel.arg_names
    }
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(key),): value for key, value in constants.items()})
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    assert name in compiled.asm["ptx"]


if __name__ == "__main__":
    run_kernels()
