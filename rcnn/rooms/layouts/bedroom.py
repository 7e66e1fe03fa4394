"""Bedrooms: a bed with its head to a wall, what belongs beside it, clothes, and a corner for something else."""

from __future__ import annotations

import numpy as np

from rcnn.rooms.layouts.arrangement import Arrangement, LayoutError
from rcnn.rooms.layouts.clutter import decorate, scatter
from rcnn.rooms.layouts.floor_plan import Rectangle
from rcnn.rooms.layouts.groups import desk_group, plant_somewhere, reading_corner, shelves
from rcnn.rooms.piece import Piece


def furnish_bedroom(room: Arrangement, zone: Rectangle) -> None:
    """Furnishes a zone as a bedroom. Raises LayoutError when no bed fits."""
    rng = room.rng
    bed = None
    largest = 1.8 if zone.area < 11 else 2.2
    for _ in range(6):
        thing = room.draw("bed", lambda size: size[0] <= largest and size[1] <= 2.4)
        bed = room.against_wall(thing, zone, front=0.6, corner=0.9 if thing.size[0] < 1.2 else 0.1)
        if bed is not None:
            break
    if bed is None:
        raise LayoutError("no wall is free for a bed")
    low_bed = bed.box[5] < 1.35
    if low_bed:
        _beside(room, bed)
    for _ in range(2):
        clothes = room.against_wall(
            room.draw("wardrobe", lambda size: size[2] < room.plan.size[2] - 0.05), zone, 0.7, corner=0.6
        )
        if clothes is not None:
            break
    extras = [
        (0.6, lambda: _chest(room, zone)),
        (0.45, lambda: desk_group(room, zone)),
        (0.4, lambda: shelves(room, zone)),
        (0.4, lambda: reading_corner(room, zone)),
        (0.3, lambda: _crib(room, zone)),
        (0.3, lambda: _television(room, zone)),
        (0.6, lambda: plant_somewhere(room, zone)),
    ]
    for k in rng.permutation(len(extras)):
        probability, add = extras[int(k)]
        if room.chance(probability):
            add()
    if low_bed and room.chance(0.3):
        room.before(room.draw("bench", lambda size: size[0] < bed.box[3] + 0.1), bed, 0.06, close=True)
    scatter(room, zone, ("box", "bag", "toy", "bin", "ball", "fan"), 2)
    if room.chance(0.55):
        _rug(room, bed)


def _beside(room: Arrangement, bed: Piece) -> None:
    """Nightstands of one kind on one or both sides, with lamps and small things."""
    stand = room.draw("nightstand", lambda size: size[0] < 0.6)
    lamp = room.draw("lamp", lambda size: max(size[:2]) < min(stand.size[:2]) - 0.01)
    for side in (-1, 1):
        if side == 1 and room.rng.random() < 0.25:
            break
        placed = room.beside(stand, bed, side, 0.05 + 0.06 * float(room.rng.random()))
        if placed is None or room.full:
            continue
        if room.chance(0.8):
            room.on_top(lamp, placed, 0.4, turn=0.0)
        decorate(room, placed, ("book", "plant", "tableware", "vase"), int(room.rng.integers(0, 2)))


def _chest(room: Arrangement, zone: Rectangle) -> None:
    thing = room.draw("cabinet", lambda size: size[2] < 1.3 and size[0] < 1.9, "chest")
    piece = room.against_wall(thing, zone, 0.6)
    if piece is not None:
        decorate(
            room, piece, ("lamp", "vase", "plant", "book", "electronics", "toy", "box"), int(room.rng.integers(1, 4))
        )


def _crib(room: Arrangement, zone: Rectangle) -> None:
    if room.supply.models.get("crib"):
        room.against_wall(room.draw("crib"), zone, 0.5, corner=0.6)


def _television(room: Arrangement, zone: Rectangle) -> None:
    stand = room.against_wall(room.draw("tv_stand", lambda size: size[2] < 0.8), zone, 0.5)
    if stand is not None:
        room.on_top(
            room.draw("tv", lambda size: size[0] < stand.box[3] + 0.02 and size[1] < stand.box[4]), stand, 0.1, turn=0.0
        )


def _rug(room: Arrangement, bed: Piece) -> None:
    """Across the foot of the bed, or beside it."""
    rug = room.draw("rug", lambda size: size[2] < 0.02 and size[0] > 0.55)
    x, y, _, wide, deep, _, yaw = bed.box
    for shift, off, turn in (
        (0.0, -0.3 * deep, 0.0),
        (0.75 * wide, -0.1 * deep, 1.5708),
        (-0.75 * wide, -0.1 * deep, 1.5708),
    ):
        at = _shifted(x, y, yaw, shift, off)
        if room.lay_rug(rug, *at, yaw + turn) is not None:
            return


def _shifted(x: float, y: float, yaw: float, shift: float, off: float) -> tuple[float, float]:
    return float(x + np.cos(yaw) * shift - np.sin(yaw) * off), float(y + np.sin(yaw) * shift + np.cos(yaw) * off)
