"""Surfaces that meet, and tops that carry things."""

import numpy as np
import pytest

from rcnn.rooms.furniture_dining import dining_chair, dining_table
from rcnn.rooms.layouts.contact import find_support, place_on, surfaces_meet
from rcnn.rooms.mesh import Material, join
from rcnn.rooms.palette import choose_palette
from rcnn.rooms.piece import boxes_overlap, place
from rcnn.rooms.shapes import box

PAPER = Material("paper")


def test_crossing_surfaces_meet_and_distant_ones_do_not():
    one = box((1.0, 1.0, 1.0), PAPER)
    assert surfaces_meet(one, one.moved((0.9, 0.3, 0.2), 0.4))
    assert surfaces_meet(one, one.moved((0.999, 0, 0)))
    assert not surfaces_meet(one, one.moved((1.04, 0, 0)))
    # a thin rod through a face meets it, one inside does not
    assert surfaces_meet(one, box((0.01, 0.01, 2.0), PAPER))
    assert not surfaces_meet(one, box((0.1, 0.1, 0.5), PAPER))


def test_a_chair_goes_under_a_table_but_not_through_its_leg():
    rng = np.random.default_rng(0)
    palette = choose_palette(rng)
    table = place("table", dining_table(palette, rng, 1.6, 0.9), 0, 0, 0, 0)
    seated = place("chair", dining_chair(palette, rng), 0, 0.52, 0, 0)
    assert boxes_overlap(table, seated)
    assert not surfaces_meet(table.mesh, seated.mesh)
    assert surfaces_meet(table.mesh, seated.mesh.moved((0.65, -0.12, 0)))


def test_things_stand_on_the_top_and_not_on_its_edge():
    block = join([box((1.0, 0.6, 0.7), PAPER, (0, 0, 0.35)), box((0.2, 0.6, 0.3), PAPER, (0.4, 0, 0.85))])
    piece = place("cabinet", block, 2.0, 1.0, 0.0, 0.5)
    support = find_support(piece)
    assert support.level == pytest.approx(0.7)
    assert place_on(support, piece, (0.2, 0.2), (-0.1, 0.0), 0.3) == pytest.approx(0.7)
    assert place_on(support, piece, (0.2, 0.2), (-0.45, 0.0), 0.0) is None, "hangs over"
    assert place_on(support, piece, (0.3, 0.2), (0.25, 0.0), 0.0) is None, "half on the raised part"
