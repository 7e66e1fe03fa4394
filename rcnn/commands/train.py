"""`nerf-rcnn train-rpn` and `nerf-rcnn train`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rcnn.commands.data_options import DataOptions, report_skipped

if TYPE_CHECKING:
    from rcnn.backbones import BackboneConfig
    from rcnn.data import AugmentationConfig
    from rcnn.roi_heads import NeRFRCNNConfig
    from rcnn.rpn import NeRFRPNConfig
    from rcnn.training import OptimizationConfig, RunConfig

BackboneName = Literal["resnet18", "resnet50", "vgg_AF", "vgg_EF", "swin_t", "swin_s", "swin_b", "swin_l"]
HeadName = Literal["fcos", "anchor"]


def rpn_config(backbone: BackboneName, head: HeadName, rotated: bool) -> NeRFRPNConfig:
    """A NeRF-RPN with the published sizes."""
    from rcnn.backbones import BACKBONES
    from rcnn.rpn import AnchorHeadConfig, FCOSHeadConfig, NeRFRPNConfig

    return NeRFRPNConfig(BACKBONES[backbone], FCOSHeadConfig() if head == "fcos" else AnchorHeadConfig(), rotated)


@dataclass
class TrainingOptions:
    """Of both kinds of detectors."""

    out: Path
    """Folder of the run."""
    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    val_data: Path | None = None
    """Folder with the val split, when it is not in the first --data."""
    head: HeadName = "fcos"
    """RPN without anchors (FCOS) or with them."""
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

    def _optimization(self) -> OptimizationConfig:
        from rcnn.training import OptimizationConfig

        return OptimizationConfig(
            lr=self.lr, weight_decay=self.weight_decay, gradient_clip=self.gradient_clip, ema_decay=self.ema_decay
        )

    def _augmentation(self) -> AugmentationConfig | None:
        from rcnn.data import LIKE_FIELDS, AugmentationConfig

        return {"none": None, "published": AugmentationConfig(), "strong": LIKE_FIELDS}[self.augment]

    def _run(self) -> RunConfig:
        from rcnn.training import RunConfig

        return RunConfig(
            self.out, self.steps, self.batch_size, self.precision, self.seed, self.devices, self.nodes,
            self.accelerator, self.num_workers, self.validate_every, self.checkpoint_every,
        )  # fmt: skip

    def _with_options(self, rpn: NeRFRPNConfig) -> NeRFRPNConfig:
        """With the options of the backbone that are chosen here."""
        from rcnn.backbones import SwinConfig

        features: BackboneConfig = replace(rpn.backbone, checkpointing=self.checkpointing)
        if not isinstance(features, SwinConfig):
            features = replace(features, norm=self.norm)
        return replace(rpn, backbone=features)

    def _held_out(self) -> DataOptions:
        return self.data if self.val_data is None else replace(self.data, data=(self.val_data,))

    def _description(self) -> dict[str, Any]:
        """What the notes beside the weights say of the data."""
        return {
            "folders": [str(folder) for folder in self.data.data],
            "layout": self.data.layout,
            "boxes": self.boxes,
            "validation": [str(folder) for folder in self._held_out().data],
        }


@dataclass
class TrainRPN(TrainingOptions):
    """Train a NeRF-RPN on density grids. A run that is there goes on where it stopped.

    Writes OUT/detector.safetensors (the best by AP50 on the validation scenes) with OUT/detector.json, checkpoints, and
    scalars and pictures for `tensorboard --logdir OUT`. Several GPUs of this machine are used by themselves; for
    several machines start it with torchrun or srun and say --nodes.
    """

    backbone: BackboneName = "swin_s"
    """Network that makes features of a grid."""

    def main(self) -> None:
        """Trains."""
        from rcnn.training import Experiment, train_rpn

        model = self._with_options(rpn_config(self.backbone, self.head, self.boxes == "obb"))
        experiment = Experiment(model, self._optimization(), self._augmentation())
        training = self.data.open("train", self.boxes, experiment.augmentation, seed=self.seed)
        validation = self._held_out().open("val", self.boxes)
        detector = train_rpn(self._run(), experiment, training, validation, self._description())
        report_skipped(training)
        report_skipped(validation)
        print(f"{detector}: use it with nerf-rcnn eval, predict or visualize")


@dataclass
class Train(TrainingOptions):
    """Train a NeRF-RCNN on density grids with masks: boxes, classes and masks. A run that is there goes on.

    Writes OUT/detector.safetensors (the best by AP50 of masks on the validation scenes) and the rest as train-rpn does.
    RPN and heads learn together, unless --freeze says otherwise.
    """

    backbone: BackboneName | Literal["compact"] = "resnet50"
    """Network that makes features of a grid; compact is a narrow ResNet-18 with narrow heads, 10 times as small."""
    init: Path | None = None
    """detector.safetensors of a NeRF-RPN or NeRF-RCNN to begin with; its backbone, RPN and boxes are then used."""
    freeze: Literal["none", "head", "rpn"] = "none"
    """Leave the RPN's head as it is, which is how NeRF-RCNN was trained, or all of the RPN. Needs --init."""
    proposals: Path | None = None
    """Folder with proposals that `nerf-rcnn predict` wrote with a NeRF-RPN, in place of those of the run's own."""
    class_agnostic: bool = False
    """One box and mask for each proposal, whatever its class."""

    def main(self) -> None:
        """Trains."""
        from rcnn.errors import InputError
        from rcnn.training import Experiment, train_rcnn
        from rcnn.weights import read_notes

        if self.init is None and self.freeze != "none":
            raise InputError(f"--freeze {self.freeze}: nothing is learnt yet; give weights with --init")
        notes = None if self.init is None else read_notes(self.init)
        boxes = self.boxes if notes is None else "obb" if notes.rpn.rotated else "aabb"
        augmentation = self._augmentation()
        training = self.data.open(
            "train", boxes, augmentation, masks=True, proposals=self.proposals, seed=self.seed
        )  # fmt: skip
        model = self._model(training.categories, None if notes is None else notes.rpn)
        validation = self._held_out().open(
            "val", boxes, categories=training.categories, masks=True, proposals=self.proposals
        )
        experiment = Experiment(model, self._optimization(), augmentation)
        description = {**self._description(), "boxes": boxes}
        detector = train_rcnn(
            self._run(), experiment, training, validation, description, self.init, self.freeze
        )  # fmt: skip
        report_skipped(training)
        report_skipped(validation)
        print(f"{detector}: use it with nerf-rcnn eval, predict or visualize")

    def _model(self, categories: tuple[str, ...], rpn: NeRFRPNConfig | None) -> NeRFRCNNConfig:
        from rcnn.roi_heads import NeRFRCNNConfig, RoIHeadsConfig, compact_config
        from rcnn.rpn import AnchorHeadConfig

        if rpn is None and self.backbone == "compact":
            head = AnchorHeadConfig(convs=2) if self.head == "anchor" else None
            config = compact_config(categories, head, self.boxes == "obb")
            config = replace(config, rpn=self._with_options(config.rpn))
        elif rpn is None:
            assert self.backbone != "compact"
            rpn = rpn_config(self.backbone, self.head, self.boxes == "obb")
            config = NeRFRCNNConfig(self._with_options(rpn), RoIHeadsConfig(), categories)
        else:
            config = NeRFRCNNConfig(replace(rpn, backbone=replace(rpn.backbone, checkpointing=self.checkpointing)))
            config = replace(config, categories=categories)
        if self.class_agnostic:
            box, mask = (replace(part, class_agnostic=True) for part in (config.heads.box, config.heads.mask))
            config = replace(config, heads=replace(config.heads, box=box, mask=mask))
        return config
