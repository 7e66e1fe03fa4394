"""Gradient checkpointing: activations of a block are computed again in the backward pass instead of kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TypeVar, cast

import torch
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

_RECOMPUTING: ContextVar[bool] = ContextVar("recomputing", default=False)


def is_recomputing() -> bool:
    """Whether this is the second run of a block: it must not count again in running statistics."""
    return _RECOMPUTING.get()


def run_block(block: Callable[..., T], *args: object, checkpointing: bool) -> T:
    """`block(*args)`, keeping only its inputs for the backward pass if `checkpointing`."""
    if not (checkpointing and torch.is_grad_enabled()):
        return block(*args)
    return cast(T, checkpoint(block, *args, use_reentrant=False, context_fn=_contexts))


def _contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _recomputing()


@contextmanager
def _recomputing() -> Iterator[None]:
    token = _RECOMPUTING.set(True)
    try:
        yield
    finally:
        _RECOMPUTING.reset(token)
