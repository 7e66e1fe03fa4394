"""The one way in which the plugin launches its Triton kernels: run on a GPU, noted where tensors have no memory."""

from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """A launch that was noted, not run."""

    kernel: Any
    """The kernel, of `triton.jit`."""
    arguments: tuple[Any, ...]
    """Tensors on the meta device, and numbers."""
    constants: dict[str, Any]
    """What the kernel is compiled for, and options of the compiler."""

    @property
    def variant(self) -> tuple[Any, ...]:
        """What Triton compiles anew for, or finer: types, alignment, and numbers that are 1 or divisible by 16."""

        def kind(argument: Any) -> tuple[Any, ...]:
            if isinstance(argument, Tensor):
                return argument.dtype, argument.data_ptr() % 16 == 0
            if isinstance(argument, int):
                return argument == 1, argument % 16 == 0, -(2**31) <= argument < 2**31
            return (type(argument),)

        return self.kernel, *map(kind, self.arguments), *self.constants.items()


_awaited: dict[tuple[Any, ...], Future[None]] = {}
_noted: ContextVar[list[Launch] | None] = ContextVar("noted launches", default=None)


def takes_kernels(tensor: Tensor) -> bool:
    """Whether kernels run where `tensor` lies; on the meta device their launches can be noted."""
    return tensor.is_cuda or tensor.is_meta


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launches a kernel on the device of its first argument, a tensor, in the current stream.

    On the meta device nothing runs: what the kernel would write has no content there either.
    """
    if arguments[0].is_meta:
        noted = _noted.get()
        if noted is not None:
            noted.append(Launch(kernel, arguments, constants))
        return
    if _awaited:
        future = _awaited.get(Launch(kernel, arguments, constants).variant)
        if future is not None:
            wait([future])
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants)


def awaited(variant: tuple[Any, ...], compiled: Future[None]) -> None:
    """Lets launches of this variant wait until `compiled` is done, with or without success."""
    _awaited[variant] = compiled
    compiled.add_done_callback(lambda _: _awaited.pop(variant, None))


@contextmanager
def noted_launches() -> Iterator[list[Launch]]:
    """While open, the list gets this thread's launches on the meta device."""
    launches: list[Launch] = []
    token = _noted.set(launches)
    try:
        yield launches
    finally:
        _noted.reset(token)
