"""Floor plans: walls enclose the floor, openings fit into them."""

import numpy as np
import pytest

from rcnn.rooms.layouts.floor_plan import PlanKind, draw_plan, facing
from rcnn.rooms.layouts.openings import draw_openings
from rcnn.rooms.piece import box_overlap

KINDS: tuple[PlanKind, ...] = ("rectangle", "l_shape", "open_plan")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_walls_enclose_the_floor(kind: PlanKind, seed: int):
    plan = draw_plan(kind, 24.0, np.random.default_rng(seed))
    assert sum(part.area for part in plan.floor) == pytest.approx(plan.floor_area)
    assert plan.floor_area == pytest.approx(24.0, rel=0.12)
    ends: dict[tuple[float, float], int] = {}
    area = 0.0
    for wall in plan.walls:
        middle = np.array([wall.point(wall.length / 2, 0.02), wall.point(wall.length / 2, -0.02)])
        np.testing.assert_array_equal(plan.contains(middle), [True, False])
        for along in (0.0, wall.length):
            corner = wall.point(along)
            ends[(round(corner[0], 6), round(corner[1], 6))] = (
                ends.get((round(corner[0], 6), round(corner[1], 6)), 0) + 1
            )
        start = wall.start
        stop = wall.point(wall.length)
        area += (start[0] * stop[1] - stop[0] * start[1]) / 2
    assert set(ends.values()) == {2}, "two walls meet at every corner"
    assert abs(area) == pytest.approx(plan.floor_area), "the walls are one closed outline"


def test_furniture_with_its_back_to_a_wall_looks_into_the_room():
    for wall in draw_plan("rectangle", 16.0, np.random.default_rng(0)).walls:
        np.testing.assert_allclose([np.sin(wall.yaw), -np.cos(wall.yaw)], wall.inward, atol=1e-12)
    assert facing(0.0, -1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_openings_lie_in_their_walls_apart_from_each_other(kind: PlanKind):
    windows = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        plan = draw_plan(kind, 20.0, rng)
        openings = draw_openings(plan, None, rng)
        assert any(opening.kind == "door" for opening in openings)
        for opening in openings:
            assert opening.width / 2 < opening.along < opening.wall.length - opening.width / 2
            assert 0 <= opening.bottom < opening.top < plan.size[2]
            windows += opening.kind == "window"
        for k, one in enumerate(openings):
            for other in openings[k + 1 :]:
                if one.wall == other.wall:
                    assert abs(one.along - other.along) > (one.width + other.width) / 2
                    assert not box_overlap(one.keep_clear()[0], other.keep_clear()[0])
    assert windows >= 18
