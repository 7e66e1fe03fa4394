"""Shapes, memory formats, checkpointing, mixed precision and initial weights of all backbones."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from backbone_cases import (
    NARROW,
    OneDtypeForAttention,
    OneDtypeForKernels,
    random_grids,
    randomize_norms,
    sum_of_squares,
)
from torch import nn

from rcnn.backbones import BACKBONES, STRIDES, GridBatch, ResNetConfig, SwinConfig, VGGConfig, build_backbone
from rcnn.backbones.conv_norm import ConvNorm
from rcnn.backbones.swin_blocks import SwinBlock


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("size", [(1, 2, 3), (32, 64, 32), (33, 47, 34)])
def test_levels_cover_the_grid(name: str, size: tuple[int, int, int]) -> None:
    model = build_backbone(NARROW[name]).eval()
    with torch.no_grad():
        levels = model(GridBatch.collate(random_grids([size])))
    assert model.strides == STRIDES
    for stride, level in zip(STRIDES, levels, strict=True):
        assert level.shape == (1, model.out_channels, *(-(-voxels // stride) for voxels in size))


@pytest.mark.parametrize("name", NARROW)
def test_channels_last_changes_only_the_memory(name: str) -> None:
    models = [build_backbone(replace(NARROW[name], channels_last=last)).double() for last in (True, False)]
    randomize_norms(models[0])
    models[1].load_state_dict(models[0].state_dict())
    batch = GridBatch.collate([grid.double() for grid in random_grids([(37, 18, 20), (20, 33, 21)])])
    for model, memory_format in zip(models, (torch.channels_last_3d, torch.contiguous_format), strict=True):
        convs = [module for module in model.modules() if isinstance(module, nn.Conv3d)]
        assert all(conv.weight.is_contiguous(memory_format=memory_format) for conv in convs)
    with torch.no_grad():
        for last, first in zip(*(model.eval()(batch) for model in models), strict=True):
            torch.testing.assert_close(last, first)


@pytest.mark.parametrize("name", NARROW)
def test_checkpointing_changes_only_the_memory(name: str) -> None:
    """Outputs, gradients and, though blocks run twice, running statistics; also with stochastic depth."""
    models = [build_backbone(replace(NARROW[name], checkpointing=on)).double().train() for on in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    batch = GridBatch.collate([grid.double() for grid in random_grids([(34, 20, 12), (20, 36, 12)])])
    for model, runs in zip(models, (1, 2), strict=True):
        counts = Counter()
        blocks = [module for module in model.modules() if isinstance(module, ConvNorm | SwinBlock)]

        def count(block: nn.Module, _: object, counts: Counter = counts) -> None:
            counts[block] += 1

        for block in blocks:
            block.register_forward_pre_hook(count)
        torch.manual_seed(3)
        sum_of_squares(model(batch)).backward()
        assert [counts[block] for block in blocks] == [runs] * len(blocks)
    for (key, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, msg=key)
    for (key, first), second in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(first, second, msg=key)


@pytest.mark.parametrize("name", NARROW)
def test_mixed_precision(name: str) -> None:
    torch.manual_seed(0)
    model = build_backbone(NARROW[name]).train()
    # oneDNN's gradient of a bfloat16 kernel in channels_last_3d reads memory that is not its own on maps of 2³ cells.
    batch = GridBatch.collate(random_grids([(66, 34, 20), (20, 66, 36)]))
    half = GridBatch(batch.features.half(), batch.extents)
    torch.manual_seed(1)
    expected = model(batch)
    torch.manual_seed(1)
    with OneDtypeForKernels() as kernels, OneDtypeForAttention() as attention, torch.autocast("cpu", torch.bfloat16):
        levels = model(half)
        sum_of_squares(levels).backward()
    assert kernels.calls["convolution_backward"] == kernels.calls["convolution"] > 0
    if name == "swin":
        assert (attention.calls, kernels.calls["native_layer_norm"]) == (8, 20)
    for level, exact in zip(levels, expected, strict=True):
        assert level.dtype == torch.bfloat16
        assert (level - exact).norm() < 0.1 * exact.norm()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_initial_weights() -> None:
    torch.manual_seed(0)
    resnet = build_backbone(ResNetConfig(blocks=(1, 1, 1, 1), width=16, out_channels=32))
    vgg = build_backbone(VGGConfig(stages=((16,), (16,), (16,), (16,)), stem_width=16, out_channels=32))
    swin = build_backbone(SwinConfig(embed_dim=32, heads=(1, 2, 4, 8), out_channels=32, depths=(1, 1, 1, 1)))
    for module in (resnet.stages[3][0].conv2, vgg.stages[0][0]):  # type: ignore[index]
        fan_out = module.conv.out_channels * 27
        assert module.conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert (module.norm.weight == 1).all()
    for model in (resnet, vgg, swin):
        for conv in model.fpn.modules():
            if isinstance(conv, nn.Conv3d):
                assert conv.weight.std().item() == pytest.approx(conv.weight[0].numel() ** -0.5, rel=0.1)
                assert conv.bias is not None
                assert (conv.bias == 0).all()
    for parameter in (swin.stages[3][1].mlp[0].weight, swin.stages[2][1].attn.relative_position_bias_table):  # type: ignore[index]
        assert parameter.std().item() == pytest.approx(0.02, rel=0.05)
    assert (swin.stages[3][1].attn.qkv.bias == 0).all()  # type: ignore[index]


def test_errors() -> None:
    for config in (NARROW["bottleneck"], NARROW["vgg"], NARROW["swin"]):
        with pytest.raises(ValueError, match="takes 4 channels, the grids have 3"):
            build_backbone(config)(GridBatch(torch.zeros(1, 3, 8, 8, 8), ((8, 8, 8),)))
    with pytest.raises(ValueError, match="divide"):
        SwinConfig(embed_dim=128)
    with pytest.raises(ValueError, match="4 stages"):
        VGGConfig(stages=((4,),))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NARROW)
def test_gpu_agrees_with_cpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    model = build_backbone(NARROW[name]).double().eval()
    batch = GridBatch.collate([grid.double() for grid in random_grids()])
    expected = model(batch)
    model, batch = model.cuda(), batch.to("cuda")
    for level, exact in zip(model(batch), expected, strict=True):
        torch.testing.assert_close(level.cpu(), exact)
    sum_of_squares(model(batch)).backward()
    exact = model.float()(GridBatch(batch.features.float(), batch.extents))
    with torch.autocast("cuda", torch.bfloat16):
        levels = model(batch)
        sum_of_squares(levels).backward()
    for level, reference in zip(levels, exact, strict=True):
        assert (level - reference).norm() < 0.1 * reference.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("padded", [False, True])
def test_gpu_does_not_make_the_host_wait(name: str, padded: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = build_backbone(NARROW[name]).cuda().train()
    batch = GridBatch.collate(random_grids([(40, 36, 20), (20, 40, 36) if padded else (40, 36, 20)])).to("cuda")
    model(batch)  # libraries may wait while they start
    batch = batch.to("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        levels = model(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(level.isfinite().all() for level in levels)


def test_names_cover_the_published_backbones() -> None:
    assert set(BACKBONES) == {"resnet18", "resnet50", "vgg_AF", "vgg_EF", "swin_t", "swin_s", "swin_b", "swin_l"}
    assert all(config.out_channels == 256 and config.in_channels == 4 for config in BACKBONES.values())
