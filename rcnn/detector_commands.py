"""Command lines of the detector; what they do is imported when they run, so that --help is fast."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from rcnn.errors import InputError

if TYPE_CHECKING:
    import torch

    from rcnn.data import AugmentationConfig, GridDataset, GridSample
    from rcnn.rpn import NeRFRPNConfig
    from rcnn.visualization import SceneContents

BackboneName = Literal["resnet18", "resnet50", "vgg_AF", "vgg_EF", "swin_t", "swin_s", "swin_b", "swin_l"]
HeadName = Literal["fcos", "anchor"]
Item = TypeVar("Item")


@dataclass
class DataOptions:
    """Which scenes, and how their files are read."""

    data: tuple[Path, ...]
    """Folders with train, val and test rooms that have density grids, or published data sets."""
    layout: Literal["rooms", "3dfront", "hypersim", "scannet", "general", "nerf-rcnn"] = "rooms"
    """What the files look like; rooms are folders written by `instance-nerf fit-grids` or `rooms voxelize`."""
    split_file: Path | None = None
    """JSON or NPZ with the scenes of each split, where folders do not say."""
    density_kind: Literal["sigma", "log", "alpha"] | None = None
    """What the density channel holds, where neither the files nor their publication say."""
    cache: Path | None = None
    """Folder for uncompressed copies of grids; ~/.cache/instance-nerf/grids when not given."""
    skip_bad: bool = False
    """Go on without bad scenes, and list them at the end."""

    def open(
        self,
        split: str | None,
        boxes: Literal["aabb", "obb"],
        augmentation: AugmentationConfig | None = None,
        needs_truth: bool = True,
        seed: int = 0,
    ) -> GridDataset:
        """The scenes of a split in all folders, checked."""
        from rich.console import Console
        from rich.progress import Progress

        from rcnn.data import GridDataset, SceneReadingConfig, find_scenes

        scenes = []
        for root in self.data:
            found = find_scenes(root, split if self.layout != "general" else None, self.layout, boxes, self.split_file)
            several = len(self.data) > 1
            scenes += [replace(scene, name=f"{root.name}/{scene.name}") if several else scene for scene in found]
        reading = SceneReadingConfig(self.layout, boxes, self.density_kind)
        if self.cache is not None:
            reading = replace(reading, cache=self.cache)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            return GridDataset(
                scenes, reading, augmentation, needs_truth=needs_truth, skip_bad=self.skip_bad, seed=seed,
                progress=progress,
            )  # fmt: skip


def _detector(
    backbone: BackboneName,
    head: HeadName,
    rotated: bool,
    norm: Literal["batch", "group"] = "batch",
    checkpointing: bool = False,
) -> NeRFRPNConfig:
    from rcnn.backbones import BACKBONES, SwinConfig
    from rcnn.rpn import AnchorHeadConfig, FCOSHeadConfig, NeRFRPNConfig

    features = replace(BACKBONES[backbone], checkpointing=checkpointing)
    if not isinstance(features, SwinConfig):
        features = replace(features, norm=norm)
    return NeRFRPNConfig(features, FCOSHeadConfig() if head == "fcos" else AnchorHeadConfig(), rotated)


def _augmentation(kind: Literal["published", "strong", "none"]) -> AugmentationConfig | None:
    from rcnn.data import LIKE_FIELDS, AugmentationConfig

    return {"none": None, "published": AugmentationConfig(), "strong": LIKE_FIELDS}[kind]


def _device(name: str | None) -> torch.device:
    import torch

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)  # the only thing that tells whether it is there
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: is no device of this machine; use cpu or cuda") from error


def _all(scenes: GridDataset, count: int | None = None) -> Iterator[GridSample]:
    return (scenes[index] for index in range(len(scenes) if count is None else count))


def _report(scenes: GridDataset) -> None:
    """Lists the scenes that were left out."""
    if report := scenes.report():
        print(report, file=sys.stderr)


def _progress(items: Iterator[Item], total: int, title: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import track

    yield from track(items, title, total, console=Console(stderr=True))


@dataclass
class TrainRPN:
    """Train a NeRF-RPN on density grids. A run that is there goes on where it stopped.

    Writes OUT/detector.safetensors (the best by AP50 on the validation scenes) with OUT/detector.json, checkpoints, and
    scalars and pictures for `tensorboard --logdir OUT`. Several GPUs of this machine are used by themselves; for
    several machines start it with torchrun or srun and say --nodes.
    """

    out: Path
    """Folder of the run."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    val_data: Path | None = None
    """Folder with the val split, when it is not in the first --data."""
    backbone: BackboneName = "swin_s"
    """Network that makes features of a grid."""
    head: HeadName = "fcos"
    """Anchor-free (FCOS) or anchor-based."""
    boxes: Literal["aabb", "obb"] = "aabb"
    """Axis-aligned boxes, or boxes turned about the vertical."""
    norm: Literal["batch", "group"] = "batch"
    """Normalization of ResNet and VGG; group does not depend on the batch."""
    checkpointing: bool = False
    """Compute the backbone's activations twice instead of keeping them: less memory, a third more time."""
    augment: Literal["published", "strong", "none"] = "strong"
    """Flips and quarter turns, as published; also density, colour and floaters; or nothing."""
    steps: int = 20_000
    """Batches."""
    batch_size: int = 4
    """Scenes of a step, of all GPUs together."""
    lr: float = 3e-4
    """Highest learning rate."""
    weight_decay: float = 1e-3
    """Of AdamW."""
    gradient_clip: float = 0.1
    """Largest norm of all gradients together."""
    ema_decay: float = 0.999
    """Of the moving average of weights that is validated and written; 0 for none."""
    precision: Literal["bf16-mixed", "16-mixed", "32-true"] | None = None
    """bf16-mixed on GPUs and 32-true on CPUs when not given."""
    seed: int = 0
    """Of weights, order and augmentation."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What to train on."""
    devices: int | None = None
    """GPUs (or, on a CPU, processes) of each machine; all GPUs when not given."""
    nodes: int = 1
    """Machines."""
    num_workers: int = 4
    """Processes that load scenes, for each GPU."""
    validate_every: int = 500
    """Steps between validations."""
    checkpoint_every: int = 200
    """Steps between checkpoints to go on from."""

    def main(self) -> None:
        """Trains."""
        from rcnn.training import Experiment, OptimizationConfig, RunConfig, train_rpn

        experiment = Experiment(
            _detector(self.backbone, self.head, self.boxes == "obb", self.norm, self.checkpointing),
            OptimizationConfig(
                lr=self.lr, weight_decay=self.weight_decay, gradient_clip=self.gradient_clip, ema_decay=self.ema_decay
            ),
            _augmentation(self.augment),
        )
        run = RunConfig(
            self.out, self.steps, self.batch_size, self.precision, self.seed, self.devices, self.nodes,
            self.accelerator, self.num_workers, self.validate_every, self.checkpoint_every,
        )  # fmt: skip
        training = self.data.open("train", self.boxes, experiment.augmentation, seed=self.seed)
        held_out = self.data if self.val_data is None else replace(self.data, data=(self.val_data,))
        validation = held_out.open("val", self.boxes)
        description = {
            "folders": [str(folder) for folder in self.data.data],
            "layout": self.data.layout,
            "boxes": self.boxes,
            "validation": [str(folder) for folder in held_out.data],
        }
        detector = train_rpn(run, experiment, training, validation, description)
        _report(training)
        _report(validation)
        print(f"{detector}: use it with nerf-rcnn eval, predict or visualize")


