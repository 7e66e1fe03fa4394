"""Anchors, their matches with ground truth, and the samples of the loss."""

import pytest
import torch

from rcnn.boxes import (
    AnchorConfig,
    MatchingConfig,
    aabb_to_obb,
    box_iou,
    make_anchors,
    match_boxes,
    sample_matches,
)

CONFIG = AnchorConfig()
MATCHING = MatchingConfig()
LIKE = torch.zeros(())


def level_shapes(*grid: int) -> list[list[int]]:
    """Cells of levels whose convolutions pad: they cover the grid."""
    return [[-(-side // stride) for side in grid] for stride in CONFIG.strides]


def test_thirteen_shapes_per_cell() -> None:
    anchors = make_anchors(CONFIG, [[2, 3, 4], [1, 2, 2], [1, 1, 1], [1, 1, 1]], LIKE)
    assert [len(level) for level in anchors] == [24 * 13, 4 * 13, 13, 13]
    for level, size in zip(anchors, CONFIG.sizes, strict=True):
        sides = (level[:13, 3:] - level[:13, :3]) / size
        triples = {tuple(row) for row in sides.tolist()}
        assert len(triples) == 13
        assert {tuple(sorted(row)) for row in triples} == {(1, 1, 1), (1, 1, 2), (1, 2, 2), (1, 1, 3), (1, 3, 3)}


def test_cells_are_in_the_order_of_the_grid() -> None:
    level = make_anchors(CONFIG, [[2, 3, 4], [1, 2, 2], [1, 1, 1], [1, 1, 1]], LIKE)[0].reshape(2, 3, 4, 13, 6)
    assert level[1, 2, 3, 0].tolist() == [6 - 4, 10 - 4, 14 - 4, 6 + 4, 10 + 4, 14 + 4]
    published = make_anchors(AnchorConfig(offset=0), [[2, 3, 4], [1, 2, 2], [1, 1, 1], [1, 1, 1]], LIKE)[0]
    assert published.reshape(2, 3, 4, 13, 6)[1, 2, 3, 0].tolist() == [0, 4, 8, 8, 12, 16]


def test_strides_on_grids_that_32_does_not_divide() -> None:
    """130 voxels over 5 cells are 26, but the cells are 32 apart."""
    for level, stride, cells in zip(make_anchors(CONFIG, level_shapes(130, 98, 50), LIKE), CONFIG.strides,
                                    level_shapes(130, 98, 50), strict=True):  # fmt: skip
        centers = ((level[:, :3] + level[:, 3:]) / 2).reshape(*cells, 13, 3)
        assert centers[0, 0, 0, 0].tolist() == [stride / 2] * 3
        last = [(n - 0.5) * stride for n in cells]
        assert centers[-1, -1, -1, 0].tolist() == last
        assert all(voxels <= center + stride / 2 for voxels, center in zip((130, 98, 50), last, strict=True))


def test_batches_of_other_shapes_do_not_meet() -> None:
    """Nothing is kept from one call to the next."""
    first = make_anchors(CONFIG, level_shapes(64, 64, 64), LIKE)
    make_anchors(CONFIG, level_shapes(96, 32, 64), LIKE)
    again = make_anchors(CONFIG, level_shapes(64, 64, 64), LIKE)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_wrong_levels() -> None:
    with pytest.raises(ValueError, match="3 feature levels"):
        make_anchors(CONFIG, [[1, 1, 1]] * 3, LIKE)
    with pytest.raises(ValueError, match="strides"):
        AnchorConfig(sizes=(8.0,))


ANCHORS = torch.tensor(
    [
        [0.0, 0, 0, 10, 10, 10],  # IoU 1 with the first box
        [0, 0, 0, 10, 10, 3],  # 0.3: between the thresholds
        [0, 0, 0, 10, 10, 1],  # 0.1
        [50, 50, 50, 60, 60, 60],  # nothing
        [100, 0, 0, 110, 10, 10],  # 0.1 with the second box, its best
    ]
)
BOXES = torch.tensor([[0.0, 0, 0, 10, 10, 10], [100, 0, 0, 110, 10, 1]])


def test_matches_by_hand() -> None:
    for boxes in (BOXES, aabb_to_obb(BOXES)):
        labels, matched = match_boxes(MATCHING, ANCHORS, boxes)
        assert labels.tolist() == [1, -1, 0, 0, 1]
        assert matched.tolist() == [0, -1, -1, -1, 1]
        assert labels.dtype == matched.dtype == torch.int32
    labels, _ = match_boxes(MatchingConfig(match_every_box=False), ANCHORS, BOXES)
    assert labels.tolist() == [1, -1, 0, 0, 0]


def test_padding_is_ignored() -> None:
    valid = torch.tensor([False, True, True, True, False])
    labels, matched = match_boxes(MATCHING, ANCHORS, BOXES, valid)
    # The first box's best among the valid ones; the second box has none.
    assert labels.tolist() == [-1, 1, 0, 0, -1]
    assert matched.tolist() == [-1, 0, -1, -1, -1]


def test_scenes_without_objects() -> None:
    for columns in (6, 7):
        labels, matched = match_boxes(MATCHING, ANCHORS, torch.zeros(0, columns), torch.tensor([True] * 4 + [False]))
        assert labels.tolist() == [0, 0, 0, 0, -1]
        assert (matched == -1).all()
    positive, negative = sample_matches(MATCHING, labels)
    assert positive.tolist() == []
    assert negative.tolist() == [0, 1, 2, 3]
    labels, matched = match_boxes(MATCHING, ANCHORS[:0], BOXES)
    assert labels.shape == matched.shape == (0,)


def test_boxes_that_no_anchor_overlaps_match_none() -> None:
    """Their best IoU is 0, which all anchors apart from them have."""
    apart = torch.tensor([[500.0, 500, 500, 510, 510, 510], [5, 5, 5, 5, 5, 5]])
    labels, matched = match_boxes(MATCHING, ANCHORS, torch.cat([apart, BOXES]))
    assert labels.tolist() == [1, -1, 0, 0, 1]
    assert matched.tolist() == [2, -1, -1, -1, 3]
    labels, _ = match_boxes(MATCHING, ANCHORS, apart)
    assert labels.tolist() == [0] * 5


def test_samples_are_balanced() -> None:
    labels = torch.cat([torch.ones(400), torch.zeros(2000), -torch.ones(100)]).int()
    positive, negative = sample_matches(MATCHING, labels)
    assert (len(positive), len(negative)) == (128, 128)
    assert (labels[positive] == 1).all()
    assert (labels[negative] == 0).all()
    few = labels.clone()
    few[10:400] = -1
    positive, negative = sample_matches(MatchingConfig(samples=64, positive_fraction=0.25), few)
    assert (len(positive), len(negative)) == (10, 54)
    torch.manual_seed(3)
    first = sample_matches(MATCHING, labels)
    torch.manual_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(first, sample_matches(MATCHING, labels), strict=True))


def test_every_object_of_a_room_has_an_anchor() -> None:
    """Boxes of 6 to 70 voxels anywhere in a grid that 32 does not divide, its far corner included."""
    grid = (130, 98, 50)
    anchors = torch.cat(make_anchors(CONFIG, level_shapes(*grid), LIKE))
    boxes = torch.tensor([[122.0, 90, 42, 130, 98, 50], [100, 60, 0, 130, 98, 40], [0, 0, 0, 70, 60, 50]])
    labels, matched = match_boxes(MATCHING, anchors, boxes)
    assert set(matched[labels == 1].tolist()) == {0, 1, 2}
    assert (box_iou(boxes, anchors).amax(1) > MATCHING.foreground_iou).all()
