"""Groups of furniture that several kinds of room have: desk and chair, chairs around a table, a reading corner."""

from __future__ import annotations

import numpy as np

from rcnn.rooms.layouts.arrangement import Arrangement
from rcnn.rooms.layouts.clutter import decorate
from rcnn.rooms.layouts.floor_plan import Rectangle, facing
from rcnn.rooms.piece import Piece


def desk_group(room: Arrangement, zone: Rectangle, freestanding: bool = False) -> bool:
    """A desk with a chair, a computer, a lamp and papers; returns whether it found a place."""
    rng = room.rng
    thing = room.draw("desk", lambda size: size[0] < 2.0)
    desk = None
    if freestanding:
        for _ in range(10):
            x, y = rng.uniform(zone.x1, zone.x2), rng.uniform(zone.y1, zone.y2)
            yaw = float(rng.choice([0.0, np.pi / 2, np.pi, -np.pi / 2]))
            desk = room.put(thing, float(x), float(y), yaw, front=0.75, gap=0.5)
            if desk is not None:
                break
    if desk is None:
        desk = room.against_wall(thing, zone, front=0.75)
    if desk is None:
        return False
    chair = room.draw("chair", use="desk")
    for tuck in (0.22, 0.12, 0.0, -0.08, -0.2):
        shift = float(rng.uniform(-0.1, 0.1))
        if room.before(chair, desk, -tuck, shift, turned=True, jitter=0.3, close=True) is not None:
            break
    if room.chance(0.85):
        for _ in range(3):
            if room.on_top(room.draw("computer"), desk, 0.5, turn=0.0, back=True) is not None:
                break
    if room.chance(0.5):
        room.on_top(room.draw("lamp", lambda size: size[2] < 0.62), desk, 0.95, turn=0.0, back=True)
    decorate(room, desk, ("book", "tableware", "plant", "electronics", "book"), int(rng.integers(0, 3)))
    return True


def chairs_around(room: Arrangement, table: Piece, wanted: int) -> int:
    """Chairs of one kind on all sides of a table, some pulled out; returns how many found a place."""
    rng = room.rng
    chair = room.draw("chair", lambda size: size[2] < 1.1 and max(size[:2]) < 0.7, "dining")
    x, y, _, wide, deep, _, yaw = table.box
    width = chair.size[0] + 0.1
    places: list[tuple[float, float, float, float]] = []
    for across, reach, turn in ((wide, deep, 0.0), (deep, wide, np.pi / 2)):
        count = int(across / max(width, 0.55))
        if turn and (reach < 1.0 or count == 0):
            count = 1 if across > 0.6 else 0
        for side in (-1, 1):
            for k in range(count):
                places.append(((k - (count - 1) / 2) * across / max(count, 1), side * reach / 2, turn, side))
    placed = 0
    half = -float(chair.mesh.bounds()[0, 1])
    for k in rng.permutation(len(places)):
        if placed >= wanted or room.full:
            break
        along, off, turn, side = places[int(k)]
        angle = yaw + turn
        outward = np.array([-np.sin(angle), np.cos(angle)]) * side
        sideways = np.array([np.cos(angle), np.sin(angle)])
        for tuck in (float(rng.uniform(0.1, 0.3)), 0.1, 0.03, -0.04, -0.15):
            at = np.array([x, y]) + sideways * along + outward * (abs(off) + half - tuck)
            turned = facing(*(-outward)) + float(rng.normal(0, 0.08))
            if room.put(chair, float(at[0]), float(at[1]), turned, close_to=[table], gap=0.02) is not None:
                placed += 1
                break
    return placed


def shelves(room: Arrangement, zone: Rectangle) -> None:
    """A bookshelf; low ones carry something."""
    thing = room.draw("bookshelf", lambda size: size[2] < room.plan.size[2] - 0.05)
    piece = room.against_wall(thing, zone, 0.5, corner=0.6)
    if piece is not None and piece.box[5] < 1.5:
        decorate(room, piece, ("vase", "plant", "book", "box", "toy"), int(room.rng.integers(0, 3)))


def sideboard(room: Arrangement, zone: Rectangle) -> None:
    """A cabinet with things on it."""
    piece = room.against_wall(room.draw("cabinet", lambda size: size[2] < room.plan.size[2] - 0.05, "chest"), zone, 0.5)
    if piece is not None and piece.box[5] < 1.3:
        kinds = ("lamp", "vase", "plant", "book", "electronics", "tableware")
        decorate(room, piece, kinds, int(room.rng.integers(1, 4)))


def filing(room: Arrangement, zone: Rectangle) -> None:
    """A small cabinet, with a printer or a plant on it."""
    thing = room.draw("cabinet", lambda size: size[2] < 1.0 and size[0] < 1.0, "chest")
    piece = room.against_wall(thing, zone, 0.4, corner=0.6)
    if piece is not None:
        decorate(room, piece, ("electronics", "plant", "box"), int(room.rng.integers(0, 3)))


def reading_corner(room: Arrangement, zone: Rectangle) -> None:
    """An armchair with a lamp beside it, turned into the room."""
    chair = room.draw("armchair")
    x, y = zone.centre
    for _ in range(24):
        at = (float(room.rng.uniform(zone.x1, zone.x2)), float(room.rng.uniform(zone.y1, zone.y2)))
        away = np.hypot(at[0] - x, at[1] - y)
        if away < 0.28 * min(zone.x2 - zone.x1, zone.y2 - zone.y1):
            continue
        piece = room.put(chair, *at, facing(x - at[0], y - at[1]) + float(room.rng.normal(0, 0.2)), gap=0.06)
        if piece is not None:
            if room.chance(0.5):
                lamp_on_floor(room, zone, piece)
            return


def small_sofa(room: Arrangement, zone: Rectangle) -> None:
    """A sofa along a wall."""
    room.against_wall(room.draw("sofa", lambda size: size[0] < 2.1 and size[1] < 1.1), zone, 0.5)


def lamp_on_floor(room: Arrangement, zone: Rectangle, near: Piece | None) -> None:
    """A floor lamp beside a seat, or in a corner."""
    lamp = room.draw("floor_lamp")
    if near is not None:
        for side in room.rng.permutation([-1, 1]):
            if room.beside(lamp, near, int(side), 0.05) is not None:
                return
    room.against_wall(lamp, zone, 0.0, corner=0.9, tries=12)


def plant_somewhere(room: Arrangement, zone: Rectangle) -> None:
    """A large plant by a wall."""
    plant = room.draw("plant", lambda size: size[2] > 0.55)
    room.against_wall(plant, zone, 0.0, corner=0.7, tries=16)
