"""Many independent jobs in worker processes, with a progress bar and errors in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rcnn.errors import InputError
from rcnn.worker_pool import core_count, worker_pool

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    title: str, work: Callable[[Job], Result], jobs: Sequence[Job], num_workers: int | None = None
) -> list[Result]:
    """`work` of every job, in their order; in this process when there is one job or one worker.

    Args:
        title: beside the progress bar.
        work: importable by name; what comes and goes can be pickled.
        jobs: its arguments.
        num_workers: processes; one per core when None.

    Raises:
        InputError: fewer than one worker, a process died, the disk is full, or a job raised it: jobs that wait are
            dropped.
    """
    check_num_workers(num_workers)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # a process per core is enough; NumPy reads this when it is imported
    workers = min(num_workers or core_count(), len(jobs))
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    results: dict[int, Result] = {}
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(title, total=len(jobs))
            done = _here(work, jobs) if workers <= 1 else _in_pool(work, jobs, workers)
            for number, result in done:
                results[number] = result
                progress.advance(task)
    except BrokenProcessPool:
        raise InputError(
            f"{title}: a process died (out of memory?); run again with fewer --num-workers, what is finished is kept"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(f"{title}: the disk is full; make room and run again, what is finished is kept") from None
        raise
    return [results[number] for number in range(len(jobs))]


def check_num_workers(num_workers: int | None) -> None:
    """Raises InputError for fewer than one; for commands that write something before :func:`run_jobs` does it."""
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--num-workers must be at least 1, got {num_workers}")


def _here(work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
    for number, job in enumerate(jobs):
        yield number, work(job)


def _in_pool(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Result]]:
    executor = worker_pool(workers, _start)
    try:
        numbers: dict[Future[Result], int] = {executor.submit(work, job): n for n, job in enumerate(jobs)}
        waiting = set(numbers)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield numbers[future], future.result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    import cv2

    cv2.setNumThreads(1)
