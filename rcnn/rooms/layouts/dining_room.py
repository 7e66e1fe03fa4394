"""Dining rooms: a laid table with chairs under a lamp, a sideboard, plants."""

from __future__ import annotations

import numpy as np

from rcnn.rooms.layouts.arrangement import Arrangement, LayoutError
from rcnn.rooms.layouts.clutter import decorate, scatter
from rcnn.rooms.layouts.floor_plan import Rectangle
from rcnn.rooms.layouts.groups import chairs_around, lamp_on_floor, plant_somewhere, shelves, sideboard


def furnish_dining_room(room: Arrangement, zone: Rectangle, small: bool = False) -> None:
    """Furnishes a zone as a dining room; `small` is a table for two or four in a kitchen.

    Raises LayoutError when no table fits, unless the table is small.
    """
    rng = room.rng
    x, y = zone.centre
    table = None
    longest = min(2.4, max(zone.x2 - zone.x1, zone.y2 - zone.y1) - 1.4)
    for attempt in range(16):
        thing = room.draw("table", lambda size: size[0] <= (1.15 if small else longest) and 0.66 < size[2] < 0.85)
        along_x = zone.x2 - zone.x1 > zone.y2 - zone.y1
        yaw = (0.0 if along_x else np.pi / 2) + (np.pi / 2 if rng.random() < 0.15 else 0.0)
        reach = 0.12 * attempt if small else 0.05 * attempt
        at = (x + float(rng.uniform(-reach, reach)), y + float(rng.uniform(-reach, reach)))
        table = room.put(thing, *at, yaw + float(rng.normal(0, 0.02)), gap=0.45 if attempt < 8 else 0.3)
        if table is not None:
            break
    if table is None:
        if small:
            return
        raise LayoutError("no place for a dining table")
    seats = chairs_around(room, table, int(rng.integers(2, 5 if small else 9)))
    if seats == 0 and not small:
        raise LayoutError("no place for chairs")
    if room.chance(0.6):
        lamp = room.draw("pendant_lamp", lambda size: size[2] < room.plan.size[2] - 1.5)
        room.under_ceiling(lamp, table.box[0], table.box[1], table.box[6])
    decorate(room, table, ("tableware", "tableware", "vase", "plant", "book"), int(rng.integers(1, 2 if small else 4)))
    if not small:
        extras = [
            (0.8, lambda: sideboard(room, zone)),
            (0.35, lambda: sideboard(room, zone)),
            (0.35, lambda: shelves(room, zone)),
            (0.8, lambda: plant_somewhere(room, zone)),
            (0.3, lambda: lamp_on_floor(room, zone, None)),
        ]
        for k in rng.permutation(len(extras)):
            probability, add = extras[int(k)]
            if room.chance(probability):
                add()
        scatter(room, zone, ("vase", "box", "plant", "toy", "bag"), 1)
        if room.chance(0.45):
            rug = room.draw("rug", lambda size: size[2] < 0.02 and size[0] > 1.2)
            room.lay_rug(rug, table.box[0], table.box[1], table.box[6])
