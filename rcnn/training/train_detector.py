"""One training run of a detector in a folder: checkpoints, TensorBoard, and the detector that comes out."""

from __future__ import annotations

import logging
import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from rcnn.data import AugmentationConfig, GridDataset
from rcnn.errors import InputError
from rcnn.roi_heads import FrozenPart, NeRFRCNNConfig
from rcnn.rpn import NeRFRPNConfig
from rcnn.safe_files import read_json, write_json
from rcnn.training.detector_module import DetectorModule, OptimizationConfig
from rcnn.training.grid_data import GridData
from rcnn.training.moving_average import MovingAverage
from rcnn.training.printed_scores import PrintedScores
from rcnn.training.progress_bar import ProgressBar
from rcnn.training.rcnn_module import RCNNModule
from rcnn.training.rpn_module import RPNModule
from rcnn.weights import DetectorNotes, config_to_json, initialize, save_detector

Precision = Literal["bf16-mixed", "16-mixed", "32-true"]


@dataclass(frozen=True)
class RunConfig:
    """How long, on what and how often."""

    out: Path
    """Folder of the run. A run that is there goes on where it stopped."""
    steps: int = 20_000
    """Batches."""
    batch_size: int = 4
    """Scenes of a step, of all GPUs together."""
    precision: Precision | None = None
    """bf16-mixed on GPUs and 32-true on CPUs when not given."""
    seed: int = 0
    """Of weights, order and augmentation."""
    devices: int | None = None
    """GPUs, or processes on a CPU, of each machine; all GPUs when not given. Under torchrun, what it says."""
    nodes: int = 1
    """Machines."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What to train on."""
    num_workers: int = 4
    """Processes that load scenes, for each training process; 0 loads them in the training process."""
    validate_every: int = 500
    """Steps between validations; the best detector is kept, by AP50 of boxes or, of NeRF-RCNN, of masks."""
    checkpoint_every: int = 200
    """Steps between checkpoints to resume from."""
    log_every: int = 10
    """Steps between entries for TensorBoard."""
    pictures: int = 4
    """Validation scenes that are drawn for TensorBoard."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "nodes", "validate_every", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.num_workers < 0:
            raise InputError(f"--num-workers must be at least 0, got {self.num_workers}")


@dataclass(frozen=True)
class Experiment:
    """What is learnt, and how."""

    model: NeRFRPNConfig | NeRFRCNNConfig = field(default_factory=NeRFRPNConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    augmentation: AugmentationConfig | None = field(default_factory=AugmentationConfig)


def train_rpn(
    run: RunConfig, experiment: Experiment, training: GridDataset, validation: GridDataset, data: dict[str, Any]
) -> Path:
    """Trains a NeRF-RPN, or goes on, and writes `detector.safetensors`, the best by AP50 on the validation scenes.

    Args:
        run: where, and how long.
        experiment: what; a run that is there must be of the same.
        training: scenes with augmentation.
        validation: scenes without.
        data: description of both, for the notes beside the weights.

    Returns:
        The detector.

    Raises:
        InputError: the folder holds another run, or a checkpoint in it is damaged.
        SystemExit: the run was told to stop; the message says from which step it will go on.
    """
    config = experiment.model
    assert isinstance(config, NeRFRPNConfig)

    def make() -> RPNModule:
        return RPNModule(config, experiment.optimization, run.steps, validation.categories, run.pictures)

    return _train(make, run, experiment, training, validation, data, {})


def train_rcnn(
    run: RunConfig,
    experiment: Experiment,
    training: GridDataset,
    validation: GridDataset,
    data: dict[str, Any],
    init: Path | None = None,
    freeze: FrozenPart = "none",
) -> Path:
    """:func:`train_rpn` for a NeRF-RCNN, the best by AP50 of masks.

    Args:
        run: as there.
        experiment: as there.
        training: scenes with masks; with proposals, where the RPN's head is not to be trained or used.
        validation: likewise.
        data: as there.
        init: weights of a NeRF-RPN or NeRF-RCNN to begin with.
        freeze: what of them does not learn.

    Raises:
        InputError: as there, or weights of another architecture.
        SystemExit: as there.
    """
    config = experiment.model
    assert isinstance(config, NeRFRCNNConfig)
    if training.proposals is not None and freeze == "none":
        freeze = "head"  # which nothing would teach

    def make() -> RCNNModule:
        module = RCNNModule(config, experiment.optimization, run.steps, run.pictures, freeze)
        if init is not None:
            initialize(module.model, init)
        return module

    proposals = None if training.proposals is None else str(training.proposals)
    origin = {"init": None if init is None else str(init), "freeze": freeze, "proposals": proposals}
    return _train(make, run, experiment, training, validation, data, origin)


def _train(
    make: Callable[[], DetectorModule],
    run: RunConfig,
    experiment: Experiment,
    training: GridDataset,
    validation: GridDataset,
    data: dict[str, Any],
    origin: dict[str, Any],
) -> Path:
    path = run.out / "detector.safetensors"
    _claim(run, experiment, data, origin)
    if path.is_file():
        return path
    _quieten()
    L.seed_everything(run.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")
    last = run.out / "checkpoints" / "last.ckpt"
    module, resumed = make(), _resumable(last)
    grids = GridData(training, validation, run.batch_size, run.steps, run.seed, run.num_workers)
    trainer = _trainer(run, experiment, module.judged_by)
    with warnings.catch_warnings():
        for hint in ("resuming from", "num_workers", "LeafSpec", "logging interval", "sync_dist", "Grad strides"):
            warnings.filterwarnings("ignore", message=f".*{hint}")
        try:
            trainer.fit(module, grids, ckpt_path=resumed, weights_only=True)
        except (SIGTERMException, SystemExit):  # the latter is Lightning's answer to an interrupt from the keyboard
            raise SystemExit(_farewell(trainer.global_step, last)) from None
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning tidies up loaders that had not begun
                raise SystemExit(_farewell(trainer.global_step, last)) from None
            raise
    if trainer.is_global_zero:
        _export(path, run.out / "checkpoints" / "best.ckpt", run, experiment, training, data, origin)
    trainer.strategy.barrier()
    return path


def _farewell(step: int, last: Path) -> str:
    kept = 0
    if last.is_file():
        kept = int(torch.load(last, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    return f"stopped at step {step}; the same command goes on from step {kept}"


def _resumable(path: Path) -> str | None:
    """The checkpoint to go on from, if there is one."""
    if not path.is_file():
        return None
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # looks at all of it but the numbers
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: is damaged; delete it to begin this run again, or copy it again") from error
    return str(path)


class _ToGoOnFrom(ModelCheckpoint):
    """Not of the last step: a run that ends in the validation after it would go on behind that, without its scores."""

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        if trainer.global_step < trainer.max_steps:
            super().on_train_batch_end(trainer, *arguments)


def _trainer(run: RunConfig, experiment: Experiment, judged_by: str) -> L.Trainer:
    gpu = run.accelerator == "gpu" or (run.accelerator == "auto" and torch.cuda.is_available())
    devices = run.devices or ("auto" if gpu else 1)
    several = run.nodes > 1 or devices not in (1, "auto") or (gpu and torch.cuda.device_count() > 1)
    once: dict[str, Any] = {"save_top_k": 1, "enable_version_counter": False}
    callbacks: list[Any] = [
        _ToGoOnFrom(run.out / "checkpoints", "last", every_n_train_steps=run.checkpoint_every, **once),
        ModelCheckpoint(run.out / "checkpoints", "best", monitor=f"val/{judged_by}", mode="max", **once),
        LearningRateMonitor("step"),
    ]
    if experiment.optimization.ema_decay > 0:
        callbacks.append(MovingAverage(experiment.optimization.ema_decay))
    callbacks.append(ProgressBar() if sys.stderr.isatty() else PrintedScores())
    return L.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=devices,
        num_nodes=run.nodes,
        strategy="ddp" if several else "auto",
        precision=run.precision or ("bf16-mixed" if gpu else "32-true"),
        logger=TensorBoardLogger(str(run.out), name="", version="tensorboard"),
        callbacks=callbacks,
        # One epoch as long as the run: the step is the only clock, and says what each batch holds.
        max_epochs=1,
        max_steps=run.steps,
        val_check_interval=run.steps // max(1, round(run.steps / run.validate_every)),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=run.log_every,
        gradient_clip_val=experiment.optimization.gradient_clip,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )


def _claim(run: RunConfig, experiment: Experiment, data: dict[str, Any], origin: dict[str, Any]) -> None:
    """Writes `experiment.json`, or checks that the run there is of the same experiment."""
    path = run.out / "experiment.json"
    if run.out.exists() and not run.out.is_dir():
        raise InputError(f"{run.out}: is a file; choose another --out")
    description = {
        "model": config_to_json(experiment.model),
        "optimization": config_to_json(experiment.optimization),
        "augmentation": config_to_json(experiment.augmentation),
        "steps": run.steps,
        "batch_size": run.batch_size,
        "seed": run.seed,
        "data": data,
        **origin,
    }
    if not path.exists():
        if run.out.is_dir() and any(run.out.iterdir()):
            raise InputError(f"{run.out}: holds other files and no run; choose another --out")
        write_json(path, description)
        return
    found = read_json(path)
    changed = [key for key, value in description.items() if found.get(key) != value]
    if changed:
        raise InputError(f"{run.out}: holds a run with another {', '.join(changed)}; choose another --out")


def _export(
    path: Path,
    best: Path,
    run: RunConfig,
    experiment: Experiment,
    training: GridDataset,
    data: dict[str, Any],
    origin: dict[str, Any],
) -> None:
    """Writes the weights of a checkpoint, which are the averaged ones, with what is known about them."""
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    weights = {name.removeprefix("model."): weight for name, weight in checkpoint["state_dict"].items()}
    notes = DetectorNotes(
        experiment.model,
        {**data, "scenes": len(training), "skipped": sorted(training.skipped)},
        {"step": int(checkpoint["global_step"]), "batch_size": run.batch_size, "seed": run.seed, **origin},
        checkpoint["scores"],
    )
    save_detector(path, weights, notes)


def _quieten() -> None:
    """Lightning's advertisements and hints are for its developers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
