"""Published weights, by names, shapes and what they compute."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from backbone_cases import random_grids
from torch import Tensor

from rcnn.backbones import BACKBONES, BackboneName, GridBatch, ResNetConfig, build_backbone, name_from_published

Shapes = dict[str, tuple[int, ...]]


def _norm(name: str, channels: int) -> Shapes:
    shapes: Shapes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**shapes, f"{name}.num_batches_tracked": ()}


def _affine(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def published_resnet50(width: int = 64, out: int = 256, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> Shapes:
    shapes: Shapes = {"conv1.weight": (width, 4, 7, 7, 7), **_norm("bn1", width)}
    channels = width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for block in range(count):
            name = f"layers.{stage}.{block}"
            for i, (a, b, k) in enumerate([(channels, inner, 1), (inner, inner, 3), (inner, 4 * inner, 1)], 1):
                shapes |= {f"{name}.conv{i}.weight": (b, a, k, k, k), **_norm(f"{name}.bn{i}", b)}
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * inner, channels, 1, 1, 1)
                shapes |= _norm(f"{name}.downsample.1", 4 * inner)
            channels = 4 * inner
    for i in range(4):
        shapes |= _affine(f"latlayers.{i}", out, 4 * width * 2 ** (3 - i), 1, 1, 1)
    for i in range(3):
        shapes |= _affine(f"smooths.{i}", out, out, 3, 3, 3)
    return shapes


def _published_pyramid(channels: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {}
    for i, width in enumerate(channels):
        shapes |= _affine(f"fpn_neck.lateral_convs.{i}", 256, width, 1, 1, 1)
        shapes |= _affine(f"fpn_neck.fpn_convs.{i}", 256, 256, 3, 3, 3)
    return shapes


def published_vgg(stages: tuple[tuple[int, ...], ...]) -> Shapes:
    shapes = {**_affine("layers.0", 64, 4, 7, 7, 7), **_norm("layers.1", 64)}
    channels = 64
    for stage, widths in enumerate(stages):
        for i, width in enumerate(widths):
            shapes |= _affine(f"layers.{4 + stage}.{3 * i}", width, channels, 3, 3, 3)
            shapes |= _norm(f"layers.{4 + stage}.{3 * i + 1}", width)
            channels = width
    return {**shapes, **_published_pyramid((128, 256, 512, 512))}


def published_swin(dim: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> Shapes:
    shapes = {**_affine("patch_partition.0", dim, 4, 4, 4, 4), **_affine("patch_partition.2", dim)}
    for stage, depth in enumerate(depths):
        width, first = dim * 2**stage, int(stage > 0)
        if stage > 0:
            shapes[f"stages.{stage}.0.reduction.weight"] = (width, 4 * width)
            shapes |= _affine(f"stages.{stage}.0.norm", 4 * width)
        for block in range(first, first + depth):
            name = f"stages.{stage}.{block}"
            shapes |= {**_affine(f"{name}.norm1", width), **_affine(f"{name}.norm2", width)}
            shapes |= {**_affine(f"{name}.attn.qkv", 3 * width, width), **_affine(f"{name}.attn.proj", width, width)}
            shapes |= {**_affine(f"{name}.mlp.0", 4 * width, width), **_affine(f"{name}.mlp.3", width, 4 * width)}
            shapes[f"{name}.attn.relative_position_bias_table"] = (343, heads[stage])
            shapes[f"{name}.attn.relative_position_index"] = (4096,)
    return {**shapes, **_published_pyramid(tuple(dim * 2**stage for stage in range(4)))}


PUBLISHED: dict[BackboneName, Shapes] = {
    "resnet50": published_resnet50(),
    "vgg_AF": published_vgg(((64, 128), (256, 256), (512, 512), (512, 512))),
    "vgg_EF": published_vgg(((64, 64, 128, 128), (256,) * 4, (512,) * 4, (512,) * 4)),
    "swin_t": published_swin(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_s": published_swin(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_l": published_swin(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_weight_has_its_place(name: BackboneName) -> None:
    config = BACKBONES[name]
    with torch.device("meta"):
        model = build_backbone(config)
    renamed = {name_from_published(config, key): shape for key, shape in PUBLISHED[name].items()}
    assert None not in renamed
    renamed.pop("", None)
    assert renamed == {key: tuple(value.shape) for key, value in model.state_dict().items()}
    statistics = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")
    parameters = sum(prod(shape) for key, shape in PUBLISHED[name].items() if not key.endswith(statistics))
    assert parameters == sum(parameter.numel() for parameter in model.parameters())
    assert name_from_published(config, "head.weight") is None


@torch.no_grad()
def test_published_resnet_computes_the_same() -> None:
    """The published network written out over its own names."""
    torch.manual_seed(0)
    config = ResNetConfig(blocks=(1, 2, 1, 1), width=4, out_channels=8)
    shapes = published_resnet50(4, 8, config.blocks)
    weights = {
        key: torch.rand(shape, dtype=torch.double) - 0.5 * ("running" not in key) for key, shape in shapes.items()
    }
    model = build_backbone(config).double().eval()
    model.load_state_dict({name_from_published(config, key) or "": value for key, value in weights.items()})

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv3d(x, weight, weights.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (weights[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    (grid,) = random_grids([(70, 41, 33)])
    x = F.max_pool3d(norm(conv(grid[None].double(), "conv1", 2), "bn1").relu(), 3, 2, 1)
    maps = []
    for stage, count in enumerate(config.blocks):
        for block in range(count):
            name, stride = f"layers.{stage}.{block}", 2 if stage > 0 and block == 0 else 1
            inner = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
            inner = norm(conv(inner, f"{name}.conv2"), f"{name}.bn2").relu()
            residual = norm(conv(inner, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + residual).relu()
        maps.append(x)
    pyramid = [conv(maps[3], "latlayers.0")]
    for i in (1, 2, 3):
        finer = conv(maps[3 - i], f"latlayers.{i}")
        pyramid.append(F.interpolate(pyramid[-1], size=finer.shape[2:]) + finer)
    expected = [pyramid[0], *(conv(level, f"smooths.{i}") for i, level in enumerate(pyramid[1:]))][::-1]
    for level, other in zip(model(GridBatch.collate([grid.double()])), expected, strict=True):
        torch.testing.assert_close(level, other)
