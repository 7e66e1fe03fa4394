"""A small scene, and detectors narrow enough for tests."""

from dataclasses import replace

import torch
from torch import Tensor

from rcnn.backbones import ResNetConfig
from rcnn.boxes import box_iou, obb_to_aabb
from rcnn.rpn import AnchorHeadConfig, FCOSHeadConfig, NeRFRPN, NeRFRPNConfig, Proposals

BACKBONE = ResNetConfig(
    blocks=(1, 1, 1, 1), block="basic", width=8, out_channels=24, norm="group", norm_groups=4, channels_last=False
)

HEADS = {"anchor": AnchorHeadConfig(convs=1, nms_per_level=False), "fcos": FCOSHeadConfig(convs=1, norm_groups=4)}

SCENE = (36, 34, 20)
"""Voxels; 32 divides none of them."""

BOXES = torch.tensor([[10.0, 10, 7, 12, 10, 14, 0.4], [26, 9, 6, 9, 13, 12, -0.7], [17, 25, 6, 20, 10, 12, 0.15]])
"""OBBs in voxels."""


def detector(name: str, rotated: bool = False, convs: int = 1, **loss: object) -> NeRFRPN:
    """A detector with one of the heads, the same weights at each call, and options of its losses changed."""
    torch.manual_seed(0)
    config = HEADS[name]
    config = replace(config, convs=convs, loss=replace(config.loss, **loss))  # type: ignore[arg-type]
    return NeRFRPN(NeRFRPNConfig(BACKBONE, config, rotated))


def sharpen(model: NeRFRPN) -> NeRFRPN:
    """Larger weights in the head: scores that differ."""
    for parameter in model.head.parameters():
        if parameter.ndim > 1:
            parameter.data *= 10
    return model


def truth(rotated: bool) -> Tensor:
    """Of the scene."""
    return BOXES if rotated else obb_to_aabb(BOXES)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def blocks(boxes: Tensor = BOXES, size: tuple[int, int, int] = SCENE) -> Tensor:
    """A grid `[4, *size]` in which OBBs are opaque blocks, each of another colour, and the rest is empty."""
    axes = [torch.arange(side) + 0.5 for side in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    grid = torch.zeros(4, *size)
    for n, (cx, cy, cz, w, l, h, yaw) in enumerate(boxes):
        x, y, z = (points - torch.stack([cx, cy, cz])).unbind(-1)
        along, across = x * yaw.cos() + y * yaw.sin(), y * yaw.cos() - x * yaw.sin()
        inside = (along.abs() < w / 2) & (across.abs() < l / 2) & (z.abs() < h / 2)
        color = torch.tensor([(n + 1) / 4, 1 - n / 4, 0.5, 1])
        grid = torch.where(inside, color[:, None, None, None], grid)
    return grid


def found(proposals: Proposals, boxes: Tensor) -> float:
    """Share of the boxes that the best proposals, twice as many, overlap by more than half."""
    best = proposals.top(2 * len(boxes)).boxes
    return (box_iou(boxes, best) > 0.5).any(1).float().mean().item()
