"""Compiles Triton kernels in threads, all at once.

Triton compiles one after the other, each when it is first launched. But it needs the interpreter for little of that.
"""

from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread, main_thread

import torch

from instance_nerfstudio.kernel_launch import Launch, awaited
from rcnn.worker_pool import core_count


def compile_in_threads(launches: Iterable[Launch], device: torch.device) -> "list[Future[None]]":
    """Compiles and loads a kernel for each variant among `launches`, in their order; returns at once."""
    work: SimpleQueue[tuple[Launch, Future[None]]] = SimpleQueue()
    futures = []
    for variant, launch in {launch.variant: launch for launch in launches}.items():
        future: Future[None] = Future()
        awaited(variant, future)
        work.put((launch, future))
        futures.append(future)
    # No `ThreadPoolExecutor`: a process that ends, of bad input say, would wait until all is compiled.
    try:
        for _ in range(min(core_count(), work.qsize())):
            Thread(target=_compile_all, args=(work, device), name="compile").start()
    except RuntimeError:  # no more threads: what waits is left to the first launch
        with suppress(Empty):
            while True:
                work.get_nowait()[1].cancel()
    return futures


def _compile_all(work: "SimpleQueue[tuple[Launch, Future[None]]]", device: torch.device) -> None:
    with suppress(Empty):
        while True:
            launch, future = work.get_nowait()
            try:
                _compile(launch, device)
            except BaseException as error:  # of whatever kind: the launch will raise it again
                future.set_exception(error)
            else:
                future.set_result(None)


def _compile(launch: Launch, device: torch.device) -> None:
    if not main_thread().is_alive():  # the process ends, and waits for this thread
        return
    with torch.cuda.device(device):
        kernel = launch.kernel.warmup(*launch.arguments, grid=(1,), **launch.constants)
        kernel[(1, 1, 1)]  # builds and loads what launches it
