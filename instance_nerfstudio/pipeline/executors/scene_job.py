"""The run of one of several scenes, as every executor takes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.options import SceneOptions

LOG_FILE = "log.txt"


@dataclass(frozen=True)
class SceneJob:
    """A scene and where its run goes. Plain values alone: schedulers copy it to other machines."""

    name: str
    folder: Path
    options: str
    """`SceneOptions` as JSON."""


def run_job(job: SceneJob) -> str | None:
    """Runs the scene in this process, its terminal lines in `log.txt` of its folder.

    Returns:
        None, or what is wrong in one line: exceptions don't travel well between machines.
    """
    from instance_nerfstudio.pipeline.run_scene import run_scene  # where the scene runs, not where it is sent from

    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / LOG_FILE).open("a", encoding="utf-8", buffering=1) as log:
        console = Console(file=log, width=120)
        try:
            run_scene(SceneOptions.from_json(job.options, job.name), job.folder, console)
        except InputError as error:
            console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
            return str(error)
        except Exception as error:
            console.print_exception()
            reason = (str(error) or type(error).__name__).splitlines()[0]
            return f"{job.name}: failed ({type(error).__name__}: {reason}); see {job.folder / LOG_FILE}"
    return None
