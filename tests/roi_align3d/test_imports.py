"""The package alone: no nerfstudio, no Triton until a CUDA tensor comes along."""

import subprocess
import sys

PROGRAM = """
import sys
for blocked in ("nerfstudio", "instance_nerfstudio", "rcnn", "triton", "torchvision"):
    sys.modules[blocked] = None
import torch
import roi_align3d
from roi_align3d import operator
grid = torch.ones(1, 2, 4, 4, 4, requires_grad=True)
pooled = roi_align3d.roi_align_3d(grid, torch.tensor([[0.0, 1, 1, 1, 3, 3, 3]]), 2)
pooled.sum().backward()
assert pooled.eq(1).all()
assert "roi_align3d.kernels" not in sys.modules
assert operator._kernels() is None
print("works alone")
"""


def test_works_without_triton_and_nerfstudio() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert "works alone" in result.stdout, result.stderr[-2000:]
