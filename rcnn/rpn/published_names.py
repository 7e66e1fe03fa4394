"""Weights of the heads in NeRF-RPN's published checkpoints, and the same weights here.

The checkpoints keep them under `rpn_head_state_dict` (anchors) and `fcos_state_dict`. Shapes agree, and the order of
the outputs of a cell. Two things do not follow from the names:

* Anchors of the published head stand at the lower corners of their cells: it needs `AnchorConfig(offset=0)`.
* Its OBBs are mirrored, so that it regresses -β where :func:`rcnn.boxes.decode_midpoint_offsets` takes β. The
  anchor-free head's sign is ours.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from rcnn.rpn.anchor_head import AnchorHeadConfig
from rcnn.rpn.fcos_head import FCOSHeadConfig

ANCHOR_NAMES: tuple[tuple[str, str], ...] = (
    # A list of convolutions and ReLUs in turn.
    *((rf"conv\.{2 * i}\.(\w+)", rf"tower.{i}.\1") for i in range(16)),
    (r"cls_logits\.(\w+)", r"objectness.\1"),
    (r"bbox_pred\.(\w+)", r"box.\1"),
)

FCOS_NAMES: tuple[tuple[str, str], ...] = (
    # Lists of convolutions, norms and ReLUs in turn.
    *((rf"head\.cls_tower\.{3 * i}\.(\w+)", rf"objectness_tower.{i}.conv.\1") for i in range(16)),
    *((rf"head\.cls_tower\.{3 * i + 1}\.(\w+)", rf"objectness_tower.{i}.norm.\1") for i in range(16)),
    *((rf"head\.bbox_tower\.{3 * i}\.(\w+)", rf"box_tower.{i}.conv.\1") for i in range(16)),
    *((rf"head\.bbox_tower\.{3 * i + 1}\.(\w+)", rf"box_tower.{i}.norm.\1") for i in range(16)),
    (r"head\.cls_logits\.(\w+)", r"objectness.\1"),
    (r"head\.bbox_pred\.(\w+)", r"box.\1"),
    (r"head\.centerness\.(\w+)", r"centerness.\1"),
    # They have a scale for a fifth level, which does not exist.
    (r"head\.scales\.4\.scale", ""),
    (r"head\.scales\.(\d)\.scale", r"scales.\1"),
)


def head_name_from_published(config: AnchorHeadConfig | FCOSHeadConfig, published: str) -> str | None:
    """The name here of a published weight of a head; empty for one that is not needed, None for an unknown one."""
    names = ANCHOR_NAMES if isinstance(config, AnchorHeadConfig) else FCOS_NAMES
    for pattern, name in names:
        if match := re.fullmatch(pattern, published):
            return match.expand(name)
    return None


def head_from_published(
    config: AnchorHeadConfig | FCOSHeadConfig, rotated: bool, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A published head's weights under their names here, with β's sign ours.

    Args:
        config: of the head here.
        rotated: whether the head regresses OBBs.
        weights: `rpn_head_state_dict` or `fcos_state_dict`.

    Raises:
        ValueError: an unknown name, or anchors that are not where the published ones are.
    """
    anchors = isinstance(config, AnchorHeadConfig)
    if anchors and config.anchors.offset != 0:
        raise ValueError("published anchors stand at the lower corners of cells: use AnchorConfig(offset=0)")
    renamed: dict[str, Tensor] = {}
    for published, weight in weights.items():
        name = head_name_from_published(config, published)
        if name is None:
            kind = "anchor-based" if anchors else "anchor-free"
            raise ValueError(f"{published} is no weight of a published {kind} head")
        if name and anchors and rotated and name.startswith("box."):
            weight = weight.clone()
            weight[7::8] *= -1
        if name:
            renamed[name] = weight
    return renamed
