"""Work that runs beside the rest of a training step on the GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class SideStream:
    """A second CUDA stream, inside a recording as well as outside; on a CPU everything runs in order.

    What runs inside of `aside` goes on where the main stream was at the first `aside`, knows nothing of what comes
    there later, and is waited for by `join`. Backward passes run where their forward passes ran.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._inputs: list[Any] = []
        self._forked = False

    @contextmanager
    def aside(self, *inputs: Any) -> Iterator[None]:
        """While open, work is issued beside the main stream.

        Args:
            inputs: tensors of the main stream that are read aside, or what holds them. They are kept until `join`: the
                main stream would give their memory to others as soon as they are dropped.
        """
        self._inputs += inputs
        if self._stream is None:
            yield
            return
        if not self._forked:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            self._forked = True
        with torch.cuda.stream(self._stream):
            yield

    def mark(self) -> Any:
        """The point that the work aside has reached, for `wait_for`."""
        return None if self._stream is None or not self._forked else self._stream.record_event()

    def wait_for(self, mark: Any) -> None:
        """Lets the main stream wait for that point only."""
        if mark is not None:
            assert self._stream is not None
            torch.cuda.current_stream(self._stream.device).wait_event(mark)

    def join(self) -> None:
        """Lets the main stream wait for everything that was issued aside."""
        if self._stream is not None and self._forked:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        self._forked = False
        self._inputs.clear()
