import cv2
import numpy as np
import pytest
import torch

from rcnn.visualization import SceneContents, SheetConfig, draw_sheet, sheet_tensor, write_sheet
from rcnn.visualization.colours import TRUTH, score_colours
from rcnn.visualization.outlines import Pen, draw_labels, draw_outlines
from rcnn.visualization.projections import FRONT, PLAN, SIDE, project_colours, project_heatmap

RED, GREEN, BLUE, WHITE = (0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9), (0.9, 0.9, 0.9)


def closed_room(x=24, y=18, z=12):
    """White walls and ceiling around a blue floor, with a red cube in the corner of low x and y."""
    features = np.zeros((4, x, y, z), np.float32)

    def fill(colour, *where):
        features[(slice(None), *where)] = np.array([*colour, 1.0], np.float32)[:, None, None, None]

    every = slice(None)
    for axis in range(3):
        for side in (slice(0, 2), slice(-2, None)):
            where = [every] * 3
            where[axis] = side
            fill(WHITE, *where)
    fill(BLUE, slice(2, -2), slice(2, -2), slice(0, 2))
    fill(RED, slice(4, 9), slice(3, 8), slice(2, 7))
    return features


def near(pixel, colour):
    return np.abs(pixel - np.array(colour)).max() < 0.15


def test_ceilings_and_near_walls_are_open():
    contents = SceneContents.of(closed_room())
    plan = project_colours(contents, PLAN)
    assert plan.shape == (18, 24, 3)
    assert near(plan[18 - 1 - 5, 6], RED)
    assert near(plan[18 - 1 - 14, 16], BLUE)
    front = project_colours(contents, FRONT)
    assert front.shape == (12, 24, 3)
    assert near(front[12 - 1 - 4, 6], RED)  # x to the right
    assert near(front[12 - 1 - 8, 16], WHITE)
    side = project_colours(contents, SIDE)
    assert side.shape == (12, 18, 3)
    assert near(side[12 - 1 - 4, 5], RED)  # y to the right
    assert near(side[12 - 1 - 4, 14], WHITE)


def test_what_is_nearer_hides_what_is_behind():
    features = closed_room()
    features[:, 4:9, 11:15, 2:9] = np.array([*GREEN, 1], np.float32)[:, None, None, None]
    front = project_colours(SceneContents.of(features), FRONT)
    assert near(front[12 - 1 - 4, 6], RED)  # the green cube stands behind, at higher y
    assert near(front[12 - 1 - 8, 6], GREEN)  # and is taller


def test_what_no_camera_saw_is_not_drawn():
    features = closed_room()
    seen = np.ones(features.shape[1:], bool)
    seen[14:, :, :] = False
    plan = project_colours(SceneContents.of(features, seen=seen), PLAN)
    assert np.ptp(plan[:, 16:], axis=(0, 1)).max() < 1e-6
    assert near(plan[18 - 1 - 5, 6], RED)


def test_heatmap_projections_take_the_highest_and_coarse_ones_are_enlarged():
    heat = torch.zeros(6, 5, 3)
    heat[1, 2, 0], heat[1, 2, 2] = 0.4, 0.9
    contents = SceneContents.of(closed_room(), heatmap=heat)
    assert contents.heatmap is not None
    assert contents.heatmap.shape == (24, 18, 12)
    plan = project_heatmap(contents.heatmap, PLAN)
    assert plan[18 - 1 - 9, 5] == pytest.approx(0.9)
    assert (plan > 0).sum() == 16
    front = project_heatmap(contents.heatmap, FRONT)
    assert front[12 - 1 - 2, 5] == pytest.approx(0.4)


def test_outlines_lie_where_boxes_are():
    pen = Pen(1, 1, 8)
    picture = np.zeros((180, 240, 3), np.uint8)
    draw_outlines(picture, np.array([[4, 3, 2, 9, 8, 7]], np.float32), [(255, 200, 0)], PLAN, pen, 10.0)
    rows, columns = np.nonzero(picture[..., 0] > 200)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((99.5, 149.5, 39.5, 89.5), abs=1)
    assert not picture[105:145, 45:85].any()

    turned = np.zeros((180, 240, 3), np.uint8)
    box = np.array([[12, 9, 5, 8, 2, 4, np.pi / 4]], np.float32)
    draw_outlines(turned, box, [(255, 200, 0)], PLAN, pen, 10.0)
    rows, columns = np.nonzero(turned[..., 0] > 200)
    # Counter-clockwise from above: the long side goes right and up, so its upper end is its right end.
    assert columns[rows.argmin()] > 140
    assert rows[columns.argmin()] > 110
    assert np.ptp(columns) == pytest.approx(10 * (8 + 2) / np.sqrt(2), abs=3)


