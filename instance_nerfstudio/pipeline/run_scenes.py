"""`instance-nerf run`: one scene in this process, or several by an executor."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.executors.scene_job import SceneJob
from instance_nerfstudio.pipeline.executors.slurm_jobs import SlurmOptions
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.scene_files import scene_files, scene_name

REPORT_FILE = "report.html"
Executor = Literal["local", "slurm", "ray"]


@dataclass(frozen=True)
class ExecutorOptions:
    """Who runs several scenes."""

    executor: Executor = "local"
    """`local`: one scene per visible GPU at a time; `slurm` and `ray`: a job or task with a GPU per scene."""
    slurm: tyro.conf.OmitArgPrefixes[SlurmOptions] = field(default_factory=SlurmOptions)
    ray_address: str | None = None
    """Ray cluster; RAY_ADDRESS, else this machine alone, when not given."""


def run_folders(scenes: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The run folder of each scene, `out/<name of the scene>`.

    Raises:
        InputError: no scenes, one that is none, or two of one name.
    """
    if not scenes:
        raise InputError("--data is missing; give folders with transforms.json")
    folders: dict[Path, Path] = {}
    for scene in scenes:
        scene_files(scene)
        folder = out / scene_name(scene)
        other = next((known for known, taken in folders.items() if taken == folder and known != scene), None)
        if other is not None:
            raise InputError(f"{scene}: has the name of {other}; rename one, or run it with another --out")
        folders[scene] = folder
    return folders


def run_scenes(
    scenes: Sequence[Path], out: Path, options: SceneOptions, executor: ExecutorOptions, console: Console
) -> list[str]:
    """Runs scenes, and names those that fail without stopping the others.

    Args:
        scenes: folders of photos.
        out: gets a run folder for each.
        options: of all; `data` is replaced by the scene.
        executor: who runs them; a single scene runs in this process with `local`.
        console: gets a line per event.

    Returns:
        What went wrong, a line for each scene.

    Raises:
        InputError: of the only scene; or scenes, options or executor are unusable.
    """
    folders = run_folders(scenes, out)
    if len(folders) == 1 and executor.executor == "local":
        from instance_nerfstudio.pipeline.run_scene import run_scene

        ((scene, folder),) = folders.items()
        run_scene(replace(options, data=scene), folder, console)
        console.print(f"{folder / 'report' / REPORT_FILE}", soft_wrap=True, highlight=False)
        return []
    jobs = [
        SceneJob(folder.name, folder.absolute(), replace(options, data=scene).to_json())
        for scene, folder in folders.items()
    ]
    failures = []
    for job, failure in _run(jobs, out, executor, console):
        if failure is not None:
            failures.append(failure)
            console.print(f"error: {failure}", style="red", markup=False, highlight=False, soft_wrap=True)
        else:
            report = job.folder / "report" / REPORT_FILE
            console.print(f"✓ {job.name}  {report}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(jobs) - len(failures)} of {len(jobs)} scenes done; `instance-nerf status {out}` shows more")
    return failures


def exit_with_failures(failures: Sequence[str]) -> None:
    """Exit status 1 when a scene failed; each was named already."""
    if failures:
        sys.exit(f"error: {len(failures)} scene(s) failed; correct them and give the same command again")


def _run(
    jobs: Sequence[SceneJob], out: Path, executor: ExecutorOptions, console: Console
) -> Iterator[tuple[SceneJob, str | None]]:
    if executor.executor == "slurm":
        from instance_nerfstudio.pipeline.executors.slurm_jobs import run_on_slurm

        return run_on_slurm(jobs, (out / "slurm").absolute(), executor.slurm)
    if executor.executor == "ray":
        from instance_nerfstudio.pipeline.executors.ray_tasks import run_on_ray

        return run_on_ray(jobs, executor.ray_address)
    from instance_nerfstudio.pipeline.executors.local_processes import run_locally, visible_gpus

    def say(job: SceneJob, device: str) -> None:
        where = f"GPU {device}" if device else "CPU"
        console.print(f"  {job.name} on {where}, log in {job.folder / 'log.txt'}", style="dim", soft_wrap=True)

    return run_locally(jobs, visible_gpus() or [""], say)
