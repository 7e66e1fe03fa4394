"""Weights of the heads in NeRF-RCNN's published checkpoints (`roi_heads_state_dict`), and the same weights here.

Order and shapes agree but for the background, which has a box and a mask there that are never used. The features were
sampled by crop-and-resize.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from rcnn.roi_heads.box_head import BoxHeadConfig
from rcnn.roi_heads.detections import DetectionConfig
from rcnn.roi_heads.mask_head import MaskHeadConfig
from rcnn.roi_heads.roi_heads import RoIHeadsConfig
from rcnn.roi_heads.roi_pooling import RoIPoolingConfig

CATEGORIES = ("cabinet", "bed", "chair", "sofa", "table", "bookshelf", "desk", "night stand", "lamp", "otherfurniture")
"""NYU40 classes 3, 4, 5, 6, 7, 10, 14, 32, 35 and 39, in the order of the published labels."""
MASK_BINS = 10

NAMES: tuple[tuple[str, str], ...] = (
    (r"box_head\.fc6\.(\w+)", r"box.fc1.\1"),
    (r"box_head\.fc7\.(\w+)", r"box.fc2.\1"),
    (r"box_head\.cls_score\.(\w+)", r"box.logits.\1"),
    (r"box_head\.bbox_pred\.(\w+)", r"box.deltas.\1"),
    # Convolutions and ReLUs in turn.
    *((rf"mask_head\.{i}\.0\.(\w+)", rf"mask.tower.{2 * i}.\1") for i in range(16)),
    (r"mask_predictor\.conv5_mask\.(\w+)", r"mask.upsample.\1"),
    (r"mask_predictor\.mask_fcn_logits\.(\w+)", r"mask.logits.\1"),
)


def heads_from_published(
    weights: Mapping[str, Tensor], channels: int
) -> tuple[RoIHeadsConfig, tuple[str, ...], dict[str, Tensor]]:
    """Published heads under their names here.

    Args:
        weights: `roi_heads_state_dict`.
        channels: of every level of the backbone.

    Returns:
        The config that they fit, the classes, and the weights.

    Raises:
        ValueError: an unknown name, or weights that are missing.
    """
    renamed: dict[str, Tensor] = {}
    for published, weight in weights.items():
        name = next((m.expand(name) for pattern, name in NAMES if (m := re.fullmatch(pattern, published))), None)
        if name is None:
            raise ValueError(f"{published} is no weight of a published NeRF-RCNN")
        renamed[name] = weight
    try:
        classes = len(renamed["box.logits.bias"]) - 1
        columns = len(renamed["box.deltas.bias"]) // (classes + 1)
        hidden, width = renamed["box.fc1.weight"].shape
        mask_channels = renamed["mask.upsample.weight"].shape[1]
        for name in ("box.deltas.weight", "box.deltas.bias"):
            renamed[name] = renamed[name][columns:]
        for name in ("mask.logits.weight", "mask.logits.bias"):
            renamed[name] = renamed[name][1:]
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"the heads are incomplete ({error})") from error
    config = RoIHeadsConfig(
        RoIPoolingConfig(mode="crop_and_resize"),
        BoxHeadConfig(round((width / channels) ** (1 / 3)), hidden),
        MaskHeadConfig(
            MASK_BINS,
            sum(name.endswith(".weight") for name in renamed if "tower" in name),
            mask_channels,
            margin=0.0,
            detail_channels=0,
        ),
        detections=DetectionConfig(score_threshold=0.01, nms_iou=0.2),
    )
    categories = CATEGORIES if classes == len(CATEGORIES) else tuple(f"class {n + 1}" for n in range(classes))
    return config, categories, renamed
