"""What heads learn from proposals, their losses, and the detections that are selected."""

import math

import pytest
import torch
from torch import Tensor

from rcnn.boxes import MatchingConfig, aabb_to_obb, encode_aabb_deltas, encode_obb_deltas
from rcnn.roi_heads import (
    BoxOutputs,
    DetectionConfig,
    MaskHead,
    MaskHeadConfig,
    box_loss,
    class_loss,
    dice_loss,
    make_roi_targets,
    mask_loss,
    select_detections,
)
from rcnn.roi_heads.detections import Detections, score_masks

MATCHING = MatchingConfig(0.25, 0.25, True, 8, 0.25)
OBJECTS = torch.tensor([[0.0, 0, 0, 4, 4, 4], [10, 10, 0, 16, 14, 6]])
LABELS = torch.tensor([3, 0])


@pytest.mark.parametrize("rotated", [False, True])
def test_proposals_learn_what_they_overlap(rotated: bool) -> None:
    proposals = torch.tensor([[0.0, 0, 0, 4, 4, 3], [1, 0, 0, 5, 4, 4], [30, 30, 0, 33, 33, 5], [0, 0, 3.5, 4, 4, 9]])
    kind = aabb_to_obb if rotated else (lambda boxes: boxes)
    torch.manual_seed(0)
    targets = make_roi_targets(MATCHING, kind(proposals), kind(OBJECTS), LABELS)
    assert targets.positives == 2, "a quarter of the samples"
    assert (targets.labels[:2] > 0).all()
    assert (targets.labels[2:] == 0).all()
    assert (targets.matched[2:] == -1).all()
    for box, label, row in zip(targets.boxes[:2], targets.labels[:2], targets.matched[:2], strict=True):
        assert label == LABELS[row] + 1
        assert any(torch.equal(box, other) for other in torch.cat([kind(proposals), kind(OBJECTS)]))
    none = make_roi_targets(MATCHING, kind(proposals), kind(OBJECTS[:0]), LABELS[:0])
    assert none.positives == 0
    assert len(none.boxes) == 4
    assert (none.labels == 0).all()
    only = make_roi_targets(MATCHING, kind(proposals[:0]), kind(OBJECTS), LABELS)
    assert sorted(only.matched.tolist()) == [0, 1]
    assert len(make_roi_targets(MATCHING, kind(proposals[:0]), kind(OBJECTS[:0]), LABELS[:0]).boxes) == 0


def test_obbs_match_by_their_own_overlap() -> None:
    """Crossed at right angles two planks have an IoU of 1 / 19, and what encloses them of 1 / 5 at least."""
    plank = torch.tensor([[20.0, 20, 5, 20, 2, 4, math.pi / 4]])
    crossing = torch.tensor([[20.0, 20, 5, 20, 2, 4, -math.pi / 4]])
    config = MatchingConfig(0.2, 0.2, False, 8, 0.25)
    assert make_roi_targets(config, crossing, plank, torch.tensor([0])).labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="proposals that are OBBs cannot learn AABBs"):
        make_roi_targets(config, crossing, OBJECTS, LABELS)


def test_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, 0, 0], [0.0, 1, 3]])
    labels = torch.tensor([0, 2])
    expected = -(2 - math.log(math.exp(2) + 2) + 3 - math.log(1 + math.e + math.exp(3))) / 2
    assert float(class_loss(logits, labels)) == pytest.approx(expected, rel=1e-5)
    proposals, boxes = (
        torch.tensor([[0.0, 0, 0, 4, 4, 4]]).expand(2, 6),
        torch.tensor([[2.0, 0, 0, 6, 4, 4]]).expand(2, 6),
    )
    deltas = torch.zeros(2, 2, 6)
    # Half a side off, over both samples: 0.5 - 0.5 / 9.
    assert float(box_loss(deltas, labels, proposals, boxes)) == pytest.approx((0.5 - 0.5 / 9) / 2)
    deltas[1, 1] = encode_aabb_deltas(boxes, proposals)[1]
    assert float(box_loss(deltas, labels, proposals, boxes)) == 0
    assert float(box_loss(deltas[:, 1:], labels, proposals, boxes)) == 0, "one correction for all classes"
    target = torch.zeros(1, 2, 2, 2)
    target[:, 0] = 1
    sure = 20 * (2 * target - 1)
    assert float(mask_loss(torch.zeros(1, 2, 2, 2), target)) == pytest.approx(math.log(2))
    assert float(mask_loss(sure, target)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(sure, target)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(-sure, target)) == pytest.approx(1 - 1 / 9)


