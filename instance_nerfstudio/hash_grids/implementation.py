"""Which implementation of hash grids and MLPs a model gets: tiny-cuda-nn, Triton, or plain torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from instance_nerfstudio.hash_grids.tcnn_probe import tcnn_problem

Implementation = Literal["tcnn", "triton", "torch"]
"""tiny-cuda-nn for everything; hash grids in Triton and MLPs in torch; everything in torch."""
WantedImplementation = Literal["auto", "tcnn", "triton", "torch"]
"""`auto` is the first of the three that works on the device."""

_OLDEST_CAPABILITY = (7, 0)  # of Triton


def choose_implementation(wanted: WantedImplementation, device: torch.device | str) -> Implementation:
    """The wanted implementation, or the next one that works on `device`; then one line says why.

    `auto` on a CPU, or without tiny-cuda-nn, says nothing: there is nothing to mend.
    """
    device = torch.device(device)
    reasons = []
    chosen: Implementation = "torch"
    if wanted in ("auto", "tcnn"):
        problem = tcnn_problem(device)
        if problem is None:
            return "tcnn"
        if wanted == "tcnn" or (device.type == "cuda" and find_spec("tinycudann") is not None):
            reasons.append(problem)
    if wanted != "torch":
        problem = triton_problem(device)
        if problem is None:
            chosen = "triton"
        elif wanted == "triton" or device.type == "cuda":
            reasons.append(problem)
    if reasons:
        CONSOLE.print(f"{'; '.join(reasons)}. Using {chosen} instead.", markup=False, highlight=False, soft_wrap=True)
    return chosen


@contextmanager
def in_nerfstudios_terms(config: Any, implementation: Implementation) -> Iterator[None]:
    """While open, `config.implementation` is one of the two that nerfstudio's own classes know."""
    wanted = config.implementation
    config.implementation = nerfstudio_implementation(implementation)
    try:
        yield
    finally:
        config.implementation = wanted


def nerfstudio_implementation(implementation: Implementation) -> Literal["tcnn", "torch"]:
    """What nerfstudio's encodings and MLPs are built with; `use_hash_grids` then makes the grids Triton's."""
    return "tcnn" if implementation == "tcnn" else "torch"


@cache
def triton_problem(device: torch.device) -> str | None:
    """Why the Triton kernels can't be used on `device`, as part of a sentence; None if they can."""
    if device.type != "cuda":
        return "Triton needs a CUDA device"
    if find_spec("triton") is None:
        return "Triton is not installed (it comes with torch's CUDA builds for Linux)"
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_CAPABILITY:
        has, needs = (".".join(map(str, numbers)) for numbers in (capability, _OLDEST_CAPABILITY))
        return f"{torch.cuda.get_device_name(device)} has compute capability {has}, Triton needs {needs}"
    # Triton also needs a C compiler and Python's headers, in ways that change between releases: one launch tells.
    try:
        from instance_nerfstudio.hash_grids.hash_grid_triton import hash_encode

        hash_encode(torch.zeros(2, 2, device=device), torch.zeros(1, 3, device=device), torch.ones(1, device=device))
        torch.cuda.synchronize(device)
    except Exception as error:  # whatever a compiler, a linker or a driver can raise
        return f"Triton does not run here ({(str(error) or type(error).__name__).strip().splitlines()[0][:200]})"
    return None
