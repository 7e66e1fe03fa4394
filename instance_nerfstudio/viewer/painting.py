"""How instances are coloured in the viewer: by instance, category or confidence, with the selection highlighted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nerfstudio.utils import colormaps
from torch import Tensor

from instance_nerfstudio.masks.instances_json import InstanceInfo
from rcnn.instance_palette import BACKGROUND_COLOUR, colour_instances, overlay

ColourBy = Literal["instance", "category", "confidence"]
HIGHLIGHT = (1.0, 0.85, 0.1)
# Share of the highlight's colour inside the selection, and the width of its rim relative to the picture's height.
_TINT, _RIM = 0.25, 1 / 200


@dataclass(frozen=True)
class PaintStyle:
    """What the panel is set to."""

    infos: tuple[InstanceInfo, ...] = ()
    selected: tuple[int, ...] = ()
    colour_by: ColourBy = "instance"
    opacity: float = 0.5
    """Of the colours over the photo."""


def paint(outputs: dict[str, Tensor], style: PaintStyle) -> dict[str, Tensor]:
    """The outputs of a camera with `instances`, `instances_overlay` and `rgb` as the panel wants them; new tensors.

    Args:
        outputs: of `InstanceModel.render`, with `instance_ids` and `instance_confidence`.
        style: the panel's settings.
    """
    if "instance_ids" not in outputs:
        return dict(outputs)
    ids = outputs["instance_ids"][..., 0]
    if style.colour_by == "confidence":
        colours = colormaps.apply_colormap(outputs["instance_confidence"])
        background = torch.tensor(BACKGROUND_COLOUR, device=ids.device) / 255
        colours = torch.where((ids > 0)[..., None], colours, background)
    else:
        colours = _table(style, ids.device)[ids.clamp(min=-1).long() + 1]
    painted = dict(outputs)
    painted["instances"] = colours
    painted["instances_overlay"] = overlay(outputs["rgb"], ids, style.opacity, colours=colours)
    if style.selected:
        inside = torch.isin(ids, torch.tensor(style.selected, dtype=ids.dtype, device=ids.device))
        rim = _rim(inside, max(1, round(ids.shape[0] * _RIM)))
        for name in ("rgb", "instances", "instances_overlay"):
            painted[name] = _highlighted(painted[name], inside, rim)
    return painted


def _table(style: PaintStyle, device: torch.device) -> Float[Tensor, "ids 3"]:
    """Colour of each id, unlabelled first."""
    largest = max((info.id for info in style.infos), default=0)
    table = colour_instances(torch.arange(-1, largest + 1, device=device))
    if not style.infos:
        return table
    ids = torch.tensor([info.id for info in style.infos], device=device)
    if style.colour_by == "category":
        table[ids + 1] = colour_instances(torch.tensor(category_numbers(style.infos), device=device))
    else:
        table[ids + 1] = torch.tensor([info.colour for info in style.infos], device=device) / 255
    return table


def category_numbers(infos: Sequence[InstanceInfo]) -> list[int]:
    """Number of each instance's category from 1, in alphabetical order."""
    names = sorted({info.category for info in infos})
    return [1 + names.index(info.category) for info in infos]


def _rim(inside: Bool[Tensor, "height width"], width: int) -> Bool[Tensor, "height width"]:
    """Pixels just outside of a region."""
    mask = inside[None, None].float()
    return (F.max_pool2d(mask, 2 * width + 1, stride=1, padding=width)[0, 0] > 0) & ~inside


def _highlighted(
    picture: Float[Tensor, "height width 3"],
    inside: Bool[Tensor, "height width"],
    rim: Bool[Tensor, "height width"],
) -> Float[Tensor, "height width 3"]:
    highlight = torch.tensor(HIGHLIGHT, dtype=picture.dtype, device=picture.device)
    weight = torch.where(inside, _TINT, 0.0) + torch.where(rim, 1.0, 0.0)
    return torch.lerp(picture, highlight.expand_as(picture), weight[..., None].to(picture))
