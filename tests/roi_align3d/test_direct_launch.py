"""Which launches of a kernel reuse the compiled one, with a recorder for the kernel."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
from triton.compiler import CompiledKernel

from roi_align3d.kernels.direct_launch import DirectLaunch


class Compiled(CompiledKernel):
    """Of no source; records its launches."""

    def __init__(self, calls: list) -> None:
        self.calls = calls
        self.module = None

    def __getitem__(self, grid: Any) -> Callable:
        return lambda *args, **options: self.calls.append(("direct", grid, args, options))


class Kernel:
    """Returns a compiled kernel from every launch, as Triton does."""

    def __init__(self, result: Callable[[list], Any] = Compiled) -> None:
        self.calls: list = []
        self.result = result

    def __getitem__(self, grid: Any) -> Callable:
        def launch(*args: Any, **options: Any) -> Any:
            self.calls.append(("ordinary", grid, args, options))
            return self.result(self.calls)

        return launch


OUT, ROIS, LEVEL = torch.zeros(64), torch.zeros(8), torch.zeros(64)
TABLE = (2.0, 2.0, 2.0, 1.0, 0.0)


def launch(
    direct: DirectLaunch, out: Tensor = OUT, rois: Tensor = ROIS, levels: tuple[Tensor, ...] = (LEVEL,),
    batches: int = 1, constants: tuple = (8, 1), num_warps: int = 1,
    maxnreg: int | None = None,
) -> None:  # fmt: skip
    direct((3, 1, 1), (out, rois), levels, TABLE * len(levels), batches, constants, num_warps, maxnreg)


def test_second_launch_passes_the_same_arguments() -> None:
    kernel = Kernel()
    direct = DirectLaunch(kernel)
    launch(direct)
    launch(direct, batches=5)
    (kind, grid, args, options), (second, second_grid, second_args, second_options) = kernel.calls
    assert (kind, second) == ("ordinary", "direct")
    assert grid == second_grid == (3, 1, 1)
    assert options == {"num_warps": 1, "enable_fp_fusion": False}
    assert second_options == {}
    assert args[2][0] is LEVEL
    assert args[3:] == (TABLE, 1, 8, 1)
    assert second_args == (OUT.data_ptr(), ROIS.data_ptr(), (LEVEL.data_ptr(),), TABLE, 5, 8, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"out": OUT.half()},
        {"rois": ROIS.half()},
        {"levels": (LEVEL.half(),)},
        {"out": OUT[1:]},
        {"rois": ROIS[1:]},
        {"levels": (LEVEL[1:],)},
        {"levels": (LEVEL, LEVEL), "constants": (8, 2)},
        {"constants": (9, 1)},
        {"num_warps": 2},
        {"maxnreg": 128},
        {"batches": 2**31},
    ],
)
def test_other_arguments_are_compiled_for(other: dict[str, Any]) -> None:
    kernel = Kernel()
    direct = DirectLaunch(kernel)
    for arguments in ({}, other, {}, other):
        launch(direct, **arguments)
    assert [call[0] for call in kernel.calls] == ["ordinary", "ordinary", "direct", "direct"]


def test_registers_can_be_limited() -> None:
    kernel = Kernel()
    launch(DirectLaunch(kernel), maxnreg=128)
    assert kernel.calls[0][3]["maxnreg"] == 128


def test_nothing_compiled_is_launched_as_always() -> None:
    kernel = Kernel(lambda calls: None)
    direct = DirectLaunch(kernel)
    launch(direct)
    launch(direct)
    assert [call[0] for call in kernel.calls] == ["ordinary", "ordinary"]
