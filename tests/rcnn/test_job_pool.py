"""Jobs: results in order, and errors in one line whether they happen here or in a worker."""

import errno
import os

import pytest

from rcnn.errors import InputError
from rcnn.job_pool import run_jobs


def _work(job: int) -> int:
    if job == -1:
        raise InputError("this one is bad")
    if job == -2:
        raise OSError(errno.ENOSPC, "No space left on device")
    if job == -3:
        os._exit(1)
    return job * job


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_order_and_errors_reach_the_caller(workers: int):
    assert run_jobs("Jobs", _work, [3, 1, 2], workers) == [9, 1, 4]
    with pytest.raises(InputError, match="this one is bad"):
        run_jobs("Jobs", _work, [1, -1], workers)
    with pytest.raises(InputError, match=r"Jobs: the disk is full; make room and run again"):
        run_jobs("Jobs", _work, [1, -2], workers)


def test_a_worker_that_dies_is_reported():
    with pytest.raises(InputError, match=r"Jobs: a process died \(out of memory\?\); run again with fewer"):
        run_jobs("Jobs", _work, [1, -3], 2)


@pytest.mark.parametrize("jobs", [[], [-3], [-3, -3]])
@pytest.mark.parametrize("workers", [0, -2])
def test_fewer_than_one_worker_are_refused_before_any_work(workers: int, jobs: list[int]):
    with pytest.raises(InputError, match=rf"^--num-workers must be at least 1, got {workers}$"):
        run_jobs("Jobs", _work, jobs, workers)
