"""A field of a run folder for the stages that look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

from instance_nerfstudio.hushed_console import hushed_console
from instance_nerfstudio.load_run import load_run


def open_field(load_config: Path, data: Path, masks_dir: Path | None = None) -> Any:
    """The pipeline of a run, in evaluation mode, over the photos where they are now.

    Args:
        load_config: config.yml of the run.
        data: the scene.
        masks_dir: instance masks of the field; the run's own when None.
    """

    def here(config: TrainerConfig) -> None:
        datamanager: Any = config.pipeline.datamanager
        config.data = datamanager.data = datamanager.dataparser.data = data
        if masks_dir is not None:
            datamanager.masks_dir = masks_dir

    with hushed_console():
        return load_run(load_config, update=here)
