"""A process per device, each of which takes the next piece of work when it is done with one."""

import multiprocessing
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")


def run_on_devices(
    function: Callable[[Item], Any], items: Sequence[Item], devices: Sequence[str]
) -> Iterator[tuple[Item, Any]]:
    """Calls a function once for each item, on as many devices at once as there are.

    A process sees its own GPU alone, as its first: nerfstudio trains on the first that it sees. It lives as long as
    there is work, so that what it imports is imported once.

    Args:
        function: picklable; loaded anew in every process.
        items: picklable.
        devices: torch devices, e.g. `cuda:0 cuda:1`, or `cpu`.

    Yields:
        Items as they are done, with the function's result, or the exception that it ended with.
    """
    pools = [_pool_on(name) for name in devices]
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Item, Any]] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)

    def work(pool: ProcessPoolExecutor) -> None:
        while True:
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((item, pool.submit(function, item).result()))
            except Exception as error:  # also of a process that was killed
                done.put((item, error))

    try:
        with ThreadPoolExecutor(len(pools)) as threads:
            for pool in pools:
                threads.submit(work, pool)
            try:
                for _ in items:
                    yield done.get()
            finally:
                while not waiting.empty():  # interrupted: nothing new is begun
                    waiting.get()
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _pool_on(name: str) -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))  # CUDA does not survive a fork
    kind, _, number = name.partition(":")
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if kind == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = before.split(",")[int(number or 0)] if before else number or "0"
    try:
        pool.submit(os.getpid)  # starts the process, with this environment
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return pool