def test_losses_without_objects_are_zero_with_gradients() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    deltas = torch.zeros(4, 2, 6, requires_grad=True)
    masks = torch.zeros(0, 2, 2, 2, requires_grad=True)
    boxes = torch.zeros(4, 6)
    total = class_loss(logits, torch.zeros(0).long()) + box_loss(deltas, torch.zeros(4).long(), boxes, boxes)
    total = total + mask_loss(masks, masks.detach()) + dice_loss(masks, masks.detach())
    total.backward()
    assert float(total) == 0
    assert deltas.grad is not None
    assert not deltas.grad.any()


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("detail_channels", [0, 5])
def test_masks_are_those_of_the_own_class(agnostic: bool, detail_channels: int) -> None:
    torch.manual_seed(0)
    config = MaskHeadConfig(
        bins=3, convs=1, channels=4, norm_groups=2, class_agnostic=agnostic, detail_channels=detail_channels
    )
    head = MaskHead(config, 5, 3)
    torch.nn.init.normal_(head.logits.weight)
    pooled, labels = torch.randn(4, 5, 3, 3, 3), torch.tensor([2, 0, 2, 1], dtype=torch.int32)
    grid, x = torch.rand(4, 4, 6, 6, 6), head.upsample(head.tower(pooled)).relu()
    if head.detail is not None:
        x = head.detail(torch.cat([head.narrow(x).relu(), grid], 1))
    every = head.logits(x)
    expected = every[:, 0] if agnostic else every[torch.arange(4), labels.long()]
    torch.testing.assert_close(head(pooled, labels, grid), expected)
    assert head(pooled[:0], labels[:0], grid[:0]).shape == (0, 6, 6, 6)


def outputs(probabilities: Tensor, targets: Tensor, proposals: Tensor, classes: int) -> BoxOutputs:
    encode = encode_obb_deltas if proposals.shape[1] == 7 else encode_aabb_deltas
    deltas = encode(targets, proposals)[:, None].expand(-1, classes, -1)
    return BoxOutputs(probabilities.log(), deltas)


@pytest.mark.parametrize("rotated", [False, True])
def test_detections(rotated: bool) -> None:
    kind = aabb_to_obb if rotated else (lambda boxes: boxes)
    proposals = torch.tensor([[0.0, 0, 0, 4, 4, 4], [0, 0, 0, 4, 4, 5], [10, 10, 0, 14, 14, 6], [18, 2, 1, 22, 6, 5]])
    better = torch.tensor([[0.0, 0, 0, 5, 4, 4], [0, 0, 0, 5, 4, 4.5], [10, 10, 1, 14, 15, 7], [15, 2, 1, 24, 6, 5]])
    probabilities = torch.tensor([[0.1, 0.7, 0.2], [0.15, 0.8, 0.05], [0.3, 0.3, 0.4], [0.5, 0.01, 0.49]])
    config = DetectionConfig(score_threshold=0.25, nms_iou=0.3)
    said = outputs(probabilities, kind(better), kind(proposals), 2)
    found = select_detections(config, kind(proposals), said, (20, 20, 20))
    # The first repeats the second; the third may be of both classes; the fourth reaches over a wall.
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.49, 0.4, 0.3]))
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert found.labels.dtype == torch.int32
    expected = kind(better)[[1, 3, 2, 2]]
    if not rotated:
        expected = expected.clamp(max=20)
    torch.testing.assert_close(found.boxes, expected)
    few = DetectionConfig(score_threshold=0.25, nms_iou=0.3, max_detections=2)
    assert len(select_detections(few, kind(proposals), said, (20, 20, 20))) == 2
    agnostic = BoxOutputs(said.logits, said.deltas[:, :1])
    torch.testing.assert_close(select_detections(config, kind(proposals), agnostic, (20, 20, 20)).boxes[0], expected[0])
    none = BoxOutputs(said.logits[:0], said.deltas[:0])
    assert len(select_detections(config, kind(proposals)[:0], none, (9, 9, 9))) == 0
    assert len(select_detections(DetectionConfig(0.95), kind(proposals), said, (20, 20, 20))) == 0


def test_a_score_counts_how_sure_a_mask_is() -> None:
    masks = torch.zeros(3, 2, 2, 2)
    masks[0, 0], masks[1], masks[2] = 0.5, 0.9, 0.3  # half of the cells filled, all, none
    boxes = torch.arange(18.0).view(3, 6)
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.arange(3).int(), masks, boxes - 1)
    scored = score_masks(found, 0.4)
    assert scored.masks is not None
    assert scored.mask_boxes is not None
    assert scored.labels.tolist() == [1, 0, 2]
    torch.testing.assert_close(scored.scores, torch.tensor([0.72, 0.45, 0.0]))
    assert torch.equal(scored.boxes, boxes[[1, 0, 2]])
    assert torch.equal(scored.masks, masks[[1, 0, 2]])
    assert torch.equal(scored.mask_boxes, (boxes - 1)[[1, 0, 2]])
    nothing = Detections(boxes[:0], torch.zeros(0), torch.zeros(0).int(), masks[:0], boxes[:0])
    assert len(score_masks(nothing, 0.4)) == 0
