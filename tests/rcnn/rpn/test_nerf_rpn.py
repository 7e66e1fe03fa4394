"""The whole detector: padding, precision, repetition, and learning one scene by heart."""

import pytest
import torch
from rpn_cases import BACKBONE, BOXES, HEADS, SCENE, blocks, detector, found, sharpen, total, truth

from rcnn.backbones import GridBatch
from rcnn.boxes import MatchingConfig, box_iou
from rcnn.rpn import FCOSHead, FCOSHeadConfig, NeRFRPN, NeRFRPNConfig


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_padding_changes_nothing(name: str, rotated: bool) -> None:
    """Losses and gradients as in a batch of the same grids without padding; proposals and heatmaps as alone."""
    # All anchors enter the loss: a random choice would be another one.
    options = {"matching": MatchingConfig(samples=10**6)} if name == "anchor" else {}
    model = sharpen(detector(name, rotated, convs=2, **options).double())
    grids = [blocks().double(), blocks().double().flip(1)]
    boxes = [truth(rotated).double(), truth(rotated)[:0].double()]
    plain = GridBatch.collate(grids)
    features = torch.full((2, 4, 45, 35, 33), float("nan"), dtype=torch.double)
    features[:, :, : SCENE[0], : SCENE[1], : SCENE[2]] = plain.features
    padded = GridBatch(features, plain.extents)
    results = []
    for batch in (plain, padded):
        model.zero_grad()
        losses = model.losses(model.outputs(batch), batch, boxes)
        total(losses).backward()
        results.append((losses, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-7, atol=1e-8)

    model.eval()
    small = torch.rand(4, 21, 42, 13, dtype=torch.double)
    batch = GridBatch.collate([grids[0], small])
    with torch.no_grad():
        outputs = model.outputs(batch)
    together, heatmaps = model.propose(outputs, batch), model.heatmap(outputs, batch, 4)
    for n, grid in enumerate((grids[0], small)):
        alone = GridBatch.collate([grid])
        with torch.no_grad():
            outputs = model.outputs(alone)
        (expected,) = model.propose(outputs, alone)
        assert len(expected) > 20
        torch.testing.assert_close(together[n].scores, expected.scores)
        torch.testing.assert_close(together[n].boxes, expected.boxes)
        assert torch.equal(together[n].levels, expected.levels)
        assert (expected.boxes[:, :3] >= 0).all()
        assert (expected.boxes[:, :2] <= torch.tensor(grid.shape[1:3])).all()
        (heatmap,) = model.heatmap(outputs, alone, 4)
        assert heatmap.shape == tuple(-(-side // 4) for side in grid.shape[1:])
        torch.testing.assert_close(heatmaps[n], heatmap)
        assert heatmap.max() >= expected.scores[0] - 1e-6


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_learns_a_scene_by_heart(name: str, rotated: bool) -> None:
    """The best proposal is right, and all boxes are among the best few."""
    # Of so few anchors as good as all, and many steps less.
    options = {"matching": MatchingConfig(samples=2048), "box_weight": 10.0} if name == "anchor" else {}
    model = detector(name, rotated, **options)
    batch, boxes = GridBatch.collate([blocks()]), truth(rotated)
    assert found(model.eval()(batch)[0], boxes) < 1
    model.train()
    steps, rate = (30, 5e-3) if name == "fcos" else (50, 4e-3)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        total(model(batch, [boxes])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    (proposals,) = model(batch)
    assert found(proposals, boxes) == 1
    assert box_iou(boxes, proposals.top(1).boxes).max() > 0.5


@pytest.mark.parametrize("name", HEADS)
def test_half_precision_is_for_networks_alone(name: str) -> None:
    """Losses and boxes of given outputs are the same under autocast, those of its own outputs nearly."""
    # Losses with products of matrices, which autocast would round.
    model = sharpen(detector(name, True, box="giou", projection_weight=1.0))
    batch = GridBatch.collate([blocks()])
    outputs = model.outputs(batch)
    torch.manual_seed(0)
    expected, (proposals,) = model.losses(outputs, batch, [BOXES]), model.propose(outputs, batch)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        assert model.losses(outputs, batch, [BOXES]) == expected
        assert torch.equal(model.propose(outputs, batch)[0].boxes, proposals.boxes)
        torch.manual_seed(0)
        losses = model(batch, [BOXES])
        (proposals,) = model.eval()(batch)
    total(losses).backward()
    assert all(term.dtype == torch.float32 for term in losses.values())
    assert proposals.boxes.dtype == proposals.scores.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0.02)


def test_the_same_seed_gives_the_same_losses() -> None:
    # Of the two heads this one chooses at random.
    model = sharpen(detector("anchor", matching=MatchingConfig(samples=16)))
    batch = GridBatch.collate([blocks()])
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(batch, [truth(False)]))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_scales_and_prior_of_the_anchor_free_head() -> None:
    model = detector("fcos").eval()
    assert isinstance(model.head, FCOSHead)
    batch = GridBatch.collate([blocks()])
    outputs = model.outputs(batch)
    assert outputs[0][0].sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
    with torch.no_grad():
        model.head.scales[1] *= 3  # type: ignore[index]
        scaled = model.outputs(batch)
    for level in range(4):
        torch.testing.assert_close(scaled[1][level], outputs[1][level] * (3 if level == 1 else 1))
    # In strides, and in voxels for proposals.
    for distances, candidates, stride in zip(
        outputs[1], model.head.candidates(outputs, batch), (4, 8, 16, 32), strict=True  # type: ignore[arg-type]
    ):  # fmt: skip
        torch.testing.assert_close(candidates.regressed, distances * stride)


def test_wrong_boxes() -> None:
    model = detector("fcos")
    batch = GridBatch.collate([blocks()])
    with pytest.raises(ValueError, match="training needs the boxes"):
        model(batch)
    with pytest.raises(ValueError, match=r"learns AABBs, \[G, 6\]; the boxes are \[3, 7\]"):
        model(batch, [BOXES])
    with pytest.raises(ValueError, match="boxes of 2 grids for a batch of 1"):
        model(batch, [truth(False)] * 2)
    with pytest.raises(ValueError, match="OBBs"):
        detector("anchor", True)(batch, [torch.zeros(0, 6)])


def test_a_head_for_other_strides() -> None:
    with pytest.raises(ValueError, match=r"strides \(4, 8\), the backbone's are \(4, 8, 16, 32\)"):
        NeRFRPN(NeRFRPNConfig(BACKBONE, FCOSHeadConfig(strides=(4, 8))))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_on_a_gpu(name: str, rotated: bool) -> None:
    model = sharpen(detector(name, rotated)).eval()
    batch = GridBatch.collate([blocks(), torch.rand(4, 21, 50, 13)])
    boxes = [truth(rotated), truth(rotated)[:0]]
    expected = model(batch)
    model.cuda()
    on_gpu = batch.to("cuda")
    for there, here in zip(model(on_gpu), expected, strict=True):
        assert there.boxes.is_cuda
        torch.testing.assert_close(there.scores[:5].cpu(), here.scores[:5], rtol=1e-2, atol=1e-3)
    model.train()
    with torch.autocast("cuda", torch.bfloat16):
        losses = model(on_gpu, boxes)
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