def test_labels_do_not_cover_each_other():
    picture = np.zeros((100, 100, 3), np.uint8)
    boxes = np.tile(np.array([[3, 3, 0, 6, 6, 4]], np.float32), (20, 1))
    colours = [(10 + 10 * k, 0, 255) for k in range(20)]
    draw_labels(
        picture, boxes, [f"{score:.2f}" for score in np.linspace(1, 0.5, 20)], colours, PLAN, Pen(1, 1, 8), 10.0
    )
    shown = {int(v) for v in np.unique(picture[(picture[..., 1:] == (0, 255)).all(-1)][:, 0])} & {c[0] for c in colours}
    assert 10 in shown  # the best comes first
    assert 2 <= len(shown) <= 6


def scene(**more):
    truth = torch.tensor([[4.0, 3, 2, 9, 8, 7]])
    boxes = torch.tensor([[14.0, 10, 2, 20, 15, 8], [4.2, 3.1, 2, 9, 8, 7], [10, 4, 2, 12, 6, 5]])
    scores = torch.tensor([0.6, 0.9, 0.05])
    return SceneContents.of(torch.from_numpy(closed_room()), truth=truth, boxes=boxes, scores=scores, **more)


def test_detections_are_sorted_and_cut():
    contents = scene()
    assert contents.scores is not None
    assert contents.scores.tolist() == pytest.approx([0.9, 0.6, 0.05])
    best = contents.best(30, 0.2)
    assert best.boxes is not None
    assert len(best.boxes) == 2
    assert best.boxes[0].tolist() == pytest.approx([4.2, 3.1, 2, 9, 8, 7])
    assert contents.best(1).scores is not None
    assert len(contents.best(1).boxes) == 1  # type: ignore[arg-type]


def count(picture, colour):
    return int((np.abs(picture.astype(int) - np.array(colour)).max(-1) < 12).sum())


def test_sheets_show_truth_and_detections_in_their_colours(tmp_path):
    config = SheetConfig(view_size=240, score_labels=False)
    plain = draw_sheet(SceneContents.of(closed_room()), config=config)
    full = draw_sheet(scene(heatmap=torch.full((6, 5, 3), 0.5)), "room", config)
    assert full.shape[1] > plain.shape[1]
    weak = score_colours(np.array(0.05))
    for colour in (TRUTH, score_colours(np.array(0.9)), score_colours(np.array(0.6))):
        assert count(full, colour) > count(plain, colour) + 100
    # The weak one is in the colour bar alone.
    assert count(full, weak) < 0.5 * count(draw_sheet(scene(), "", SheetConfig(240, 30, 0.0, False)), weak)

    tensor = sheet_tensor(scene(heatmap=torch.full((6, 5, 3), 0.5)), "room", config)
    assert tensor.dtype == torch.uint8
    assert torch.equal(tensor, torch.from_numpy(full).permute(2, 0, 1))
    write_sheet(tmp_path / "new" / "room.png", scene(heatmap=torch.full((6, 5, 3), 0.5)), "room", config)
    assert np.array_equal(cv2.imread(str(tmp_path / "new" / "room.png"))[..., ::-1], full)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["room.png"]


@pytest.mark.parametrize("columns", [6, 7])
def test_sheets_of_scenes_without_objects(columns):
    none = np.zeros((0, columns), np.float32)
    contents = SceneContents.of(closed_room(5, 40, 3), truth=none, boxes=none, scores=np.zeros(0, np.float32))
    assert draw_sheet(contents, config=SheetConfig(view_size=64)).dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((3, 4, 4, 4))}, "features"),
        ({"boxes": np.zeros((2, 6))}, "score"),
        ({"boxes": np.zeros((2, 6)), "scores": np.zeros(1)}, "score"),
        ({"truth": np.zeros((2, 5))}, "6 columns"),
        ({"truth": np.full((1, 6), np.nan)}, "finite"),
        ({"heatmap": np.zeros((5, 5, 3))}, "heatmap"),
        ({"seen": np.ones((2, 2, 2), bool)}, "seen"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    parts = {"features": closed_room(), **change}
    with pytest.raises(ValueError, match=message):
        SceneContents.of(parts.pop("features"), **parts)


def test_score_colours_are_plasma():
    assert score_colours(np.array([0.0, 1.0, 2.0])).tolist() == [[13, 8, 135], [240, 249, 33], [240, 249, 33]]
    assert score_colours(np.zeros((0, 4))).shape == (0, 4, 3)
