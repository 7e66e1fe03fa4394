"""Non-maximum suppression against the loop as one writes it down."""

import pytest
import torch
from box_cases import assert_greedy, crowded_boxes, greedy, random_boxes

from rcnn.boxes import batched_nms, box_iou, nms
from rcnn.boxes.iou import masked_box_iou
from rcnn.boxes.nms_blocks import resolve, suppress_in_blocks

NAN, INF = float("nan"), float("inf")


def test_by_hand() -> None:
    # IoU of neighbours 1/3, of the first and third 0.
    boxes = torch.tensor([[0.0, 0, 0, 2, 1, 1], [1, 0, 0, 3, 1, 1], [2, 0, 0, 4, 1, 1]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]
    assert nms(boxes, torch.tensor([0.7, 0.9, 0.8]), 0.3).tolist() == [1]
    assert nms(boxes, torch.tensor([0.7, 0.9, 0.8]), 0.34).tolist() == [1, 2, 0]
    assert batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([5, -1, 5]), 0.3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_equals_the_loop(rotated: bool, threshold: float) -> None:
    boxes = random_boxes(150, rotated, extent=8, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    # Few different scores: ties go to the first.
    scores = torch.randint(0, 12, (150,), generator=generator) / 12
    groups = torch.randint(-2, 2, (150,), generator=generator)
    ious = box_iou(boxes, boxes)
    expected = greedy(ious, scores, groups, threshold)
    assert batched_nms(boxes, scores, groups, threshold).tolist() == expected
    assert nms(boxes, scores, threshold).tolist() == greedy(ious, scores, torch.zeros(150), threshold)
    order = scores.argsort(descending=True, stable=True)
    for block in (1, 7, 64):
        kept = suppress_in_blocks(boxes[order], groups[order], threshold, block)
        assert order[kept].tolist() == expected


@pytest.mark.parametrize("rotated", [False, True])
def test_single_precision_is_greedy(rotated: bool) -> None:
    """Also at a threshold of 0, where the least rounding of the IoU of boxes that are apart would suppress one."""
    boxes, scores, groups = crowded_boxes(700, rotated)
    ious = masked_box_iou(boxes.double(), boxes.double(), (groups, groups))
    for threshold, least, most in ((0.0, 100, 200), (0.3, 300, 420), (0.8, 450, 650)):
        kept = batched_nms(boxes, scores, groups, threshold)
        assert least < len(kept) < most
        assert_greedy(kept, ious, scores, threshold)
        with pytest.raises(AssertionError):
            assert_greedy(kept[1:], ious, scores, threshold)


def test_groups_are_apart_without_moving_boxes() -> None:
    """Offsets of the groups would round these boxes, an eighth of a unit wide, to nothing."""
    boxes = random_boxes(2, True).repeat(2, 1)
    boxes[:, 3:6] = 0.125
    groups = torch.tensor([0, 0, 2**60, 2**60 + 1])
    assert batched_nms(boxes, torch.ones(4), groups, 0.5).tolist() == [0, 1, 2, 3]
    assert batched_nms(boxes, torch.ones(4), groups // 2**61, 0.5).tolist() == [0, 1]


def test_equal_boxes_and_scores() -> None:
    assert nms(random_boxes(1, True).repeat(600, 1), torch.ones(600), 0.5).tolist() == [0]


def test_a_long_chain() -> None:
    """Each box suppresses the next only: every other one stays, and the number of rounds is the worst case."""
    boxes = torch.tensor([[1.0 * i, 0, 0, i + 2.0, 1, 1] for i in range(300)])
    scores = torch.arange(300, 0, -1).float()
    assert nms(boxes, scores, 0.3).tolist() == list(range(0, 300, 2))
    assert resolve(torch.ones(5, 5, dtype=torch.bool).triu(1)).tolist() == [True, False, False, False, False]


def test_no_boxes() -> None:
    for columns in (6, 7):
        kept = batched_nms(torch.zeros(0, columns), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.3)
        assert kept.shape == (0,)
        assert kept.dtype == torch.int64


@pytest.mark.parametrize("rotated", [False, True])
def test_rows_that_are_no_numbers(rotated: bool) -> None:
    boxes = random_boxes(1, rotated).repeat(6, 1)
    boxes[1, 2] = NAN
    boxes[2, 3] = INF
    scores = torch.tensor([NAN, 0.9, 0.8, 0.1, INF, -INF])
    assert nms(boxes, scores, 0.5).tolist() == [4]
    assert nms(boxes[[0, 1, 5]], scores[[0, 1, 5]], 0.5).tolist() == [2]
    assert nms(boxes[:2], scores[:2], 0.5).tolist() == []


def test_half_precision() -> None:
    boxes, scores = random_boxes(60, True).half(), torch.rand(60, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(nms(boxes, scores, 0.3), nms(boxes.float(), scores.float(), 0.3))


def test_wrong_arguments() -> None:
    boxes = random_boxes(3, True)
    with pytest.raises(ValueError, match="scores"):
        nms(boxes, torch.zeros(2), 0.3)
    with pytest.raises(ValueError, match="groups"):
        batched_nms(boxes, torch.zeros(3), torch.zeros(4, dtype=torch.int64), 0.3)
    with pytest.raises(ValueError, match="iou_threshold"):
        nms(boxes, torch.zeros(3), NAN)
    with pytest.raises(ValueError, match="columns"):
        nms(boxes[:, :4], torch.zeros(3), 0.3)
