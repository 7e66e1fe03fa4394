"""Published weights of the heads, by names, shapes and what they compute."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.backbones import GridBatch
from rcnn.boxes import AnchorConfig, decode_midpoint_offsets
from rcnn.rpn import (
    AnchorHead,
    AnchorHeadConfig,
    FCOSHead,
    FCOSHeadConfig,
    head_from_published,
    head_name_from_published,
)

ANCHOR = AnchorHeadConfig(anchors=AnchorConfig(offset=0))
FCOS = FCOSHeadConfig()


def published_shapes(config: AnchorHeadConfig | FCOSHeadConfig, rotated: bool, channels: int) -> dict:
    """Names and shapes as in NeRF-RPN's `RPNHead` and `FCOSModule`."""
    numbers = 8 if rotated else 6

    def conv(name: str, out: int, kernel: int) -> dict:
        return {f"{name}.weight": (out, channels, kernel, kernel, kernel), f"{name}.bias": (out,)}

    if isinstance(config, AnchorHeadConfig):
        shapes = {**conv("cls_logits", 13, 1), **conv("bbox_pred", 13 * numbers, 1)}
        for i in range(4):
            shapes |= conv(f"conv.{2 * i}", channels, 3)
        return shapes
    shapes = {f"head.scales.{i}.scale": (1,) for i in range(5)}
    for name, out in (("cls_logits", 1), ("bbox_pred", numbers), ("centerness", 1)):
        shapes |= conv(f"head.{name}", out, 3)
    for tower in ("cls_tower", "bbox_tower"):
        for i in range(4):
            shapes |= conv(f"head.{tower}.{3 * i}", channels, 3)
            shapes |= {f"head.{tower}.{3 * i + 1}.{part}": (channels,) for part in ("weight", "bias")}
    return shapes


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("config", [ANCHOR, FCOS], ids=["anchor", "fcos"])
def test_every_published_weight_has_its_place(config: AnchorHeadConfig | FCOSHeadConfig, rotated: bool) -> None:
    shapes = published_shapes(config, rotated, 256)
    with torch.device("meta"):
        head = (
            AnchorHead(config, 256, rotated) if isinstance(config, AnchorHeadConfig) else FCOSHead(config, 256, rotated)
        )
        converted = head_from_published(config, rotated, {name: torch.zeros(s) for name, s in shapes.items()})
    expected = {name: tuple(weight.shape) for name, weight in head.state_dict().items()}
    assert {name: tuple(weight.shape) for name, weight in converted.items()} == expected
    assert head_name_from_published(config, "backbone.weight") is None
    with pytest.raises(ValueError, match=r"rpn\.cls_logits\.weight is no weight"):
        head_from_published(config, rotated, {"rpn.cls_logits.weight": torch.zeros(1)})


def random_weights(config: AnchorHeadConfig | FCOSHeadConfig, rotated: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = published_shapes(config, rotated, 32)
    return {name: torch.randn(s, dtype=torch.double) / s[-1] ** 2 / 4 for name, s in shapes.items()}


def conv(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    weight = weights[f"{name}.weight"]
    return F.conv3d(x, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)


SIDES = (12, 8, 16)
CELLS = (3, 2, 4)


def maps() -> tuple[Tensor, list[Tensor], GridBatch]:
    x = torch.randn(1, 32, *CELLS, dtype=torch.double)
    others = [torch.zeros(1, 32, *(-(-side // stride) for side in SIDES)).double() for stride in (8, 16, 32)]
    return x, [x, *others], GridBatch(torch.zeros(1, 4, *SIDES, dtype=torch.double), (SIDES,))


@torch.no_grad()
def test_published_anchor_head_computes_the_same_boxes() -> None:
    """With the mirrored midpoint offset, and anchors at the corners of cells."""
    weights = random_weights(ANCHOR, True)
    head = AnchorHead(ANCHOR, 32, True).double()
    head.load_state_dict(head_from_published(ANCHOR, True, weights))
    x, levels, batch = maps()
    finest = head.candidates(head(levels, batch), batch)[0]
    for i in range(4):
        x = conv(x, weights, f"conv.{2 * i}").relu()
    logits = conv(x, weights, "cls_logits").permute(0, 2, 3, 4, 1).flatten(1)
    torch.testing.assert_close(finest.scores, logits.sigmoid())
    deltas = conv(x, weights, "bbox_pred").view(1, 13, 8, -1).permute(0, 3, 1, 2).reshape(1, -1, 8)
    mirrored = deltas * torch.tensor([1, 1, 1, 1, 1, 1, 1, -1])
    cell = 1 * 2 * 4 + 1 * 4 + 3
    cube = torch.tensor([4.0, 4, 12] * 2) + torch.tensor([-4.0] * 3 + [4] * 3)
    assert torch.equal(finest.references[13 * cell], cube.double())
    boxes = head.decode(finest.regressed[0, 13 * cell], finest.references[13 * cell])
    torch.testing.assert_close(boxes, decode_midpoint_offsets(mirrored[0, 13 * cell], cube.double()))
    with pytest.raises(ValueError, match="offset=0"):
        head_from_published(AnchorHeadConfig(), True, weights)


@torch.no_grad()
def test_published_anchor_free_head_computes_the_same() -> None:
    weights = random_weights(FCOS, True)
    weights["head.scales.0.scale"] += 2
    head = FCOSHead(FCOS, 32, True).double()
    head.load_state_dict(head_from_published(FCOS, True, weights))
    x, levels, batch = maps()
    finest = head.candidates(head(levels, batch), batch)[0]
    towers = []
    for tower in ("cls_tower", "bbox_tower"):
        y = x
        for i in range(4):
            y = conv(y, weights, f"head.{tower}.{3 * i}")
            name = f"head.{tower}.{3 * i + 1}"
            y = F.group_norm(y, 32, weights[f"{name}.weight"], weights[f"{name}.bias"]).relu()
        towers.append(y)
    scores = (
        conv(towers[0], weights, "head.cls_logits").sigmoid() * conv(towers[1], weights, "head.centerness").sigmoid()
    )
    torch.testing.assert_close(finest.scores, scores.sqrt().flatten(1))
    regressed = conv(towers[1], weights, "head.bbox_pred") * weights["head.scales.0.scale"]
    regressed = torch.cat([regressed[:, :6].relu() * 4, regressed[:, 6:]], 1)
    torch.testing.assert_close(finest.regressed, regressed.flatten(2).mT)
    assert finest.references[-1].tolist() == [10, 6, 14]
