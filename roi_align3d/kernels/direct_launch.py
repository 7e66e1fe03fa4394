"""Launches of compiled kernels that skip Triton's search for them, which takes longer than the launch itself."""
# Triton's compiled kernels and the interpreter's functions share no type.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from triton.compiler import CompiledKernel

_EXACT = {"enable_fp_fusion": False}  # see `geometry`


class DirectLaunch:
    """A kernel whose arguments are tensors, levels, their table, the number of grids, and constants.

    Triton binds and inspects every argument of every launch. What can differ between launches of these kernels is
    little, and the compiled kernel is looked up by that. Where there is none, Triton launches as always: the first
    time, in the interpreter, and on AMD, where it compiles for more than is looked at here.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._compiled: dict[tuple, CompiledKernel] = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: Sequence[Tensor],
        levels: Sequence[Tensor],
        table: tuple[float, ...],
        batches: int,
        constants: tuple,
        num_warps: int,
        maxnreg: int | None = None,
    ) -> None:
        """Launches on the tensors' device, in its current stream."""
        device = tensors[0].get_device()
        if device >= 0 and device != torch.cuda.current_device():
            with torch.cuda.device(device):
                return self(grid, tensors, levels, table, batches, constants, num_warps, maxnreg)
        addresses = [tensor.data_ptr() for tensor in tensors]
        level_addresses = tuple([level.data_ptr() for level in levels])
        # Triton compiles for types, addresses divisible by 16, and 64-bit integers where 32 bits do not suffice.
        key = (
            device, constants, num_warps, maxnreg, batches < 2**31, levels[0].dtype,
            *[tensor.dtype for tensor in tensors],
            *[address % 16 == 0 for address in addresses],
            *[address % 16 == 0 for address in level_addresses],
        )  # fmt: skip
        compiled = self._compiled.get(key)
        if compiled is not None:
            compiled[grid](*addresses, level_addresses, table, batches, *constants)
            return None
        options = _EXACT if maxnreg is None or torch.version.hip is not None else {**_EXACT, "maxnreg": maxnreg}
        compiled = self._kernel[grid](
            *tensors, tuple(levels), table, batches, *constants, num_warps=num_warps, **options
        )
        if isinstance(compiled, CompiledKernel) and torch.version.hip is None:
            self._compiled[key] = compiled
        return None