@dataclass
class Evaluate:
    """Score a detector on scenes with truth: recall and average precision at IoU 0.25 and 0.5."""

    detector: Annotated[Path, tyro.conf.Positional]
    """detector.safetensors of a run, or converted weights."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    split: str = "test"
    """Which scenes."""
    out: Path | None = None
    """JSON file for all numbers."""
    ap_limit: int | None = None
    """Detections of a scene, the best ones, that count for average precision; all when not given."""
    device: str | None = None
    """The GPU, where there is one, when not given."""

    def main(self) -> None:
        """Prints a table."""
        import rich

        from rcnn.detecting import detect
        from rcnn.evaluation import DetectionMetrics, DetectionMetricsConfig
        from rcnn.safe_files import write_json
        from rcnn.weights import load_detector

        device = _device(self.device)
        model, _ = load_detector(self.detector, device)
        scenes = self.data.open(self.split, "obb" if model.config.rotated else "aabb")
        metrics = DetectionMetrics(DetectionMetricsConfig(ap_limit=self.ap_limit), scenes.categories)
        for found in _progress(detect(model, _all(scenes), device), len(scenes), "Detecting"):
            scene, proposals = found.scene, found.proposals
            assert scene.boxes is not None  # the data set needs truth
            metrics.update(scene.name, proposals.boxes, proposals.scores, scene.boxes, object_labels=scene.labels)
        scores = metrics.compute()
        rich.print(scores.table(f"{self.split} scenes"))
        if self.out is not None:
            write_json(self.out, scores.to_json())
        _report(scenes)


@dataclass
class Predict:
    """Find the objects of scenes: OUT/<scene>.npz with boxes in world units, scores and levels."""

    detector: Annotated[Path, tyro.conf.Positional]
    """detector.safetensors of a run, or converted weights."""
    out: Path
    """Folder for the results."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    split: str | None = None
    """Which scenes; all when not given."""
    top: int = 300
    """Boxes of a scene, the best ones."""
    min_score: float = 0.0
    """Boxes below are left out."""
    device: str | None = None
    """The GPU, where there is one, when not given."""

    def main(self) -> None:
        """Writes a file for each scene."""
        from rcnn.detecting import detect, write_proposals
        from rcnn.weights import load_detector

        device = _device(self.device)
        model, _ = load_detector(self.detector, device)
        scenes = self.data.open(self.split, "obb" if model.config.rotated else "aabb", needs_truth=False)
        for found in _progress(detect(model, _all(scenes), device), len(scenes), "Detecting"):
            x, y, z = found.scene.features.shape[1:]
            proposals = found.proposals.top(min(self.top, int((found.proposals.scores >= self.min_score).sum())))
            assert found.scene.frame is not None  # without augmentation
            write_proposals(self.out / f"{found.scene.name}.npz", proposals, found.scene.frame, (x, y, z))
        print(f"{len(scenes)} scenes in {self.out}")
        _report(scenes)


