"""torchvision's Mask R-CNN for one's own classes, and its weights in a file: `NAME.safetensors` and `NAME.json`."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from instance_nerfstudio.errors import InputError
from rcnn.safe_files import read_json, write_atomically

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.models.detection import MaskRCNN

FORMAT_VERSION = 1


@dataclass(frozen=True)
class MaskRCNNConfig:
    """Architecture; together with the weights, all that a segmenter is."""

    categories: tuple[str, ...]
    """Classes by label, the first of which is label 1."""
    backbone: Literal["resnet18", "resnet50"] = "resnet50"
    """With a feature pyramid of strides 4 to 64."""
    norm: Literal["group", "frozen_batch"] = "group"
    """GroupNorm learns from scratch with few images on a GPU; frozen BatchNorm suits a pretrained backbone."""
    min_size: int = 480
    """Photos are resized so that their shorter side has so many pixels, ..."""
    max_size: int = 800
    """... but the longer one no more than that."""
    smallest_anchor: int = 16
    """Side of the anchors of the finest level, in pixels of the resized photo; it doubles from level to level."""
    proposals: int = 1000
    """Regions of a photo that the heads look at."""
    detections: int = 100
    """Most objects in a photo."""


def build_mask_rcnn(config: MaskRCNNConfig) -> MaskRCNN:
    """The network with random weights, in training mode.

    Raises:
        InputError: sizes that are not positive, or no categories.
    """
    from torch import nn
    from torchvision.models import resnet
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, RPNHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
    from torchvision.ops import FrozenBatchNorm2d

    if not config.categories or min(config.min_size, config.smallest_anchor, config.proposals, config.detections) < 1:
        raise InputError("a Mask R-CNN needs categories and positive sizes; correct its config")
    if config.max_size < config.min_size:
        raise InputError(f"--max-size {config.max_size}: must be at least --min-size {config.min_size}")

    def group_norm(channels: int) -> nn.Module:
        return nn.GroupNorm(min(32, channels), channels)

    norm = group_norm if config.norm == "group" else FrozenBatchNorm2d
    trunk = getattr(resnet, config.backbone)(weights=None, norm_layer=norm)
    backbone = _resnet_fpn_extractor(
        trunk, trainable_layers=5, norm_layer=group_norm if config.norm == "group" else None
    )
    heads: dict[str, Any] = {}
    if config.norm == "group":
        heads["box_head"] = FastRCNNConvFCHead((backbone.out_channels, 7, 7), [256] * 2, [1024], norm_layer=group_norm)
        heads["mask_head"] = MaskRCNNHeads(backbone.out_channels, [256] * 4, 1, norm_layer=group_norm)
    anchors = AnchorGenerator(tuple((config.smallest_anchor * 2**level,) for level in range(5)), ((0.5, 1.0, 2.0),) * 5)
    model: Any = MaskRCNN(
        backbone,
        num_classes=len(config.categories) + 1,
        min_size=config.min_size,
        max_size=config.max_size,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(backbone.out_channels, anchors.num_anchors_per_location()[0]),
        rpn_post_nms_top_n_test=config.proposals,
        box_detections_per_img=config.detections,
        **heads,
    )
    # Near zero, as in detectron2: torchvision's own mask logits start the larger the fewer classes there are.
    box, mask = model.roi_heads.box_predictor, model.roi_heads.mask_predictor
    for layer, deviation in ((box.cls_score, 0.01), (box.bbox_pred, 0.001), (mask.mask_fcn_logits, 0.001)):
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    return model


def save_mask_rcnn(path: Path, weights: dict[str, Tensor], config: MaskRCNNConfig, notes: dict[str, Any]) -> None:
    """Writes `path` (ends in `.safetensors`) and the JSON file beside it, each whole or not at all.

    Args:
        path: the file of weights.
        weights: state dict, of any device.
        config: of the network.
        notes: what is known of it, e.g. data and scores; goes into the JSON file.
    """
    from safetensors.torch import save

    path = _checked(path)
    text = json.dumps({"format_version": FORMAT_VERSION, "mask_rcnn": asdict(config), **notes}, indent=1)
    plain = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    write_atomically(path, save(plain))
    write_atomically(path.with_suffix(".json"), (text + "\n").encode())


def load_mask_rcnn(path: Path) -> tuple[MaskRCNN, MaskRCNNConfig]:
    """The network that a file holds, on the CPU, ready to be used.

    Raises:
        InputError: a file is missing or damaged, or the weights are of another architecture than the JSON file says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    notes = _checked(path).with_suffix(".json")
    if not path.is_file():
        raise InputError(f"{path}: no such file; check --weights")
    content = read_json(notes)
    config = _parse(notes, content)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is no whole safetensors file ({reason}); copy it again") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build_mask_rcnn(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: does not fit {notes.name} ({reason}); copy both files again") from error
    return model.eval(), config


def _parse(notes: Path, content: dict[str, Any]) -> MaskRCNNConfig:
    entries = content.get("mask_rcnn")
    if content.get("format_version") != FORMAT_VERSION or not isinstance(entries, dict):
        raise InputError(f"{notes}: is not about a Mask R-CNN of this version; give weights of train_segmenter.py")
    unknown = entries.keys() - {field.name for field in fields(MaskRCNNConfig)}
    categories = entries.get("categories")
    if unknown or not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise InputError(f"{notes}: is damaged ({', '.join(sorted(unknown)) or 'categories'}); copy it again")
    if entries.get("backbone") not in ("resnet18", "resnet50") or entries.get("norm") not in ("group", "frozen_batch"):
        raise InputError(f"{notes}: names an unknown backbone or norm; use the version that wrote it")
    if not all(
        isinstance(value, int) for name, value in entries.items() if name not in ("categories", "backbone", "norm")
    ):
        raise InputError(f"{notes}: is damaged (sizes are whole numbers); copy it again")
    return MaskRCNNConfig(**{**entries, "categories": tuple(categories)})


def _checked(path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: these weights end in .safetensors; check the path")
    return path
