"""Trains the instance head over a frozen radiance field on cached samples, without marching a ray."""

import math
import time
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.utils import writer
from nerfstudio.utils.misc import step_check
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.utils.writer import EventName, TimeWriter
from torch import Tensor

from instance_nerfstudio.cuda_graph import RecordedStep, make_recordable
from instance_nerfstudio.frozen_field.cached_pixels import CachedPixels, choose_pixels
from instance_nerfstudio.frozen_field.sample_cache import SampleCache, cache_samples
from instance_nerfstudio.instance_objective import voxel_loss
from instance_nerfstudio.losses import instance_cross_entropy
from instance_nerfstudio.memory_chunks import in_chunks

if TYPE_CHECKING:
    from instance_nerfstudio.instance_trainer import InstanceTrainer

# A cached pixel that is drawn fewer times on average is not worth its march.
_DRAWS_PER_PIXEL = 8
_TRAINING_PIXELS_PER_HELD_OUT = 8
# Viewer, pause button and progress bar are served between blocks of steps.
_STEPS_AT_ONCE = 100
_ROWS_AT_ONCE = 1 << 15
_MAX_LOGITS = 1 << 26


@dataclass
class CachedTrainingConfig:
    """Training of the head alone, with `--pipeline.model.radiance-checkpoint`."""

    enabled: bool = True
    """Whether the frozen field is sampled once, before training, instead of in every iteration."""
    cache_bytes: int = 1 << 29
    """Memory for the cached samples of the training pixels; where they are more, boundaries, small instances and an
    even sample of the rest are kept."""
    samples_per_ray: int = 8
    """Samples kept of each ray."""
    balanced_fraction: float = 0.25
    """Share of the rays drawn with every instance equally likely, so that small ones do not starve. As many as
    `pixel-sampler.boundary-fraction` says are drawn near boundaries; the rest are any labelled pixels."""
    held_out_pixels: int = 1 << 18
    """Pixels of the held-out views on which the head is scored during training."""
    steps_per_held_out: int = 250
    """Iterations between those scores."""
    patience: int = 10
    """Scores in a row without a higher one after which training stops; 0 never stops early. The best head is kept."""


def why_not_cached(trainer: "InstanceTrainer") -> str | None:
    """What this run needs that cached samples can't give; None if they do."""
    model, config = trainer.pipeline.model.config, trainer.config
    sampler = trainer.pipeline.datamanager.config.pixel_sampler
    obstacles = {
        "--pipeline.model.use-label-regularization compares whole patches": model.use_label_regularization,
        "--pipeline.model.use-instance-loss is off": not model.use_instance_loss,
        "--pipeline.datamanager.pixel-sampler.fisheye-crop-radius chooses pixels of its own": (
            sampler.fisheye_crop_radius is not None
        ),
        "several devices train": trainer.world_size > 1,
        "gradients accumulate over iterations": trainer.gradient_accumulation_steps["instance_head"] > 1,
        "--log-gradients is on": config.log_gradients,
        "--pipeline.cached-training.enabled is off": not trainer.pipeline.config.cached_training.enabled,
    }
    return next((reason for reason, there in obstacles.items() if there), None)


