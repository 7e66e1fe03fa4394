"""Scenes as jobs of Slurm, through submitit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.executors.scene_job import SceneJob, run_job

_SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True)
class SlurmOptions:
    """Jobs of `--executor slurm`."""

    slurm_partition: str | None = None
    """Partition; the cluster's default when not given."""
    slurm_account: str | None = None
    """Account to charge."""
    slurm_minutes: int = 120
    """Time limit of a scene. One that runs out of it is queued again and goes on where it was."""
    slurm_cpus: int = 8
    """CPU cores of a scene."""
    slurm_memory: int = 32
    """Gigabytes of memory of a scene."""
    slurm_at_once: int = 32
    """Scenes that run at once, at most."""


class RequeuedScene:
    """What a job does. Told that its time is up, or that others go first, it is queued again: runs resume."""

    def __call__(self, job: SceneJob) -> str | None:
        return run_job(job)

    def checkpoint(self, job: SceneJob) -> Any:
        """The job to queue in its place, as submitit asks for it."""
        import submitit  # type: ignore[import-not-found]

        return submitit.helpers.DelayedSubmission(self, job)


def run_on_slurm(
    jobs: Sequence[SceneJob], logs: Path, options: SlurmOptions, cluster: str | None = None
) -> Iterator[tuple[SceneJob, str | None]]:
    """Submits an array of jobs with a GPU each, and waits for them.

    Args:
        jobs: the scenes; their folders must be seen by all machines.
        logs: folder for submitit's own files.
        options: of the jobs.
        cluster: submitit's name of another executor than Slurm.

    Yields:
        Scenes as they end, with None or what is wrong in one line. If the iteration ends before, jobs are cancelled.

    Raises:
        InputError: submitit is not installed, or Slurm isn't there.
    """
    try:
        import submitit  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError("--executor slurm needs submitit; run `pip install 'instance-nerf[slurm]'`") from error
    try:
        executor = submitit.AutoExecutor(folder=str(logs), cluster=cluster or "slurm")
    except RuntimeError as error:
        raise InputError(f"--executor slurm: no Slurm on this machine ({error}); submit from a login node") from error
    executor.update_parameters(
        name="instance-nerf",
        timeout_min=options.slurm_minutes,
        gpus_per_node=1,
        tasks_per_node=1,
        cpus_per_task=options.slurm_cpus,
        mem_gb=options.slurm_memory,
        slurm_array_parallelism=options.slurm_at_once,
        **{
            name: value
            for name, value in (("slurm_partition", options.slurm_partition), ("slurm_account", options.slurm_account))
            if value is not None
        },
    )
    submitted = dict(zip(executor.map_array(RequeuedScene(), jobs), jobs, strict=True))
    try:
        while submitted:
            for handle in [handle for handle in submitted if handle.done()]:
                error = handle.exception()
                job = submitted.pop(handle)
                if error is not None:
                    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                    yield job, f"{job.name}: job {handle.job_id} failed ({reason}); see {logs}"
                else:
                    yield job, handle.result()
            if submitted:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        for handle in submitted:
            handle.cancel()
