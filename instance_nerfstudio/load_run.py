"""Opens a trained run, wherever its folder and its photos are now."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

from instance_nerfstudio.compat import lpips_without_download
from instance_nerfstudio.frozen_field.radiance_checkpoint import find_checkpoint
from instance_nerfstudio.labelled_scene import MaskOptions


def load_run(
    load_config: Path,
    eval_num_rays_per_chunk: int | None = None,
    update: Callable[[TrainerConfig], object] = lambda config: None,
) -> Any:
    """The pipeline of a run, in evaluation mode; images stay on the disk, cameras of both splits are there.

    Args:
        load_config: config.yml of the run.
        eval_num_rays_per_chunk: rays rendered at once, if not as configured for the run.
        update: changes the configuration before anything is made from it.

    Raises:
        InputError: no such file, or no checkpoint there.
    """
    find_checkpoint(load_config)  # nerfstudio's own message does not say what to do

    from nerfstudio.utils.eval_utils import eval_setup  # loads every method: not before the options are known right

    def here(config: TrainerConfig) -> TrainerConfig:
        run = load_config.resolve().parent
        if (run / config.relative_model_dir).is_dir() and run.name == config.timestamp:
            config.output_dir = run.parents[2]
            config.experiment_name, config.method_name = run.parents[1].name, run.parent.name
        update(config)
        if not isinstance(config.pipeline.datamanager, MaskOptions):  # another method's, which asks for LPIPS
            stack.enter_context(lpips_without_download())
        return config

    with ExitStack() as stack:
        return eval_setup(load_config, eval_num_rays_per_chunk, test_mode="inference", update_config_callback=here)[1]
