"""The choice among candidates."""

import pytest
import torch
from torch import Tensor

from rcnn.rpn import Candidates, ProposalConfig, objectness_heatmap, select_proposals

CONFIG = ProposalConfig()
GRID = (40, 40, 40)


def level(boxes: Tensor, scores: Tensor) -> Candidates:
    """Candidates whose regressed numbers are the boxes."""
    return Candidates(scores, boxes, torch.zeros(scores.shape[1], 3), (scores.shape[1], 1, 1))


def as_it_is(regressed: Tensor, references: Tensor) -> Tensor:
    assert references.shape[:-1] == regressed.shape[:-1]
    return regressed


def cubes(*centers: float, side: float = 4.0) -> Tensor:
    """AABBs of one grid along the diagonal."""
    middle = torch.tensor(centers)[None, :, None]
    return torch.cat([(middle - side / 2).expand(1, -1, 3), (middle + side / 2).expand(1, -1, 3)], 2)


def test_scores_and_levels_stay_with_their_boxes() -> None:
    """The second and the fourth lie outside, and the fifth is flat."""
    boxes = cubes(10, 60, 39, -20, 20)
    boxes[0, 4, 3] = boxes[0, 4, 0]
    scores = torch.tensor([[0.3, 0.9, 0.5, 0.8, 0.7]])
    coarse = level(cubes(25), torch.tensor([[0.4]]))
    (proposals,) = select_proposals(CONFIG, [level(boxes, scores), coarse], as_it_is, [GRID], False)
    torch.testing.assert_close(proposals.scores, torch.tensor([0.5, 0.4, 0.3]))
    assert proposals.boxes.tolist() == [[37, 37, 37, 40, 40, 40], [23, 23, 23, 27, 27, 27], [8, 8, 8, 12, 12, 12]]
    assert proposals.levels.tolist() == [0, 1, 0]
    assert proposals.levels.dtype == torch.int32
    assert len(proposals) == 3
    assert proposals.top(1).scores.tolist() == proposals.scores[:1].tolist()


def test_rotated_boxes_outside_take_their_scores_with_them() -> None:
    boxes = torch.tensor([[[50.0, 10, 10, 4, 4, 4, 0.3], [10, 10, 38, 4, 6, 8, 0.3], [10, -3, 10, 4, 4, 4, 0.3]]])
    (proposals,) = select_proposals(
        CONFIG, [level(boxes, torch.tensor([[0.9, 0.2, 0.8]]))], as_it_is, [GRID], nms_per_level=False
    )
    torch.testing.assert_close(proposals.scores, torch.tensor([0.2]))
    torch.testing.assert_close(proposals.boxes, torch.tensor([[10.0, 10, 37, 4, 6, 6, 0.3]]))


def test_suppression_within_or_across_levels() -> None:
    levels = [level(cubes(10, 10.5, 30), torch.tensor([[0.5, 0.6, 0.4]])), level(cubes(10), torch.tensor([[0.9]]))]
    (within,) = select_proposals(CONFIG, levels, as_it_is, [GRID], True)
    torch.testing.assert_close(within.scores, torch.tensor([0.9, 0.6, 0.4]))
    (across,) = select_proposals(CONFIG, levels, as_it_is, [GRID], False)
    torch.testing.assert_close(across.scores, torch.tensor([0.9, 0.4]))
    assert across.levels.tolist() == [1, 0]


def test_counts() -> None:
    """The two best of each level enter, three leave."""
    levels = [
        level(cubes(4, 10, 16, 22), torch.tensor([[0.1, 0.4, 0.3, 0.2]])),
        level(cubes(28, 34), torch.tensor([[0.05, 0.06]])),
    ]
    config = ProposalConfig(pre_nms_top_k=2, post_nms_top_k=3)
    (proposals,) = select_proposals(config, levels, as_it_is, [GRID], False)
    torch.testing.assert_close(proposals.scores, torch.tensor([0.4, 0.3, 0.06]))
    (proposals,) = select_proposals(ProposalConfig(score_threshold=0.3), levels, as_it_is, [GRID], False)
    torch.testing.assert_close(proposals.scores, torch.tensor([0.4, 0.3]))


def test_padding_and_nan_are_never_proposed() -> None:
    nan = float("nan")
    boxes = cubes(4, 10, 16, 22).repeat(2, 1, 1)
    boxes[1, 1, 2] = nan
    scores = torch.tensor([[0.1, -1, -1, 0], [nan, 0.9, 0.8, -1]])
    first, second = select_proposals(CONFIG, [level(boxes, scores)], as_it_is, [GRID, (20, 20, 15)], False)
    torch.testing.assert_close(first.scores, torch.tensor([0.1, 0]))
    torch.testing.assert_close(second.scores, torch.tensor([0.8]))
    # To its own grid, not to the batch's shape.
    assert second.boxes.tolist() == [[14, 14, 14, 18, 18, 15]]
    nothing = level(boxes, torch.full((2, 4), -1.0))
    assert [len(p) for p in select_proposals(CONFIG, [nothing], as_it_is, [GRID] * 2, True)] == [0, 0]


def test_heatmap_by_hand() -> None:
    """Cells of 2 and 4 in a grid of 5 x 2 x 1 voxels; two anchors in the finer ones."""
    fine = torch.full((1, 3 * 1 * 1 * 2), 0.1)
    fine[0, 3] = 0.7
    coarse = torch.tensor([[0.3, 0.2]])
    levels = [
        Candidates(fine, torch.zeros(1, 6, 6), torch.zeros(6, 6), (3, 1, 1)),
        Candidates(coarse, torch.zeros(1, 2, 6), torch.zeros(2, 6), (2, 1, 1)),
    ]
    (heatmap,) = objectness_heatmap(levels, (2, 4), [(5, 2, 1)])
    assert heatmap.shape == (5, 2, 1)
    torch.testing.assert_close(heatmap[:, 1, 0], torch.tensor([0.3, 0.3, 0.7, 0.7, 0.2]))
    (heatmap,) = objectness_heatmap(levels, (2, 4), [(3, 2, 1)], stride=2)
    torch.testing.assert_close(heatmap[:, 0, 0], torch.tensor([0.3, 0.7]))
    with pytest.raises(ValueError, match="stride 3"):
        objectness_heatmap(levels, (2, 4), [(5, 2, 1)], stride=3)


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ProposalConfig(pre_nms_top_k=0)
    with pytest.raises(ValueError, match="0, 1"):
        ProposalConfig(nms_iou=1.5)
