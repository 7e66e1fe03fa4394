"""`radiance`: the field that all later stages look at, trained here or taken from elsewhere."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline.fingerprints import FileSet, Fingerprints
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.run_folder import HASHES_FILE
from instance_nerfstudio.pipeline.scene_files import scene_files
from instance_nerfstudio.pipeline.stage import Stage, StageContext


def radiance_stage(options: SceneOptions) -> Stage:
    """Trains a radiance field, or refers to a trained one."""
    given, inputs = options.radiance.radiance, {"data": scene_files(options.data)}
    if given is not None:
        inputs["radiance"] = _files_of(given)
    return Stage(
        name="radiance",
        run=partial(_refer if given is not None else _train, options),
        options={"radiance_iterations": options.radiance.radiance_iterations, "method": options.radiance.method},
        inputs=inputs,
        products=("**/step-*.ckpt", "**/dataparser_transforms.json", "radiance.json"),
        resumable=True,
    )


def radiance_config(context: StageContext) -> Path:
    """config.yml of the radiance field, for a later stage."""
    return context.output("radiance") / context.result("radiance")["config"]  # absolute if it is from elsewhere


def _files_of(run: Path) -> FileSet:
    folder = run.parent if run.is_file() else run
    kept = ("config.yml", "dataparser_transforms.json")
    checkpoints = (path.relative_to(folder).as_posix() for path in folder.glob("nerfstudio_models/step-*.ckpt"))
    return FileSet(folder, (*kept, *checkpoints))


def _refer(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    from instance_nerfstudio.frozen_field.radiance_checkpoint import find_checkpoint
    from rcnn.safe_files import write_json

    given = options.radiance.radiance
    assert given is not None
    config = given if given.suffix == ".yml" else given / "config.yml"
    if not config.is_file():
        raise InputError(f"{config}: no such file; give the folder of a nerfacto run with --radiance")
    checkpoint = find_checkpoint(config)
    found = re.search(r"^method_name: (\S+)$", config.read_text(encoding="utf-8"), re.M)
    method = _method(options, found[1] if found else "")
    held = Fingerprints(context.target.parent / HASHES_FILE).file(checkpoint)
    note = {"config": str(config.absolute()), "checkpoint": checkpoint.name, "fingerprint": held}
    write_json(context.work / "radiance.json", note)  # later stages see by it whether the field has changed
    return {"config": str(config.absolute()), "method": method, "summary": f"of {config.parent}"}


def _method(options: SceneOptions, trained_with: str = "") -> str:
    """The method for this machine, or with the sizes of a given field."""
    import torch

    if options.radiance.method != "auto":
        return options.radiance.method
    small = trained_with == "instance-nerfacto-cpu" or (not trained_with and not torch.cuda.is_available())
    return "instance-nerfacto-cpu" if small else "instance-nerfacto"


def _train(options: SceneOptions, context: StageContext) -> dict[str, Any]:
    from dataclasses import replace

    from instance_nerfstudio.training import held_out_psnr, train_into, training_config

    method = _method(options)
    config = training_config(method, options.data, options.radiance.radiance_iterations)
    config.pipeline.model = replace(config.pipeline.model, use_instances=False)
    config.steps_per_save = max(1, min(2000, config.max_num_iterations // 5))
    trainer, seconds = train_into(context.work, context.target, config, context.progress)
    psnr = held_out_psnr(trainer.pipeline)
    run = trainer.base_dir.relative_to(context.work)
    held_out = "" if math.isnan(psnr) else f", {psnr:.1f} dB on held-out views"
    return {
        "config": (run / "config.yml").as_posix(),
        "method": method,
        "iterations": config.max_num_iterations,
        "psnr": None if math.isnan(psnr) else round(psnr, 3),
        "training_seconds": round(seconds, 2),
        "summary": f"{method}, {config.max_num_iterations} iterations{held_out}",
    }
