"""Small things on tables, cabinets and the floor."""

from __future__ import annotations

from collections.abc import Sequence

from rcnn.rooms.layouts.arrangement import Arrangement
from rcnn.rooms.layouts.floor_plan import Rectangle
from rcnn.rooms.layouts.supply import MissingModelError, Size
from rcnn.rooms.piece import Piece

# Things that look at people; others may be turned anyhow.
WITH_FRONT = ("electronics", "appliance", "computer", "tv", "speaker", "lamp", "toy")


def _small(size: Size) -> bool:
    return size[2] < 0.62 and max(size[:2]) < 0.5


def decorate(room: Arrangement, piece: Piece, kinds: Sequence[str], count: int) -> None:
    """Puts up to `count` things of the kinds on top of a piece."""
    for _ in range(count):
        if room.full:
            return
        kind = kinds[room.rng.integers(len(kinds))]
        try:
            thing = room.draw(kind, _small, "small" if kind == "speaker" else "")
        except MissingModelError:
            continue  # no model of this class is small enough, or there is none: something else will do
        if thing.elevation > 0:
            continue
        room.on_top(thing, piece, 0.9, turn=0.0 if kind in WITH_FRONT else None, back=kind in ("lamp", "appliance"))


def scatter(room: Arrangement, zone: Rectangle, kinds: Sequence[str], count: int) -> None:
    """Puts up to `count` things of the kinds on the floor, more often along the walls."""
    for _ in range(int(room.rng.integers(0, count + 1))):
        if room.full:
            return
        kind = kinds[room.rng.integers(len(kinds))]
        try:
            thing = room.draw(kind, lambda size: 0.12 < size[2] < 1.3, "floor" if kind == "vase" else "")
        except MissingModelError:
            continue
        if room.rng.random() < 0.6:
            room.against_wall(thing, zone, 0.0, corner=0.5, tries=10)
        else:
            room.somewhere(thing, zone, 10)
