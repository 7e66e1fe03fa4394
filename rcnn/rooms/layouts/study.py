"""Studies: one or two desks, books, a place to sit."""

from __future__ import annotations

from rcnn.rooms.layouts.arrangement import Arrangement, LayoutError
from rcnn.rooms.layouts.clutter import scatter
from rcnn.rooms.layouts.floor_plan import Rectangle
from rcnn.rooms.layouts.groups import (
    desk_group,
    filing,
    lamp_on_floor,
    plant_somewhere,
    reading_corner,
    shelves,
    sideboard,
    small_sofa,
)


def furnish_study(room: Arrangement, zone: Rectangle) -> None:
    """Furnishes a zone as a study. Raises LayoutError when no desk fits."""
    rng = room.rng
    for _ in range(6):
        if desk_group(room, zone, freestanding=bool(rng.random() < 0.3)):
            break
    else:
        raise LayoutError("no place for a desk")
    extras = [
        (1.0, lambda: shelves(room, zone)),
        (0.7, lambda: shelves(room, zone)),
        (0.6, lambda: filing(room, zone)),
        (0.5, lambda: reading_corner(room, zone)),
        (0.4, lambda: small_sofa(room, zone)),
        (0.35, lambda: desk_group(room, zone)),
        (0.4, lambda: sideboard(room, zone)),
        (0.7, lambda: plant_somewhere(room, zone)),
        (0.4, lambda: lamp_on_floor(room, zone, None)),
    ]
    for k in rng.permutation(len(extras)):
        probability, add = extras[int(k)]
        if room.chance(probability):
            add()
    scatter(room, zone, ("bin", "box", "bag", "fan", "instrument", "speaker"), 3)
    if room.chance(0.45):
        rug = room.draw("rug", lambda size: size[2] < 0.02 and size[0] > 0.7)
        room.lay_rug(rug, *zone.centre, 0.0 if rng.random() < 0.5 else 1.5708)
