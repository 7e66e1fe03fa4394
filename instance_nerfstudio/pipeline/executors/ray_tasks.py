"""Scenes as tasks of Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.executors.scene_job import SceneJob, run_job

_RETRIES = 3


def run_on_ray(jobs: Sequence[SceneJob], address: str | None = None) -> Iterator[tuple[SceneJob, str | None]]:
    """Runs every scene as a task with a GPU, where the cluster has any.

    Args:
        jobs: the scenes; their folders must be seen by all machines.
        address: of the cluster; RAY_ADDRESS, else this machine alone, when None.

    Yields:
        Scenes as they end, with None or what is wrong in one line. If the iteration ends before, tasks are cancelled.

    Raises:
        InputError: Ray is not installed, or the cluster isn't there.
    """
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError("--executor ray needs Ray; run `pip install 'instance-nerf[ray]'`") from error
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except ConnectionError as error:
        raise InputError(f"--ray-address {address}: no cluster there ({error}); start one with `ray start`") from error
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    # A process per scene: memory of the last one is free. One that dies is begun again, and goes on where it was.
    task = ray.remote(num_gpus=gpus, max_calls=1, max_retries=_RETRIES)(run_job)
    waiting = {task.remote(job): job for job in jobs}
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for reference in ready:
                job = waiting.pop(reference)
                try:
                    yield job, ray.get(reference)
                except ray.exceptions.RayError as error:
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    yield job, f"{job.name}: task failed ({reason}); see {job.folder}"
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
