"""Which segment a pixel gets where masks overlap, and what classes are called."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.segments.class_table import ClassTable, load_class_table
from instance_nerfstudio.segments.flatten import flatten
from instance_nerfstudio.segments.mask_source import Detections
from instance_nerfstudio.segments.query_masks import instance_detections, panoptic_detections
from instance_nerfstudio.segments.settings import FlattenConfig
from rcnn.rooms.assets.classes import furniture_classes

TABLE = ClassTable(frozenset({"wall"}), {"couch": "sofa"})
Box = tuple[int, int, int, int]


def masks(*boxes: Box) -> torch.Tensor:
    """Rectangles (x1, y1, x2, y2) in a picture of 20 x 10."""
    drawn = torch.zeros(len(boxes), 10, 20, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(drawn, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return drawn


def flat(boxes: list[Box], scores: list[float], names: list[str], complete: bool = False, **config: float):
    found = Detections(masks(*boxes), torch.tensor(scores), names, complete)
    return flatten(found, TABLE, FlattenConfig(**{"min_area": 0.0, **config}))


def test_the_higher_score_is_in_front() -> None:
    view = flat([(0, 0, 10, 10), (6, 0, 16, 10)], [0.7, 0.9], ["chair", "couch"])
    assert view.categories == ("sofa", "chair")
    np.testing.assert_allclose(view.scores, [0.9, 0.7])
    assert view.ids[5].tolist() == [2] * 6 + [1] * 10 + [0] * 4
    assert view.ids.dtype == np.int32


def test_what_lies_inside_a_larger_mask_is_in_front_of_it() -> None:
    boxes = [(0, 0, 12, 10), (3, 3, 7, 7)]
    view = flat(boxes, [0.99, 0.8], ["couch", "pillow"])
    assert view.categories == ("pillow", "sofa")
    assert view.ids[4, 4] == 1
    assert view.ids[1, 1] == 2
    # A second mask of the same sofa is not; nor is a mask of nearly its size, or one of a much lower score.
    assert flat(boxes, [0.99, 0.8], ["couch", "couch"]).categories == ("sofa",)
    assert flat([boxes[0], (0, 0, 11, 9)], [0.99, 0.8], ["couch", "bed"]).categories == ("sofa",)
    assert flat(boxes, [0.99, 0.7], ["couch", "pillow"]).categories == ("sofa",)


def test_three_nested_masks() -> None:
    view = flat([(0, 0, 20, 10), (0, 0, 9, 10), (1, 1, 4, 4)], [0.9, 0.8, 0.7], ["rug", "table", "vase"])
    assert view.categories == ("vase", "table", "rug")
    assert view.ids[2].tolist() == [2] + [1] * 3 + [2] * 5 + [3] * 11


def test_background_hides_what_is_behind_it() -> None:
    view = flat([(0, 0, 20, 10), (0, 0, 10, 10)], [0.95, 0.8], ["wall", "chair"], complete=True)
    assert view.ids[0].tolist() == [1] * 10 + [0] * 10
    view = flat([(0, 0, 12, 10), (6, 0, 20, 10)], [0.95, 0.8], ["wall", "chair"], complete=True)
    assert view.ids[0].tolist() == [0] * 12 + [1] * 8


@pytest.mark.parametrize(("complete", "elsewhere"), [(False, 0), (True, -1)])
def test_pixels_without_a_mask(complete: bool, elsewhere: int) -> None:
    view = flat([(0, 0, 4, 4)], [0.9], ["chair"], complete)
    assert set(np.unique(view.ids)) == {elsewhere, 1}


def test_doubtful_and_small_masks_have_no_opinion() -> None:
    boxes = [(0, 0, 5, 10), (5, 0, 10, 10), (10, 0, 15, 10), (16, 0, 17, 1)]
    view = flat(boxes, [0.9, 0.4, 0.2, 0.9], ["chair"] * 4, min_area=0.02)
    assert view.ids[0].tolist() == [1] * 5 + [-1] * 5 + [0] * 6 + [-1] + [0] * 3


def test_a_mask_mostly_behind_others_is_one_of_theirs() -> None:
    view = flat([(0, 0, 10, 10), (2, 0, 12, 10), (11, 0, 20, 10)], [0.9, 0.8, 0.7], ["chair"] * 3)
    assert view.categories == ("chair", "chair")
    assert view.ids[0].tolist() == [1] * 10 + [-1] + [2] * 9


def test_no_masks() -> None:
    view = flat([], [], [])
    assert view.categories == ()
    assert view.scores.shape == (0,)
    assert not view.ids.any()


def test_thresholds_outside_their_range() -> None:
    with pytest.raises(InputError, match=r"--min-score 1\.5: must lie in \[0, 1\]"):
        FlattenConfig(min_score=1.5)


@pytest.mark.parametrize("name", ["coco", "ade20k"])
def test_shipped_tables_lead_to_classes_of_rooms(name: str) -> None:
    table = load_class_table(name)
    assert set(table.categories.values()) <= set(furniture_classes())
    assert not table.background & set(table.categories)


def test_coco_table() -> None:
    table = load_class_table("coco")
    assert len(table.names) == 133
    found = {name: table.category(name) for name in ("couch", "table-merged", "potted plant", "teddy bear", "cat")}
    assert list(found.values()) == ["sofa", "table", "plant", "toy", "cat"]
    assert [table.is_background(name) for name in ("wall-other-merged", "door-stuff", "Floor-Wood", "rug-merged")] == [
        True, True, True, False,
    ]  # fmt: skip
    assert load_class_table("ade20k").category("bed ") == "bed"
    assert load_class_table("ade20k").category("painting, picture") == "painting"
    assert load_class_table("ade20k").is_background("windowpane, window")


def test_own_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"background": ["Tapestry"], "categories": {"throne": "armchair"}}))
    table = load_class_table(str(path))
    assert (table.category("Throne"), table.is_background("tapestry")) == ("armchair", True)
    path.write_text(json.dumps({"categories": ["throne"]}))
    with pytest.raises(InputError, match=r"mine\.json: is no class table; write"):
        load_class_table(str(path))
    with pytest.raises(InputError, match="--classes cocoa: no such table; use one of coco, ade20k"):
        load_class_table("cocoa")


def queries() -> tuple[torch.Tensor, torch.Tensor]:
    """Class and mask logits of four queries: a chair, two tables of one query, a weaker chair, nothing."""
    classes = torch.tensor([[6.0, 0, 0], [0, 5.0, 0], [3.0, 0, 0], [0, 0, 8.0]])
    drawn = masks((0, 0, 8, 10), (8, 0, 11, 10), (4, 0, 12, 10), (0, 0, 20, 10))
    drawn[1] |= masks((15, 0, 19, 10))[0]
    return classes, torch.where(drawn, 4.0, -4.0)


def test_instances_of_queries() -> None:
    classes, logits = queries()
    found = instance_detections(classes, logits, ("chair", "table"), 0.5)
    assert list(found.names) == ["chair", "table", "chair"]
    assert not found.complete
    inside = torch.sigmoid(torch.tensor(4.0))
    expected = [classes[q].softmax(-1)[c] * inside for q, c in ((0, 0), (1, 1), (2, 0))]
    torch.testing.assert_close(found.scores, torch.stack(expected))
    torch.testing.assert_close(found.masks, (logits > 0)[:3])


def test_panoptic_segments_of_queries() -> None:
    classes, logits = queries()
    found = panoptic_detections(classes, logits, ("chair", "table"), {1}, 0.5)
    # The weaker chair keeps less than 0.8 of its mask; what it lost is unknown. Both pieces of the table are objects.
    assert list(found.names) == ["chair", "table", "table"]
    assert found.complete
    assert not (found.masks.sum(0) > 1).any()
    assert [int(mask[0].sum()) for mask in found.masks] == [8, 3, 4]
    whole = panoptic_detections(classes, logits, ("chair", "table"), set(), 0.5)
    assert [int(mask[0].sum()) for mask in whole.masks] == [8, 7]


def test_queries_that_find_nothing() -> None:
    classes, logits = queries()
    for read in (
        instance_detections(classes[3:], logits[3:], ("chair", "table"), 0.5),
        panoptic_detections(classes[3:], logits[3:], ("chair", "table"), {1}, 0.5),
    ):
        assert read.masks.shape == (0, 10, 20)
        assert not len(read.scores)
        assert flatten(read, TABLE, FlattenConfig()).ids.shape == (10, 20)
