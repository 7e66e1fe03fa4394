"""`instance-nerf lift-splats`: a run of splats, with or without instances, becomes one whose instances are lifted."""

from copy import deepcopy
from dataclasses import fields
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
import yaml
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import Progress

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.atomic_folder import atomic_folder
from instance_nerfstudio.frozen_field.radiance_checkpoint import find_checkpoint, read_state
from instance_nerfstudio.hushed_console import hushed_console
from instance_nerfstudio.method_config import instance_splatfacto
from instance_nerfstudio.splats.instance_splatfacto import InstanceSplatfactoModelConfig
from instance_nerfstudio.splats.lift import held_out_miou, lift
from instance_nerfstudio.splats.rasterize import Rasterizer
from instance_nerfstudio.splats.splat_datamanager import SplatDataManagerConfig
from instance_nerfstudio.splats.splat_pipeline import SplatPipeline, SplatPipelineConfig
from instance_nerfstudio.splats.splat_trainer import SplatTrainerConfig


def lift_splats(
    load_config: Path, masks_dir: Path | None = None, rasterizer: Rasterizer | None = None, device: str | None = None
) -> Path:
    """Writes a run of `instance-splatfacto` beside the given one, with its Gaussians and lifted instances.

    Args:
        load_config: config.yml of a run of `splatfacto` or `instance-splatfacto`.
        masks_dir: folder of the masks; those of the run, or of its scene, when None.
        rasterizer: as in the options of `instance-splatfacto`; the run's own, or gsplat, when None.
        device: torch device; a GPU if there is one when None.

    Returns:
        config.yml of the new run.

    Raises:
        InputError: no such run, or unusable masks.
    """
    checkpoint = find_checkpoint(load_config)
    state, old = read_state(checkpoint), _read_config(load_config)
    step = int(checkpoint.stem.removeprefix("step-"))
    trained = "_model.instance_head.instance_ids" in state
    config = splat_config(old)
    config.output_dir, config.experiment_name = load_config.resolve().parents[3], load_config.resolve().parents[2].name
    config.set_timestamp()
    started, again = config.timestamp, count(2)
    while config.get_base_dir().exists():  # within the same second
        config.timestamp = f"{started}-{next(again)}"
    datamanager = cast(SplatDataManagerConfig, config.pipeline.datamanager)
    if rasterizer is not None:
        cast(InstanceSplatfactoModelConfig, config.pipeline.model).rasterizer = rasterizer
    if masks_dir is not None:
        datamanager.masks_dir = masks_dir
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with hushed_console():
        pipeline: SplatPipeline = config.pipeline.setup(device=device, test_mode="val")
    ids = pipeline.model.instance_head.instance_ids.clone()
    pipeline.load_pipeline(state, step)
    pipeline.eval()
    if trained and not torch.equal(pipeline.model.instance_head.instance_ids, ids):
        raise InputError(
            f"{load_config}: its instances are not those of the masks; lift onto a run of plain splatfacto, or name "
            "the masks that it was trained with: --masks-dir"
        )
    earlier = held_out_miou(pipeline) if trained else None
    with Progress(transient=True, console=CONSOLE) as progress:
        pipeline.datamanager.cached_train  # noqa: B018 - reads the photos, whose time is not the lifting's
        start = perf_counter()
        lifted = lift(pipeline, progress)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = perf_counter() - start
    lifted.put_into(pipeline.model)
    pipeline.calibrate()
    run = _save(config, pipeline, step)
    assigned = int((lifted.classes >= 0).sum())
    CONSOLE.print(
        f"[bold green]:white_check_mark: {assigned} of {len(lifted.classes)} Gaussians belong to {len(ids) - 1} "
        f"instances or the background, lifted in {seconds:.1f} s: {run}",
        soft_wrap=True,
    )
    found = held_out_miou(pipeline)
    if found is not None:
        text = f"Instance mIoU of the held-out views: {found:.3f} lifted"
        if earlier is not None:
            text += f", {earlier:.3f} of the run it was lifted onto"
        CONSOLE.print(f"{text}.", soft_wrap=True)
    return run


def splat_config(old: TrainerConfig) -> SplatTrainerConfig:
    """`instance-splatfacto` with the data and the options of a run of `splatfacto` or `instance-splatfacto`.

    Raises:
        InputError: another method's.
    """
    model, datamanager = old.pipeline.model, old.pipeline.datamanager
    if not (isinstance(model, SplatfactoModelConfig) and isinstance(datamanager, FullImageDatamanagerConfig)):
        raise InputError(f"{old.method_name}: has no splats; give a run of splatfacto or instance-splatfacto")
    config = cast(SplatTrainerConfig, deepcopy(instance_splatfacto.config))
    pipeline = cast(SplatPipelineConfig, config.pipeline)
    pipeline.model = _adopt(pipeline.model, model, (SplatfactoModelConfig, InstanceSplatfactoModelConfig))
    pipeline.datamanager = _adopt(
        pipeline.datamanager, datamanager, (FullImageDatamanagerConfig, SplatDataManagerConfig)
    )
    pipeline.model.use_instances = True
    config.data = old.data
    config.max_num_iterations = old.max_num_iterations
    return config


def _adopt(own: Any, theirs: Any, kinds: tuple[type, ...]) -> Any:
    """Takes over the options that both have, of the classes that are named."""
    adopted = deepcopy(own)
    for kind in kinds:
        if isinstance(theirs, kind):
            for option in fields(kind):  # type: ignore[arg-type]
                if option.name != "_target" and hasattr(theirs, option.name):
                    setattr(adopted, option.name, deepcopy(getattr(theirs, option.name)))
    return adopted


def _read_config(load_config: Path) -> TrainerConfig:
    try:
        config = yaml.load(load_config.read_text(), Loader=yaml.Loader)
    except (yaml.YAMLError, AttributeError, ImportError) as error:
        raise InputError(f"{load_config}: not a nerfstudio config.yml ({str(error).splitlines()[0]})") from error
    if not isinstance(config, TrainerConfig):
        raise InputError(f"{load_config}: not a nerfstudio config.yml")
    return config


def _save(config: SplatTrainerConfig, pipeline: SplatPipeline, step: int) -> Path:
    """A run as training leaves it, whole or not at all; returns its config.yml."""
    run = config.get_base_dir()
    with atomic_folder(run) as partial:
        models = partial / config.relative_model_dir
        models.mkdir(parents=True)
        content = {"step": step, "pipeline": pipeline.state_dict(), "optimizers": {}, "schedulers": {}, "scalers": {}}
        torch.save(content, models / f"step-{step:09d}.ckpt")
        pipeline.datamanager.train_dataparser_outputs.save_dataparser_transform(partial / "dataparser_transforms.json")
        (partial / "config.yml").write_text(yaml.dump(config))
    return run / "config.yml"