class CachedTraining:
    """The samples of the training pixels and of held-out ones, and the step that trains the head on them.

    Rays, loss and learning rate are those of the trainer; only where samples come from differs.

    Args:
        trainer: after its setup, over a frozen field.
        iterations: how many steps will be taken: few need few pixels.
    """

    def __init__(self, trainer: "InstanceTrainer", iterations: int) -> None:
        pipeline = trainer.pipeline
        self.config = pipeline.config.cached_training
        self.model = pipeline.model
        self.head = self.model.instance_head
        self.rays = pipeline.datamanager.get_train_rays_per_batch()
        sampler = pipeline.datamanager.config.pixel_sampler
        # Together they are all rays at most.
        near = min(max(getattr(sampler, "boundary_fraction", 0.0), 0.0), 1.0)
        self.shares = (near, min(max(self.config.balanced_fraction, 0.0), 1.0 - near))
        self.radius = getattr(sampler, "boundary_radius", 1)
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.without_rise = 0

        start = perf_counter()
        pixels = self._choose_training_pixels(trainer, iterations)
        training = self.model.training
        self.model.train()
        cameras = pipeline.datamanager.train_dataset.cameras
        self.samples = cache_samples(self.model, cameras, pixels.pixels, self.config.samples_per_ray)
        self.pixels = pixels
        self.held_out = self._cache_held_out(trainer)
        self.model.train(training)
        held_out = f" and {len(self.held_out[1])} held-out ones" if self.held_out else ""
        CONSOLE.print(
            f"Cached the samples of {len(pixels.pixels)} training pixels{held_out} in {perf_counter() - start:.1f} s."
        )

        device = self.model.device
        self.loss = {name: torch.zeros((), device=device) for name in ("instance_loss", "voxel_loss")}
        if self.model.voxels is None:
            del self.loss["voxel_loss"]
        self.accuracy = torch.zeros((), device=device)
        self.optimizer = trainer.optimizers.optimizers["instance_head"]
        self.scheduler = trainer.optimizers.schedulers.get("instance_head")
        self.max_norm = trainer.config.optimizers["instance_head"]["optimizer"].max_norm
        self._recorded = RecordedStep(self.eager_step, device)
        self._recorded.eager = not make_recordable(self.optimizer, device)

    def _choose_training_pixels(self, trainer: "InstanceTrainer", iterations: int) -> CachedPixels:
        device = self.model.device
        memory = self.config.cache_bytes
        if device.type == "cuda":
            memory = min(memory, torch.cuda.mem_get_info(device)[0] // 2)
        per_ray = SampleCache.bytes_per_ray(self.config.samples_per_ray, self.model.field.geo_feat_dim)
        useful = math.ceil(iterations * self.rays / _DRAWS_PER_PIXEL)
        budget = max(1, min(memory // per_ray, useful))
        dataset = trainer.pipeline.datamanager.train_dataset
        pixels = choose_pixels(dataset, self.head.targets, budget, self.shares, self.radius, device)
        assert pixels is not None  # a scan of the masks found instances before
        return pixels

    def _cache_held_out(self, trainer: "InstanceTrainer") -> tuple[SampleCache, Int[Tensor, " rays"]] | None:
        """Samples and classes of held-out pixels; ids that the head does not know are one class more."""
        dataset = trainer.pipeline.datamanager.eval_dataset
        budget = min(self.config.held_out_pixels, len(self.pixels.pixels) // _TRAINING_PIXELS_PER_HELD_OUT)
        if not dataset or budget < 1:
            return None
        unknown = len(self.head.instance_ids)

        def classify(labels: Int[Tensor, "height width"]) -> Int[Tensor, "height width"]:
            targets = self.head.targets(labels)
            return torch.where((targets < 0) & (labels > 0), unknown, targets)

        pixels = choose_pixels(dataset, classify, budget, (0.0, 0.0), self.radius, self.model.device)
        if pixels is None or not (pixels.targets > 0).any():
            return None
        self.model.eval()
        samples = cache_samples(
            self.model, dataset.cameras, pixels.pixels, self.config.samples_per_ray, "Caching held-out samples"
        )
        return samples, pixels.targets.long()

    def step(self) -> None:
        """One iteration: draws rays, steps the head, then its learning rate. Waits for nothing on the device."""
        self._recorded()
        if self.scheduler is not None:
            self.scheduler.step()

    def eager_step(self) -> None:
        """The iteration as it is recorded; leaves its loss and accuracy in tensors of this object."""
        model = self.model
        rows = self.pixels.draw(self.rays, self.shares)
        targets = self.pixels.targets[rows]
        logits = self.head.classify(self.samples.features(model, rows))
        losses = {"instance_loss": model.config.instance_loss_mult * instance_cross_entropy(logits, targets)}
        if model.voxels is not None:
            losses["voxel_loss"] = voxel_loss(model)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.max_norm)
        self.optimizer.step()
        for name, loss in losses.items():
            self.loss[name].copy_(loss.detach())
        self.accuracy.copy_((logits.detach().argmax(dim=-1) == targets).float().mean())

    @torch.no_grad()
    def held_out_miou(self) -> float:
        """`instance_miou` of the cached held-out pixels; NaN without any."""
        if self.held_out is None:
            return math.nan
        samples, truth = self.held_out
        areas = torch.zeros(3, len(self.head.instance_ids) + 1, device=truth.device)

        def count(start: int, end: int) -> None:
            chosen = truth[start:end]
            predicted = self.head.classify(samples.features(self.model, slice(start, end))).argmax(dim=-1)
            one = torch.ones_like(chosen, dtype=torch.float32)
            areas[0].index_add_(0, chosen, one)
            areas[1].index_add_(0, predicted, one)
            areas[2].index_add_(0, chosen, (predicted == chosen).float())

        rows = max(1, min(_ROWS_AT_ONCE, _MAX_LOGITS // len(self.head.instance_ids)))
        in_chunks(count, len(truth), rows, "lower --pipeline.cached-training.held-out-pixels")
        true, predicted, both = areas[:, 1:]
        return float((both / (true + predicted - both))[true > 0].mean())

    def score(self, step: int) -> bool:
        """Scores the head, remembers it if it is the best, and says whether training should go on."""
        miou = self.held_out_miou()
        if math.isnan(miou):
            return True
        writer.put_scalar(name="Held-out mIoU", scalar=miou, step=step)
        self.without_rise += 1
        if self.best is None or miou > self.best[0]:
            head = {name: value.detach().clone() for name, value in self.head.state_dict().items()}
            self.best, self.without_rise = (miou, head), 0
        if self.config.patience == 0 or self.without_rise < self.config.patience:
            return True
        CONSOLE.print(f"Stopped at step {step}: held-out mIoU is no longer rising above {self.best[0]:.4f}.")
        return False

    @torch.no_grad()
    def restore_best(self) -> None:
        """Puts the best head back in place."""
        if self.best is not None:
            for name, value in self.head.state_dict().items():
                value.copy_(self.best[1][name])


def train_on_cache(trainer: "InstanceTrainer") -> None:
    """nerfstudio's training loop with steps in blocks: its own bookkeeping takes longer than a step of the head.

    Logs once per block. Blocks end where something is due: a save, an evaluation, a score of the held-out pixels.
    """
    config, pipeline = trainer.config, trainer.pipeline
    pipeline.datamanager.train_dataparser_outputs.save_dataparser_transform(
        trainer.base_dir / "dataparser_transforms.json"
    )
    trainer._init_viewer_state()
    trainer.stop_training = False
    first, total = trainer._start_step, config.max_num_iterations
    with TimeWriter(writer, EventName.TOTAL_TRAIN_TIME):
        with trainer.train_lock:
            training = CachedTraining(trainer, total)
        due = (
            _STEPS_AT_ONCE,
            config.steps_per_save,
            config.steps_per_eval_batch,
            config.steps_per_eval_image,
            config.steps_per_eval_all_images,
            training.config.steps_per_held_out,
        )
        step, end = first, first + total
        while step < end and not trainer.stop_training:
            if trainer.training_state == "paused":
                time.sleep(0.01)
                continue
            # A block ends with a multiple of something that is due. So is step 0: the log starts with it.
            last = min([end - 1, *(-(-step // every) * every for every in due if every > 0)])
            trainer.step = last
            with trainer.train_lock:
                start = perf_counter()
                pipeline.train()
                for callback in trainer.callbacks:
                    callback.run_callback_at_location(step, location=TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
                for _ in range(step, last + 1):
                    training.step()
                loss = torch.stack(list(training.loss.values())).sum().item()
                for callback in trainer.callbacks:
                    callback.run_callback_at_location(last, location=TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
                seconds = (perf_counter() - start) / (last + 1 - step)
            writer.put_time(
                name=EventName.ITER_TRAIN_TIME, duration=seconds, step=last, avg_over_steps=True, update_eta=True
            )
            writer.put_time(
                name=EventName.TRAIN_RAYS_PER_SEC, duration=training.rays / seconds, step=last, avg_over_steps=True
            )
            trainer._update_viewer_state(last)
            writer.put_scalar(name="Train Loss", scalar=loss, step=last)
            writer.put_dict(name="Train Loss Dict", scalar_dict=training.loss, step=last)
            writer.put_dict(name="Train Metrics Dict", scalar_dict={"instance_accuracy": training.accuracy}, step=last)
            for name, group in trainer.optimizers.optimizers.items():
                rate = float(group.param_groups[0]["lr"])
                writer.put_scalar(name=f"learning_rate/{name}", scalar=rate, step=last)
            with trainer.train_lock:
                if pipeline.datamanager.eval_dataset:
                    trainer.eval_iteration(last)
                if (last == end - 1 or step_check(last, training.config.steps_per_held_out)) and not training.score(
                    last
                ):
                    trainer.stop_training = True
            if step_check(last, config.steps_per_save):
                trainer.save_checkpoint(last)
            writer.write_out_storage()
            step = last + 1
        training.restore_best()
    trainer._after_train()
