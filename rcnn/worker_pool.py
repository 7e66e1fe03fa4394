"""Worker processes that start clean."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from threading import Thread
from typing import Any


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_pool(
    num_workers: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Processes that run `initializer(*initargs)` first, importable by name with arguments that can be pickled.

    They are spawned and not forked: a fork copies the locks of OpenCV's, Embree's and OpenMP's threads but not the
    threads, and whoever waits for one of them waits for ever. A script that comes here needs
    `if __name__ == "__main__":`. Ctrl-C reaches the whole process group; here the parent alone decides what it means.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(num_workers, context, initializer=_start, initargs=(initializer, initargs))


def _start(initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    if initializer is not None:
        initializer(*initargs)


def preloading_context(module: str) -> BaseContext:
    """For workers that load the same large packages: they are forked from a clean process that has imported `module`.

    Give them `end_with_parent` too: they are no children of who asks for them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def end_with_parent(*_: object) -> None:
    """Called in a worker process: it ends when its parent does, also when that is killed and can tell nobody.

    Takes what `worker_init_fn` of a `DataLoader` is given.
    """
    Thread(target=_outlive_nobody, daemon=True).start()


def _outlive_nobody() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)
