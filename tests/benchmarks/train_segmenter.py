"""Trains a 2D segmenter on generated rooms: Mask R-CNN from scratch, for the `torchvision` mask source.

    python tests/benchmarks/train_segmenter.py --out runs/segmenter --make-rooms 120 --minutes 12
    torchrun --nproc-per-node 4 tests/benchmarks/train_segmenter.py --out runs/segmenter --rooms ROOMS --minutes 12
    instance-nerf run --data ROOM --source torchvision --weights runs/segmenter/segmenter.safetensors

Rooms are those of `nerf-rcnn rooms make`; the training split's furniture is in no test room. With `--make-rooms` they
are made in OUT/rooms, otherwise `--rooms` and `--val` name them. Killed at any time, it goes on with the same command.
At the end it writes OUT/segmenter.safetensors and .json with scores on validation rooms, and prints them: average
precision of masks (by class, and without classes), and how well flattened segments fit the true ones, without classes.
"""

import json
import math
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import tyro
from mask_rcnn_losses import MaskRCNNLosses
from master_weights import MasterWeights
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from room_views import Crops, RoomViews, Truth, collate, find_objects
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from instance_nerfstudio.segments.class_table import ClassTable
from instance_nerfstudio.segments.flatten import flatten
from instance_nerfstudio.segments.mask_rcnn import MaskRCNNConfig, build_mask_rcnn, load_mask_rcnn, save_mask_rcnn
from instance_nerfstudio.segments.mask_source import Detections
from instance_nerfstudio.segments.settings import FlattenConfig
from rcnn.rooms.assets.classes import furniture_classes
from rcnn.safe_files import open_atomically, read_json
from rcnn.worker_pool import end_with_parent, preloading_context

CLOCK_STEPS = 10
"""Processes agree on the time once in so many steps."""


