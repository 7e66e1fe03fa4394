"""Published NeRF-RPN and NeRF-RCNN checkpoints (`.pt`) as detectors of this package."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.backbones import name_from_published
from rcnn.errors import InputError
from rcnn.roi_heads import NeRFRCNN, NeRFRCNNConfig
from rcnn.roi_heads.published_names import heads_from_published
from rcnn.rpn import AnchorHeadConfig, NeRFRPN, NeRFRPNConfig, head_from_published
from rcnn.weights.detector_file import DetectorNotes, difference, save_detector

HEAD_KEYS = ("rpn_head_state_dict", "fcos_state_dict")
ROI_HEADS_KEY = "roi_heads_state_dict"


def convert_published(checkpoint: Path, out: Path, config: NeRFRPNConfig) -> DetectorNotes:
    """Writes a published checkpoint's weights under the names of this package.

    Args:
        checkpoint: a `.pt` file of NeRF-RPN's `run_rpn.py` or `run_fcos.py`, or of Instance-NeRF's `run_rcnn.py`, read
            without unpickling code.
        out: ends in `.safetensors`.
        config: backbone, kind of head and of boxes of the RPN; an anchor head gets the published anchors. The sizes of
            NeRF-RCNN's heads follow from their weights.

    Returns:
        The notes written beside the weights.

    Raises:
        InputError: no such file, not such a checkpoint, or one of another architecture.
    """
    content = _read(checkpoint)
    key = next((key for key in HEAD_KEYS if isinstance(content.get(key), dict)), None)
    if key is None or not isinstance(content.get("backbone_state_dict"), dict):
        wanted = " or ".join(HEAD_KEYS)
        raise InputError(f"{checkpoint}: holds no backbone_state_dict and {wanted}; give a checkpoint of NeRF-RPN")
    # NeRF-RCNN keeps either head under the name of the anchor-based one; the names in it tell them apart.
    kind = "fcos" if any(name.startswith("head.") for name in content[key]) else "anchor"
    if isinstance(config.head, AnchorHeadConfig) != (kind == "anchor"):
        raise InputError(f"{checkpoint}: holds an {kind} head; say --head {kind}")
    if isinstance(config.head, AnchorHeadConfig):
        config = replace(config, head=replace(config.head, anchors=replace(config.head.anchors, offset=0)))
    weights: dict[str, Tensor] = {}
    for published, weight in content["backbone_state_dict"].items():
        name = name_from_published(config.backbone, published)
        if name is None:
            raise InputError(f"{checkpoint}: {published} is no weight of this backbone; choose another --backbone")
        if name:
            weights[f"backbone.{name}"] = weight
    whole: NeRFRPNConfig | NeRFRCNNConfig = config
    try:
        head = head_from_published(config.head, config.rotated, content[key])
        weights |= {f"head.{name}": weight for name, weight in head.items()}
        if ROI_HEADS_KEY in content:
            heads, categories, renamed = heads_from_published(content[ROI_HEADS_KEY], config.backbone.out_channels)
            whole = NeRFRCNNConfig(config, heads, categories, mask_threshold=0.5, mask_scoring=False)
            weights = {f"rpn.{name}": weight for name, weight in weights.items()}
            weights |= {f"heads.{name}": weight for name, weight in renamed.items()}
        model = NeRFRPN(whole) if isinstance(whole, NeRFRPNConfig) else NeRFRCNN(whole)
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{checkpoint}: {error}") from error
    problem = difference(weights, model.state_dict())
    if problem:
        raise InputError(f"{checkpoint}: is of another architecture ({problem}); check --backbone and --boxes")
    model.load_state_dict(weights)
    training = {"converted_from": checkpoint.name}
    if isinstance(content.get("epoch"), int):
        training["epoch"] = content["epoch"]
    notes = DetectorNotes(whole, training=training)
    save_detector(out, model.state_dict(), notes)
    return notes


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{checkpoint}: cannot be read ({error.strerror}); check the path") from error
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{checkpoint}: is no checkpoint that can be read safely ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{checkpoint}: holds a {type(content).__name__}, no dictionary of weights")
    return content
