"""The run of one scene, in this process. `python -m` runs it in a process of its own, for those that run many."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from rich.console import Console

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.failures import exit_interrupted, full_disk_is_one_line, termination_unwinds
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.run_folder import lock_run_folder
from instance_nerfstudio.pipeline.run_stages import run_stages
from instance_nerfstudio.pipeline.scene_stages import scene_stages
from instance_nerfstudio.pipeline.stage import StageRecord


def run_scene(
    options: SceneOptions, folder: Path, console: Console | None = None, only: str | None = None
) -> dict[str, StageRecord]:
    """Runs the stages of a scene that are not done.

    Args:
        options: what is wanted; kept in the folder.
        folder: the run folder; made if need be.
        console: gets a line per stage.
        only: the single stage to run.

    Raises:
        InputError: the scene or an option is unusable, another process works in the folder, or the disk is full.
    """
    warnings.filterwarnings("ignore")  # of libraries under us, about their own future
    console = console or Console()
    folder = folder.absolute()
    options = SceneOptions.from_json(options.to_json(), "options")  # absolute paths: what is trained remembers them
    stages = scene_stages(options)  # before anything is written: it finds scenes that are none
    with lock_run_folder(folder) as lock, full_disk_is_one_line(folder):
        options.save(folder)
        return run_stages(stages, folder, lock, console, only)


def main() -> None:
    """`python -m instance_nerfstudio.pipeline.run_scene FOLDER OPTIONS`, with options as JSON."""
    folder, options = sys.argv[1:]
    try:
        with termination_unwinds():
            run_scene(SceneOptions.from_json(options, "options"), Path(folder))
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as error:
        exit_interrupted(error, ["instance-nerf", "run"])


if __name__ == "__main__":
    main()
