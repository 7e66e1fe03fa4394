"""The whole detector: grids together and alone, on CPUs and GPUs, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from toy_rooms import TINY, TINY_HEADS

from rcnn.backbones import GridBatch
from rcnn.boxes import aabb_to_obb
from rcnn.instances import VoxelMasks, mask_nms, paste_masks
from rcnn.roi_heads import DetectionConfig, NeRFRCNN, NeRFRCNNConfig, mask_targets

CONFIG = NeRFRCNNConfig(
    TINY,
    replace(TINY_HEADS, detections=DetectionConfig(score_threshold=0.0, max_detections=20)),
    ("chair", "lamp"),
    mask_threshold=0.4,
    mask_nms_iou=0.8,
)
EXTENTS = ((36, 24, 17), (29, 32, 20))


def detector(rotated: bool = False) -> NeRFRCNN:
    """With weights large enough that boxes, classes and masks differ."""
    torch.manual_seed(0)
    model = NeRFRCNN(replace(CONFIG, rpn=replace(TINY, rotated=rotated))).eval()
    for layer in (model.heads.box.logits, model.heads.box.deltas, model.heads.mask.logits):
        torch.nn.init.normal_(layer.weight, std=0.2)
    return model


def grids() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(4, *extent, generator=generator) for extent in EXTENTS]


@pytest.mark.parametrize("rotated", [False, True])
def test_a_grid_gets_what_it_gets_alone(rotated: bool) -> None:
    model = detector(rotated)
    aabbs = torch.tensor([[2.0, 3, 1, 20, 15, 9], [5, 11, 4, 27, 24, 16]])
    proposals = [aabb_to_obb(aabbs) if rotated else aabbs] * 2
    together = model.detect(GridBatch.collate(grids()), proposals)
    for n, grid in enumerate(grids()):
        alone = model.detect(GridBatch.collate([grid]), proposals[:1])[0]
        torch.testing.assert_close(together[n].scores, alone.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together[n].boxes, alone.boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(together[n].masks, alone.masks, atol=1e-3, rtol=1e-3)
    for found, extent in zip(model(GridBatch.collate(grids())), EXTENTS, strict=True):  # type: ignore[arg-type]
        assert found.masks.shape == extent
        assert (found.masks.counts > 0).all()
        assert (found.scores.diff() <= 0).all()


def test_masks_are_refined_where_the_config_says_so() -> None:
    aabbs, batch = torch.tensor([[2.0, 3, 1, 20, 15, 9], [5, 11, 4, 27, 24, 16]]), GridBatch.collate(grids())
    model = detector()
    plain = model.instances(batch, [aabbs] * 2)
    # By the mask alone, and sure of whatever it takes: the same masks, with the scores of the classes.
    model.config = replace(model.config, mask_refinement=(-4e3, 1e4, *[0.0] * 21))
    refined = model.instances(batch, [aabbs] * 2)
    for before, after in zip(plain, refined, strict=True):
        assert len(after)
        assert (after.scores.diff() <= 0).all()
        assert after.masks.iou(before.masks).amax(1).min() > 0.99
    # And by opacity alone, masks hold what is opaque.
    model.config = replace(model.config, mask_refinement=(-5e3, *[0.0] * 4, 1e4, *[0.0] * 17))
    for after, grid in zip(model.instances(batch, [aabbs] * 2), grids(), strict=True):
        assert len(after)
        assert (grid[3].reshape(-1)[after.masks.voxels] >= 0.4999).all()
    with pytest.raises(ValueError, match="23 weights"):
        NeRFRCNNConfig(mask_refinement=(1.0,))


def test_without_proposals_there_is_nothing() -> None:
    model = detector()
    none = [torch.zeros(0, 6)] * 2
    for found in model.instances(GridBatch.collate(grids()), none):
        assert len(found) == 0
    losses = model.train().losses(GridBatch.collate(grids()), none, [torch.zeros(0).long()] * 2, None, none)
    assert sum(losses.values()) == 0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(weight.grad is not None for weight in model.heads.parameters()), "every process takes part"


def test_what_it_refuses() -> None:
    model, batch = detector().train(), GridBatch.collate(grids())
    with pytest.raises(ValueError, match="needs the boxes and labels"):
        model(batch)
    with pytest.raises(ValueError, match="this detector learns AABBs"):
        model(batch, [torch.zeros(0, 7)] * 2, [torch.zeros(0).long()] * 2)
    with pytest.raises(ValueError, match="different names"):
        NeRFRCNNConfig(categories=("chair", "chair"))
    with pytest.raises(ValueError, match="freeze one of"):
        model.freeze("heads")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rotated", [False, True])
def test_gpus_find_what_cpus_find(rotated: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it moves boxes by hundredths of a voxel
    model = detector(rotated)
    aabbs = torch.tensor([[2.0, 3, 1, 20, 15, 9], [5, 11, 4, 27, 24, 16]])
    proposals = aabb_to_obb(aabbs) if rotated else aabbs
    expected = model.detect(GridBatch.collate(grids()[:1]), [proposals])[0]
    found = model.cuda().detect(GridBatch.collate(grids()[:1]).to("cuda"), [proposals.cuda()])[0]
    torch.testing.assert_close(found.boxes.cpu(), expected.boxes, atol=0.02, rtol=0)
    torch.testing.assert_close(found.masks.cpu(), expected.masks, atol=0.02, rtol=0)  # type: ignore[union-attr]
    pasted = paste_masks(expected.masks.cuda(), expected.boxes.cuda(), EXTENTS[0])  # type: ignore[union-attr]
    alike = paste_masks(expected.masks, expected.boxes, EXTENTS[0])  # type: ignore[arg-type]
    assert float(pasted.to("cpu").iou(alike).diagonal()[alike.counts > 20].min()) > 0.98
    torch.testing.assert_close(pasted.iou(pasted).cpu(), pasted.to("cpu").iou(pasted.to("cpu")))
    rows = mask_nms(pasted, expected.scores.cuda(), None, 0.3).cpu()
    assert torch.equal(rows, mask_nms(pasted.to("cpu"), expected.scores, None, 0.3))
    ids = torch.zeros(EXTENTS[0], dtype=torch.int32)
    ids[3:20, 4:15, 2:9] = 1
    targets = mask_targets([ids], [torch.zeros(2).long()], [proposals], 8)
    torch.testing.assert_close(
        mask_targets([ids.cuda()], [torch.zeros(2).long().cuda()], [proposals.cuda()], 8).cpu(), targets
    )
    assert torch.equal(VoxelMasks.of_ids(ids.cuda(), 1).dense().cpu()[0], ids == 1)
    training = model.train()
    with torch.autocast("cuda", torch.bfloat16):
        losses = training(
            GridBatch.collate(grids()).to("cuda"), [proposals.cuda()] * 2, [torch.tensor([0, 1]).cuda()] * 2,
            [ids.cuda(), torch.zeros(EXTENTS[1], dtype=torch.int32, device="cuda")],
        )  # fmt: skip
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