@dataclass
class TrainSegmenter:
    """Options."""

    out: Path
    """Folder for the run and its results."""
    rooms: tuple[Path, ...] = ()
    """Training rooms, or folders that hold them."""
    val: tuple[Path, ...] = ()
    """Rooms for the scores; none are computed without."""
    make_rooms: int = 0
    """Make so many training rooms, and a tenth as many for the scores."""
    steps: int = 5000
    minutes: float | None = None
    """Stop after this time (pauses excluded): the learning rate falls by the clock, if that is faster than by steps."""
    batch: int = 16
    """Samples of a step, of all GPUs together."""
    classes: Literal["furniture", "object"] = "furniture"
    """Classes of furniture, or one for all: many are unsure after a short training, and unsure masks are left out."""
    backbone: str = "resnet50"
    min_size: int = 384
    max_size: int = 640
    lr: float = 2e-4
    """AdamW's, after a twentieth of the training; it falls to zero along a cosine."""
    weight_decay: float = 0.05
    rois: int = 128
    """Regions of each sample that the heads learn from."""
    seed: int = 0
    num_workers: int = 12
    augment: bool = True
    val_views: int = 8
    """Of every room."""
    checkpoint_seconds: float = 60.0

    def main(self) -> None:
        """Makes, trains, scores."""
        warnings.filterwarnings("ignore")
        if self.batch % _world_size():
            raise SystemExit(f"--batch must be a multiple of {_world_size()}, the number of GPUs")
        if _world_size() > 1:
            if self.make_rooms:
                raise SystemExit("--make-rooms is for one process; make rooms first and name them with --rooms")
            if torch.cuda.is_available():
                torch.cuda.set_device(_rank())
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        self.out.mkdir(parents=True, exist_ok=True)
        train, val = list(self.rooms), list(self.val)
        if self.make_rooms:
            train.append(self._make("train", self.make_rooms))
            val.append(self._make("val", max(1, self.make_rooms // 10)))
        known = tuple(sorted(furniture_classes(), key=lambda name: furniture_classes()[name].semantic_id))
        names = known if self.classes == "furniture" else ("object",)
        label = {name: number if self.classes == "furniture" else 1 for number, name in enumerate(known, 1)}
        config = MaskRCNNConfig(names, self.backbone, min_size=self.min_size, max_size=self.max_size)  # type: ignore[arg-type]
        weights = self.out / "segmenter.safetensors"
        if not weights.exists():
            notes = self._train(config, RoomViews(train, label))
            if _rank() == 0:
                save_mask_rcnn(weights, notes.pop("weights"), config, {"training": notes, "metrics": {}})
        if dist.is_initialized():
            dist.destroy_process_group()  # scores are those of one process
        if val and _rank() == 0:
            self._score(weights, RoomViews(val, label, self.val_views))

    def _make(self, split: str, count: int) -> Path:
        folder = self.out / "rooms" / split
        options = ("--split", split, "--count", str(count), "--num-workers", str(self.num_workers))
        subprocess.run([sys.executable, "-m", "rcnn.cli", "rooms", "make", "--out", str(folder), *options], check=True)
        return folder

    def _train(self, config: MaskRCNNConfig, views: RoomViews) -> dict[str, Any]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self.seed)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True  # all samples have one size
        model = build_mask_rcnn(config).to(device)
        checkpoint, state = self.out / "checkpoint.pt", None
        if checkpoint.exists():
            state = torch.load(checkpoint, map_location=device, weights_only=True)
            model.load_state_dict(state["model"])
        learner: torch.nn.Module = MaskRCNNLosses(model, rois=self.rois).to(device)
        master = MasterWeights(model, torch.bfloat16 if device.type == "cuda" else torch.float32)
        matrices = [weight for weight in master.values if weight.ndim > 1]
        others = [weight for weight in master.values if weight.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.lr, fused=device.type == "cuda",
        )  # fmt: skip
        step, elapsed, curve, done = 0, 0.0, [], 0.0
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            step, elapsed, curve = state["step"], state["elapsed"], state["curve"]
        crops = Crops(views, self._crop(), self.seed, step * self.batch, self.steps * self.batch, self.augment)
        world, rank = _world_size(), _rank()
        if world > 1:
            learner = DistributedDataParallel(learner, broadcast_buffers=False)
        loader = DataLoader(
            crops, self.batch // world, sampler=range(rank, len(crops), world), num_workers=self.num_workers,
            collate_fn=collate, pin_memory=device.type == "cuda",
            multiprocessing_context=preloading_context("room_views") if self.num_workers else None,
            worker_init_fn=end_with_parent,
        )  # fmt: skip
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        model.train()
        start = saved = time.monotonic() - elapsed
        with Progress(*columns, console=Console(stderr=True), disable=rank > 0) as progress:
            task = progress.add_task("Training", total=self.steps, completed=step, loss="")
            batches = iter(loader)
            for number, (pictures, truth) in enumerate(batches):
                elapsed = time.monotonic() - start
                if number % CLOCK_STEPS == 0:
                    done = max(step / self.steps, elapsed / (60 * self.minutes) if self.minutes else 0.0)
                    if world > 1:  # by one clock
                        clock = torch.tensor(done, device=device)
                        dist.broadcast(clock, 0)
                        done = float(clock)
                if done >= 1:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * min(done / 0.05 + 1e-2, 1.0) * 0.5 * (1 + math.cos(math.pi * done))
                sent = Truth(*(part.to(device, non_blocking=True) for part in truth))
                losses = learner(pictures.to(device, non_blocking=True), sent)
                torch.stack(list(losses.values())).sum().backward()
                master.take_gradients()
                torch.nn.utils.clip_grad_norm_(master.values, 5.0)
                optimizer.step()
                master.give_back()
                step += 1
                if step % 20 == 0 or step == 1:
                    values = {name: round(float(value), 4) for name, value in losses.items()}
                    if not np.isfinite(list(values.values())).all():
                        raise SystemExit(f"step {step}: the loss is no number; lower --lr")
                    curve.append({"step": step, "seconds": round(elapsed, 1), **values})
                    progress.update(task, loss=f"loss {sum(values.values()):.3f}")
                progress.update(task, completed=step)
                if rank == 0 and time.monotonic() - saved > self.checkpoint_seconds:
                    saved = time.monotonic()
                    state = {"model": master.state_dict(), "optimizer": optimizer.state_dict()}
                    with open_atomically(checkpoint) as file:
                        torch.save({**state, "step": step, "elapsed": elapsed, "curve": curve}, file)
        del batches  # ends its processes
        return {
            "weights": master.state_dict(), "views": len(views), "steps": step, "batch": self.batch,
            "lr": self.lr, "gpus": world,
            "seconds": round(time.monotonic() - start, 1), "device": _device_name(device),
            "curve": curve[::10] + curve[-1:],
        }  # fmt: skip

    def _crop(self) -> tuple[int, int]:
        """Height and width of what is learnt from: the network resizes them no more."""
        return self.min_size, min(self.max_size, self.min_size * 4 // 3)

    def _score(self, weights: Path, views: RoomViews) -> None:
        try:
            from torchmetrics.detection import MeanAveragePrecision

            by_class = MeanAveragePrecision(iou_type="segm")
            agnostic = MeanAveragePrecision(iou_type="segm")
        except ImportError as error:  # without pycocotools; the other scores need none
            print(f"no average precision: {error}", file=sys.stderr)
            by_class = agnostic = None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, config = load_mask_rcnn(weights)
        model = model.to(device)
        model.roi_heads.score_thresh = 0.05  # type: ignore[assignment]
        fit: list[float] = []
        count = 0
        with Progress(console=Console(stderr=True)) as progress:
            for place in progress.track(range(len(views)), description="Scores"):
                picture, ids, all_labels = views.read(place)
                numbers, _, labels = find_objects(ids, all_labels)
                true_masks, true_labels = torch.from_numpy(ids == numbers[:, None, None]), torch.from_numpy(labels)
                with torch.inference_mode():
                    found = model([torch.from_numpy(picture).to(device).permute(2, 0, 1).float() / 255])[0]
                masks = (found["masks"][:, 0] > 0.5).cpu()
                result = {"masks": masks, "scores": found["scores"].cpu(), "labels": found["labels"].cpu()}
                one = torch.zeros_like
                if by_class is not None and agnostic is not None:
                    by_class.update([result], [{"masks": true_masks, "labels": true_labels}])
                    agnostic.update(
                        [{**result, "labels": one(result["labels"])}],
                        [{"masks": true_masks, "labels": one(true_labels)}],
                    )
                names = [config.categories[label - 1] for label in result["labels"].tolist()]
                table = ClassTable(frozenset(), {})
                segments = flatten(Detections(masks, result["scores"], names), table, FlattenConfig())
                fit += [_best_iou(mask.numpy(), segments.ids) for mask in true_masks]
                count += len(segments.categories)
        metrics: dict[str, float] = {}
        if by_class is not None and agnostic is not None:
            with_classes, without = by_class.compute(), agnostic.compute()
            metrics = {"mAP": float(with_classes["map"]), "mAP50": float(with_classes["map_50"])}
            metrics |= {"AP": float(without["map"]), "AP50": float(without["map_50"])}
        ious = np.array(fit)
        hits = ious > 0.5  # no two segments can have more than half of one object
        metrics["PQ"] = float(ious[hits].sum() / max(hits.sum() + 0.5 * (count - hits.sum()) + 0.5 * (~hits).sum(), 1))
        metrics |= {"best_iou": float(ious.mean()), "found_at_50": float(hits.mean())}
        metrics |= {"views": len(views), "objects": len(fit), "segments": count}
        content = read_json(weights.with_suffix(".json"))
        training = {"training": content.get("training", {}), "metrics": metrics}
        save_mask_rcnn(weights, model.state_dict(), config, training)
        print(json.dumps({name: round(value, 4) for name, value in metrics.items()}))


def _world_size() -> int:
    """Processes of `torchrun`, each with a GPU."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _best_iou(mask: np.ndarray, segments: np.ndarray) -> float:
    """Of a true mask with any segment."""
    numbers, common = np.unique(segments[mask], return_counts=True)
    areas = np.bincount(segments[segments > 0], minlength=max(int(segments.max(initial=0)), 0) + 1)
    unions = [mask.sum() + areas[n] - c for n, c in zip(numbers, common, strict=True) if n > 0]
    return max((c / u for c, u in zip(common[numbers > 0], unions, strict=True)), default=0.0)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    tyro.cli(TrainSegmenter).main()
