"""Pictures are compressed and written while the next ones are rendered."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

_THREADS = 4
_WAITING = 16


class WriteThreads:
    """Runs calls in a few threads; all have ended, and the first error has been raised, when the context ends.

    Few wait at a time, so that pictures do not pile up in memory where writing is slower than rendering.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS)
        self._pending: deque[Future[Any]] = deque()

    def __enter__(self) -> "WriteThreads":
        return self

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Leaves `call(*arguments)` to a thread."""
        while len(self._pending) >= _WAITING:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(call, *arguments))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._pending:
                future.result()