@dataclass
class Visualize:
    """Draw scenes with what a detector finds in them: OUT/<scene>.png, and .glb or .ply to turn around.

    Without --detector, grids with their true boxes alone.
    """

    out: Path
    """Folder for the results."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    detector: Path | None = None
    """detector.safetensors of a run, or converted weights."""
    split: str | None = None
    """Which scenes; all when not given."""
    limit: int = 20
    """Scenes, the first ones."""
    boxes: Literal["aabb", "obb"] = "aabb"
    """True boxes to draw without a detector."""
    top: int = 30
    """Detections of a scene, the best ones."""
    min_score: float = 0.2
    """Detections below are left out."""
    in_3d: Literal["none", "glb", "ply"] = "none"
    """Also write grid, boxes and objectness in 3D, in world units."""
    device: str | None = None
    """The GPU, where there is one, when not given."""

    def main(self) -> None:
        """Writes the pictures."""
        from rcnn.detecting import detect
        from rcnn.visualization import (
            SceneContents,
            SceneFilesConfig,
            SheetConfig,
            write_scene_glb,
            write_scene_plys,
            write_sheet,
        )
        from rcnn.weights import load_detector

        device, model, kind = _device(self.device), None, self.boxes
        if self.detector is not None:
            model, _ = load_detector(self.detector, device)
            kind = "obb" if model.config.rotated else "aabb"
        scenes = self.data.open(self.split, kind, needs_truth=False)
        count = min(self.limit, len(scenes))
        sheet = SheetConfig(max_detections=self.top, min_score=self.min_score)
        files = SceneFilesConfig(max_detections=self.top, min_score=self.min_score)

        def looked_at() -> Iterator[tuple[GridSample, SceneContents]]:
            if model is None:
                for scene in _all(scenes, count):
                    yield scene, SceneContents.of(scene.features, truth=scene.boxes)
                return
            for found in detect(model, _all(scenes, count), device, heatmaps=True):
                scene, boxes, scores = found.scene, found.proposals.boxes, found.proposals.scores
                yield (
                    scene,
                    SceneContents.of(
                        scene.features, truth=scene.boxes, boxes=boxes, scores=scores, heatmap=found.heatmap
                    ),
                )

        for scene, contents in _progress(looked_at(), count, "Drawing"):
            assert scene.frame is not None  # without augmentation
            write_sheet(self.out / f"{scene.name}.png", contents, scene.name, sheet)
            if self.in_3d == "glb":
                write_scene_glb(self.out / f"{scene.name}.glb", contents, scene.frame, files)
            elif self.in_3d == "ply":
                write_scene_plys(self.out / scene.name, contents, scene.frame, files)
        print(f"{count} scenes in {self.out}")
        _report(scenes)


@dataclass
class Convert:
    """Convert a published NeRF-RPN checkpoint (.pt) to weights for this package."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Of NeRF-RPN's run_fcos.py or run_rpn.py."""
    out: Path
    """The .safetensors file to write; notes go beside it."""
    backbone: BackboneName
    """Its network."""
    head: HeadName
    """Its head."""
    boxes: Literal["aabb", "obb"] = "aabb"
    """What it regresses."""

    def main(self) -> None:
        """Writes the weights."""
        from rcnn.weights import convert_published

        convert_published(self.checkpoint, self.out, _detector(self.backbone, self.head, self.boxes == "obb"))
        print(f"{self.out}: use it with nerf-rcnn eval, predict or visualize")
