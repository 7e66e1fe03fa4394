"""Losses of the heads: by hand, and where there is nothing to learn from."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from rpn_cases import HEADS, SCENE, blocks, detector, total, truth

from rcnn.backbones import STRIDES, GridBatch
from rcnn.boxes import (
    AnchorConfig,
    MatchingConfig,
    encode_aabb_deltas,
    encode_location_distances,
    encode_midpoint_offsets,
    make_anchors,
    match_boxes,
    projected_box_loss,
)
from rcnn.boxes.iou_losses import IoULossKind
from rcnn.rpn import (
    AnchorLossConfig,
    FCOSHead,
    FCOSHeadConfig,
    FCOSLossConfig,
    LocationAssignmentConfig,
    anchor_losses,
    assign_locations,
    centerness,
    fcos_losses,
    focal_loss,
    level_locations,
)
from rcnn.rpn.location_assignment import pad_boxes
from rcnn.rpn.process_average import average_over_processes
from rcnn.rpn.projection_loss import projection_loss


def test_centerness_by_hand() -> None:
    distances = torch.tensor([[2.0, 5, 1, 2, 5, 1], [1, 1, 1, 3, 3, 3], [0, 1, 1, 4, 1, 1], [0, 0, 0, 0, 0, 0]])
    expected = torch.tensor([1.0, math.sqrt(1 / 27), 0, 0])
    torch.testing.assert_close(centerness(distances), expected)


def test_focal_loss_by_hand() -> None:
    """Probability 3/4: -0.25 (1/4)² ln(3/4) for an object, -0.75 (3/4)² ln(1/4) for background."""
    logits = torch.full((2,), math.log(3.0))
    expected = torch.tensor([0.25 / 16 * math.log(4 / 3), 0.75 * 9 / 16 * math.log(4)])
    torch.testing.assert_close(focal_loss(logits, torch.tensor([1.0, 0])), expected)


def test_fcos_losses_by_hand() -> None:
    """Grids of 8 x 4 x 4 and 4 x 4 x 4 voxels in cells of 4; the second has no object.

    The first one's box [0, 8] x [0, 4] x [0, 4] is seen from x = 2, distances (2, 2, 2, 6, 2, 2), and from x = 6, with
    a centerness of √(1/3) both times.
    """
    objectness, centers = torch.tensor([[0.0, 1], [2, 100]]), torch.tensor([[0.5, -0.5], [100, 100]])
    distances = torch.zeros(2, 2, 6)
    distances[0, 0] = torch.tensor([2.0, 2, 2, 6, 2, 2]) / 4
    distances[0, 1] = torch.tensor([2.0, 2, 2, 2, 2, 2]) / 4
    distances.requires_grad_()
    losses = fcos_losses(
        FCOSLossConfig(LocationAssignmentConfig(size_limits=()), box_weight=3.0),
        objectness,
        distances,
        centers,
        [level_locations((2, 1, 1), 4, objectness)],
        torch.tensor([[True, True], [True, False]]),
        (4,),
        (4.0,),
        [torch.tensor([[0.0, 0, 0, 8, 4, 4]]), torch.zeros(0, 6)],
        [(8, 4, 4), (4, 4, 4)],
    )
    focal = focal_loss(torch.tensor([0.0, 1, 2]), torch.tensor([1.0, 1, 0]))
    torch.testing.assert_close(losses["objectness"], focal.sum() / 2)
    target = math.sqrt(1 / 3)
    logs = [target * math.log1p(math.exp(-x)) + (1 - target) * math.log1p(math.exp(x)) for x in (0.5, -0.5)]
    assert losses["centerness"].item() == pytest.approx(sum(logs) / 2)
    # In strides the box has a volume of 2; the second prediction has 1, all of it inside.
    assert losses["box"].item() == pytest.approx(3 * (0 + math.log(3 / 2)) / 2)
    losses["box"].backward()
    assert distances.grad is not None
    assert (distances.grad[1] == 0).all()
    # Towards x = 0, the far side from the second location.
    assert distances.grad[0, 1, 0] < 0


def test_anchor_losses_by_hand() -> None:
    """Four anchors, all sampled but the one in between: an object, two of background."""
    anchors = torch.tensor([[0.0, 0, 0, 10, 10, 10], [0, 0, 0, 10, 10, 3], [0, 0, 0, 10, 10, 1], [5, 5, 5, 6, 6, 6]])
    box = torch.tensor([[0.0, 0, 0, 10, 10, 9]])
    logits = torch.tensor([[1.0, 7, -1, 2], [9, 9, 9, 9]])
    deltas = torch.zeros(2, 4, 6)
    deltas[0, 0, 0] = 0.5
    valid = torch.tensor([[True] * 4, [False] * 4])
    config = AnchorLossConfig(box_weight=5.0, projection_weight=2.0)
    truth = [box, torch.zeros(0, 6)]
    losses = anchor_losses(config, logits, deltas, anchors, valid, truth, [(16, 12, 10), (4, 4, 4)])
    expected = F.softplus(torch.tensor([-1.0, -1, 2])).sum() / 3
    torch.testing.assert_close(losses["objectness"], expected)
    difference = (deltas[0, 0] - encode_aabb_deltas(box, anchors[:1])[0]).abs()
    smooth = torch.where(difference < 1 / 9, 4.5 * difference.square(), difference - 1 / 18).sum()
    torch.testing.assert_close(losses["box"], 5 * smooth / 3)
    moved = torch.tensor([[5.0, 0, 0, 15, 10, 10]])
    torch.testing.assert_close(losses["projection"], 2 * projected_box_loss(moved, box, 16.0).sum())


def test_as_many_anchors_are_sampled_as_asked_for() -> None:
    logits = torch.zeros(1, 400, requires_grad=True)
    anchors = torch.tensor([0.0, 0, 0, 8, 8, 8]).repeat(400, 1)
    config = AnchorLossConfig(MatchingConfig(samples=50))
    valid = torch.ones(1, 400, dtype=torch.bool)
    anchor_losses(config, logits, torch.zeros(1, 400, 6), anchors, valid, [anchors[:1]], [(8, 8, 8)])[
        "objectness"
    ].backward()
    assert logits.grad is not None
    # Half of them objects; there is no background to fill up with.
    assert logits.grad.count_nonzero() == 25


def test_boxes_that_no_anchor_overlaps_teach_nothing() -> None:
    """Their best IoU is 0, which all anchors apart from them have."""
    anchors = torch.tensor([[0.0, 0, 0, 8, 8, 8], [8, 0, 0, 16, 8, 8]])
    deltas = torch.ones(1, 2, 6, requires_grad=True)
    apart = torch.tensor([[100.0, 100, 100, 110, 110, 110]])
    losses = anchor_losses(
        AnchorLossConfig(), torch.zeros(1, 2), deltas, anchors, torch.ones(1, 2).bool(), [apart], [(128, 128, 128)]
    )
    assert losses["box"] == 0
    torch.testing.assert_close(losses["objectness"], torch.tensor(math.log(2.0)))


def test_projection_loss_of_several_extents() -> None:
    boxes, others = torch.rand(3, 7) * 10, torch.rand(3, 7) * 10
    extents = torch.tensor([20.0, 50, 160])
    # Near enough in yaw for both to be written the same way.
    others[:, 6] = boxes[:, 6] + 0.5
    for columns in (7, 6):
        a, b = boxes[:, :columns], others[:, :columns]
        rows = [projected_box_loss(a[i : i + 1], b[i : i + 1], e.item()) for i, e in enumerate(extents)]
        torch.testing.assert_close(projection_loss(a, b, extents), torch.cat(rows), rtol=1e-4, atol=1e-5)


def test_projection_loss_does_not_depend_on_how_a_box_is_written() -> None:
    """A quarter turn with the sides swapped is the same box."""
    box = torch.tensor([[10.0, 12, 9, 8, 4, 6, 0.3]])
    for turns in range(-3, 4):
        same = box.clone()
        same[0, 6] += turns * math.pi / 2
        if turns % 2:
            same[0, 3:5] = box[0, [4, 3]]
        torch.testing.assert_close(projection_loss(same, box, torch.tensor([32.0])), torch.zeros(1), rtol=0, atol=1e-4)
    assert projection_loss(box + torch.tensor([0, 0, 0, 0, 0, 0, 0.2]), box, torch.tensor([32.0])) > 0.1


KINDS = ["smooth_l1", *get_args(IoULossKind)]


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_every_loss_with_and_without_objects(name: str, rotated: bool) -> None:
    batch = GridBatch.collate([blocks()])
    features = None
    for kind in KINDS:
        model = detector(name, rotated, box=kind, projection_weight=0.1)
        features = features or [level.detach() for level in model.backbone(batch)]
        for boxes in (truth(rotated), truth(rotated)[:0]):
            losses = model.losses(model.head(features, batch), batch, [boxes])
            expected = {"objectness", "box", "projection"}
            if name == "fcos":
                expected |= {"centerness", "midpoints"} if rotated else {"centerness"}
            assert losses.keys() == expected
            assert all(term.isfinite() for term in losses.values())
            assert all((losses[term] > 0) == (len(boxes) > 0) for term in expected - {"objectness"}), (kind, losses)
            assert losses["objectness"] > 0
            model.zero_grad()
            total(losses).backward()
            for parameter_name, parameter in model.head.named_parameters():
                assert parameter.grad is not None, parameter_name
                assert parameter.grad.isfinite().all(), parameter_name
                # A level without a box to learn gives its scale nothing.
                assert len(boxes) == 0 or parameter.grad.any() or "scales" in parameter_name, parameter_name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rotated", [False, True])
def test_right_boxes_cost_nothing(kind: str, rotated: bool) -> None:
    """Two grids; boxes of the second are those of the first, but for two voxels."""
    boxes = [truth(rotated).double(), truth(rotated)[:2].double()]
    boxes[1][:, 2] += 2
    extents, like = [SCENE] * 2, torch.zeros((), dtype=torch.double)
    shapes = [[-(-side // stride) for side in SCENE] for stride in STRIDES]

    anchors = torch.cat(make_anchors(AnchorConfig(), shapes, like))
    encode = encode_midpoint_offsets if rotated else encode_aabb_deltas
    rows = [match_boxes(MatchingConfig(), anchors, b).boxes.long() for b in boxes]
    deltas = torch.stack([encode(b[row], anchors) for b, row in zip(boxes, rows, strict=True)])
    config = AnchorLossConfig(box=kind, projection_weight=1.0)  # type: ignore[arg-type]
    valid = torch.ones(2, len(anchors), dtype=torch.bool)
    losses = anchor_losses(config, valid.double(), deltas, anchors, valid, boxes, extents)
    assert losses["box"].abs() < 1e-6
    assert losses["projection"].abs() < 1e-6

    locations = [level_locations(shape, stride, like) for shape, stride in zip(shapes, STRIDES, strict=True)]
    points = torch.cat(locations)
    rows = assign_locations(LocationAssignmentConfig(), locations, STRIDES, pad_boxes(boxes)).long()
    distances = torch.stack([encode_location_distances(b[row], points) for b, row in zip(boxes, rows, strict=True)])
    config = FCOSLossConfig(box=kind, projection_weight=1.0)  # type: ignore[arg-type]
    inside = torch.ones(2, len(points), dtype=torch.bool)
    losses = fcos_losses(
        config, inside.double(), distances, inside.double(), locations, inside, STRIDES, [1.0] * 4, boxes, extents
    )
    assert all(losses[term].abs() < 1e-6 for term in losses.keys() - {"objectness", "centerness"})


def test_distances_in_voxels() -> None:
    """Without normalised targets: exponentials, but not of the midpoint offsets."""
    torch.manual_seed(0)
    config = FCOSHeadConfig(convs=0, norm_reg_targets=False)
    head = FCOSHead(config, 24, True)
    batch = GridBatch(torch.zeros(1, 4, *SCENE), (SCENE,))
    maps = [torch.randn(1, 24, *(-(-side // stride) for side in SCENE)) for stride in config.strides]
    outputs = head(maps, batch)
    for level in outputs.distances:
        assert (level[..., :6] > 0).all()
        assert (level[..., 6:] < 0).any()
    levels = head.candidates(outputs, batch)
    assert torch.equal(levels[3].regressed, outputs.distances[3])


def test_totals_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    total = torch.tensor(3.0)
    assert average_over_processes(total) is total
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.add_(7))
    assert average_over_processes(total) == 5
    assert total == 3
