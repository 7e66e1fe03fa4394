"""Box operators on a GPU against the same on the CPU."""

import pytest
import torch
from box_cases import assert_greedy, crowded_boxes, random_boxes

from rcnn.boxes import AnchorConfig, batched_nms, box_iou, giou_loss, make_anchors, match_boxes, nms
from rcnn.boxes.box_matching import MatchingConfig
from rcnn.boxes.iou import masked_box_iou
from rcnn.boxes.nms_blocks import suppress_in_blocks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("rotated", [False, True])
def test_iou_and_gradients(rotated: bool) -> None:
    first, second = random_boxes(300, rotated, 1), random_boxes(200, rotated, 2)
    leaves = [b.cuda().requires_grad_() for b in (first, second)]
    ious = box_iou(leaves[0], leaves[1])
    plain = [b.requires_grad_() for b in (first, second)]
    expected = box_iou(plain[0], plain[1])
    torch.testing.assert_close(ious.cpu(), expected, atol=5e-6, rtol=0)
    weights = torch.rand(300, 200, generator=torch.Generator().manual_seed(0))
    got = torch.autograd.grad((ious * weights.cuda()).sum(), leaves)
    want = torch.autograd.grad((expected * weights).sum(), plain)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu(), b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 2048, 2049, 4161])
def test_nms_is_greedy(rotated: bool, count: int) -> None:
    boxes, scores, groups = crowded_boxes(count, rotated)
    ious = masked_box_iou(boxes.double(), boxes.double(), (groups, groups))
    for threshold in (0.0, 0.3, 0.8):
        kept = batched_nms(boxes.cuda(), scores.cuda(), groups.cuda(), threshold).cpu()
        assert_greedy(kept, ious, scores, threshold)


def test_nms_of_odd_boxes() -> None:
    boxes = random_boxes(500, True).cuda()
    scores = torch.ones(500, device="cuda")
    assert torch.equal(nms(boxes, scores, 0.3), nms(boxes, scores, 0.3))
    assert nms(boxes, scores, 0.3)[0] == 0
    assert nms(boxes[:1].repeat(3000, 1), scores[:1].repeat(3000), 0.3).tolist() == [0]
    assert nms(boxes[:0], scores[:0], 0.3).shape == (0,)
    boxes[0, 3], scores[1] = float("nan"), float("nan")
    assert nms(boxes, scores, 0.3)[0] == 2
    chain = torch.tensor([[1.0 * i, 0, 0, i + 2.0, 1, 1] for i in range(5000)], device="cuda")
    assert torch.equal(nms(chain, torch.arange(5000, 0, -1.0, device="cuda"), 0.3).cpu(), torch.arange(0, 5000, 2))


def test_nms_in_double_precision() -> None:
    boxes = random_boxes(800, True, dtype=torch.float64)
    kept = suppress_in_blocks(boxes.cuda(), None, 0.3)
    assert torch.equal(kept.cpu(), suppress_in_blocks(boxes, None, 0.3))


def test_rounds_do_not_wait_for_the_device() -> None:
    from rcnn.boxes import nms_kernels

    boxes = random_boxes(5000, True, extent=100).cuda()
    nms_kernels.suppress(boxes, None, 0.3, True)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        nms_kernels.suppress(boxes, None, 0.3, True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_anchors_and_losses() -> None:
    shapes = [[20, 10, 8], [10, 5, 4], [5, 3, 2], [3, 2, 1]]
    anchors = [
        torch.cat(make_anchors(AnchorConfig(), shapes, like)) for like in (torch.zeros(()), torch.zeros(1).cuda())
    ]
    assert torch.equal(anchors[0], anchors[1].cpu())
    boxes = random_boxes(10, True, extent=60, largest=30)
    matches = [match_boxes(MatchingConfig(), a, boxes.to(a)) for a in anchors]
    assert (matches[0].labels == matches[1].labels.cpu()).float().mean() > 0.999
    losses = giou_loss(boxes.cuda(), boxes.flip(0).cuda())
    torch.testing.assert_close(losses.cpu(), giou_loss(boxes, boxes.flip(0)), atol=1e-5, rtol=0)
