"""Losses and detections of whole batches: grids of several sizes, empty ones, and the parameters that learn."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcnn.backbones import GridBatch
from rcnn.boxes import MatchingConfig, aabb_to_obb
from rcnn.roi_heads import (
    BoxHeadConfig,
    DetectionConfig,
    MaskHeadConfig,
    RoIHeads,
    RoIHeadsConfig,
    RoILossConfig,
    RoIPoolingConfig,
    mask_targets,
)

CHANNELS, STRIDES, CLASSES = 6, (4, 8), 3
EXTENTS = ((36, 24, 17), (40, 16, 24))
OBJECTS = (torch.tensor([[4.0, 3, 2, 16, 15, 10], [20, 8, 0, 36, 24, 17]]), torch.tensor([[10.0, 2, 4, 30, 14, 20]]))
LABELS = (torch.tensor([2, 0]), torch.tensor([1]))
CONFIG = RoIHeadsConfig(
    RoIPoolingConfig(canonical_scale=20.0, canonical_level=3),
    BoxHeadConfig(bins=3, hidden=16),
    MaskHeadConfig(bins=3, convs=1, channels=8),
    # More samples than proposals: nothing is left to chance.
    MatchingConfig(0.25, 0.25, True, 64, 0.5),
    detections=DetectionConfig(score_threshold=0.0, nms_iou=0.5, max_detections=12),
)


def heads(rotated: bool = False, config: RoIHeadsConfig = CONFIG) -> RoIHeads:
    """With weights large enough that grids and boxes differ."""
    torch.manual_seed(0)
    result = RoIHeads(config, CHANNELS, STRIDES, CLASSES, rotated)
    for layer in (result.box.logits, result.box.deltas, result.mask.logits):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return result


def scene(n: int, rotated: bool = False) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Maps, proposals, true boxes and instance map of a grid."""
    generator = torch.Generator().manual_seed(n)
    extent, boxes = EXTENTS[n], OBJECTS[n]
    maps = [torch.randn(1, CHANNELS, *(-(-side // s) for side in extent), generator=generator) for s in STRIDES]
    ids = torch.zeros(extent, dtype=torch.int32)
    for row, (x1, y1, z1, x2, y2, z2) in enumerate(boxes.long().tolist()):
        ids[x1:x2, y1:y2, z1:z2] = row + 1
    limit = torch.tensor(extent).repeat(2).float()
    low = torch.rand(20, 3, generator=generator) * (limit[:3] - 4)
    apart = torch.cat([low, low + 3 + 8 * torch.rand(20, 3, generator=generator)], 1).minimum(limit)
    near = boxes.repeat(4, 1) + 2 * torch.rand(4 * len(boxes), 6, generator=generator) - 1
    proposals = torch.cat([apart, near.clamp(min=0).minimum(limit)])
    kind = aabb_to_obb if rotated else (lambda aabbs: aabbs)
    return maps, kind(proposals), kind(boxes), ids


def collated(each: list[list[Tensor]]) -> tuple[list[Tensor], GridBatch]:
    """Maps of several grids in one, with zeros for padding."""
    batch = GridBatch.collate([torch.zeros(4, *extent) for extent in EXTENTS])
    features = []
    for level, stride in enumerate(STRIDES):
        whole = torch.zeros(len(each), CHANNELS, *(-(-side // stride) for side in batch.shape))
        for n, maps in enumerate(each):
            x, y, z = maps[level].shape[2:]
            whole[n, :, :x, :y, :z] = maps[level][0]
        features.append(whole)
    return features, batch


def single(n: int) -> GridBatch:
    return GridBatch.collate([torch.zeros(4, *EXTENTS[n])])


@pytest.mark.parametrize("rotated", [False, True])
def test_grids_get_the_same_in_a_batch_and_alone(rotated: bool) -> None:
    model = heads(rotated)
    scenes = [scene(n, rotated) for n in range(2)]
    features, batch = collated([maps for maps, *_ in scenes])
    together = model.detect(features, batch, [proposals for _, proposals, *_ in scenes])
    for n, (maps, proposals, *_) in enumerate(scenes):
        (alone,) = model.detect(maps, single(n), [proposals])
        assert len(alone) == 12
        assert (alone.scores.diff() <= 0).all()
        assert alone.labels.dtype == torch.int32
        assert alone.masks is not None
        assert alone.masks.shape == (12, 6, 6, 6)
        assert float(alone.masks.amin()) >= 0
        assert float(alone.masks.amax()) <= 1
        torch.testing.assert_close(vars(together[n]), vars(alone), atol=1e-5, rtol=1e-4)


def test_losses_are_means_over_the_batch() -> None:
    """Of classes and boxes over all samples, of masks over all samples with an object."""
    model = heads()
    scenes = [scene(n) for n in range(2)]
    features, batch = collated([maps for maps, *_ in scenes])
    _, proposals, boxes, ids = zip(*scenes, strict=True)
    together = model.losses(features, batch, proposals, boxes, LABELS, ids)
    alone = [
        model.losses(maps, single(n), [found], [truth], [LABELS[n]], [instances])
        for n, (maps, found, truth, instances) in enumerate(scenes)
    ]
    samples = torch.tensor([len(p) + len(b) for p, b in zip(proposals, boxes, strict=True)]).float()
    # By hand: each object's own box and its four near ones.
    positives = torch.tensor([10.0, 5.0])
    for name, counts in (("class", samples), ("box", samples), ("mask", positives), ("dice", positives)):
        mean = (torch.stack([losses[name] for losses in alone]) * counts).sum() / counts.sum()
        torch.testing.assert_close(together[name], mean, msg=name)
    without = model.losses(features, batch, proposals, boxes, LABELS, [ids[0], None])
    torch.testing.assert_close(without["mask"], alone[0]["mask"])
    torch.testing.assert_close(without["class"], together["class"])
    weights = RoILossConfig(class_weight=2, box_weight=3, mask_weight=0.5, dice_weight=0)
    weighted = heads(config=replace(CONFIG, loss=weights)).losses(features, batch, proposals, boxes, LABELS, ids)
    for name, factor in (("class", 2), ("box", 3), ("mask", 0.5), ("dice", 0)):
        torch.testing.assert_close(weighted[name], factor * together[name], msg=name)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
def test_batches_without_anything_still_reach_every_parameter(rotated: bool, agnostic: bool) -> None:
    """DDP waits for a gradient of each in every step."""
    config = replace(
        CONFIG,
        box=replace(CONFIG.box, class_agnostic=agnostic),
        mask=replace(CONFIG.mask, class_agnostic=agnostic, norm_groups=4),
    )
    model = heads(rotated, config)
    features, batch = collated([scene(n)[0] for n in range(2)])
    none, no_labels = torch.zeros(0, 7 if rotated else 6), torch.zeros(0, dtype=torch.int64)
    empty = [torch.zeros(extent, dtype=torch.int32) for extent in EXTENTS]
    somewhere = scene(0, rotated)[1]
    for proposals in ([none, none], [somewhere, none]):
        model.zero_grad()
        features = [level.requires_grad_() for level in features]
        losses = model.losses(features, batch, proposals, [none, none], [no_labels] * 2, empty)
        assert all(float(losses[name]) == 0 for name in ("box", "mask", "dice"))
        assert (float(losses["class"]) > 0) == (len(proposals[0]) > 0)
        torch.stack(list(losses.values())).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        found = model.detect(features, batch, proposals)
        assert [len(each) > 0 for each in found] == [len(each) > 0 for each in proposals]
        assert found[1].masks is not None
        assert found[1].masks.shape == (0, 6, 6, 6)
        assert found[1].boxes.shape == none.shape


@pytest.mark.parametrize("rotated", [False, True])
def test_half_precision(rotated: bool) -> None:
    """Networks run in it; losses, boxes and masks come in float32."""
    model = heads(rotated)
    maps, proposals, boxes, ids = scene(0, rotated)
    exact = model.losses(maps, single(0), [proposals], [boxes], [LABELS[0]], [ids])
    with torch.autocast("cpu", torch.bfloat16):
        half = [level.bfloat16() for level in maps]
        losses = model.losses(half, single(0), [proposals], [boxes], [LABELS[0]], [ids])
        (found,) = model.detect(half, single(0), [proposals])
    assert found.masks is not None
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == torch.float32
    for name, value in losses.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, exact[name], rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
def test_heads_learn_a_scene(rotated: bool, agnostic: bool) -> None:
    """Classes, corrected boxes and masks of the objects of one grid, from features that show where they are."""
    config = replace(
        CONFIG,
        box=BoxHeadConfig(bins=4, hidden=48, class_agnostic=agnostic),
        mask=MaskHeadConfig(bins=4, convs=1, channels=16, class_agnostic=agnostic),
        detections=DetectionConfig(score_threshold=0.3, nms_iou=0.2),
    )
    model = heads(rotated, config)
    _, proposals, boxes, ids = scene(0, rotated)
    # The upper part of each box is empty.
    ids[:, :, 7:] = 0
    features = [torch.zeros(1, CHANNELS, *(-(-side // s) for side in EXTENTS[0])) for s in STRIDES]
    for level, stride in zip(features, STRIDES, strict=True):
        seen = ids[::stride, ::stride, ::stride]
        level[0, 0], level[0, 1] = seen == 1, seen == 2
        axes = [torch.linspace(-1, 1, side) for side in level.shape[2:]]
        level[0, 2:5] = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(80):
        losses = model.losses(features, single(0), [proposals], [boxes], [LABELS[0]], [ids])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    (found,) = model.detect(features, single(0), [proposals])
    assert sorted(found.labels.tolist()) == sorted(LABELS[0].tolist())
    order = [LABELS[0].tolist().index(label) for label in found.labels.tolist()]
    torch.testing.assert_close(found.boxes, boxes[order], atol=1.0, rtol=0)
    assert found.masks is not None
    assert found.mask_boxes is not None
    wanted = mask_targets([ids], [torch.tensor(order)], [found.mask_boxes], 8)
    assert float(((found.masks > 0.5) == (wanted > 0.5)).float().mean()) > 0.9
