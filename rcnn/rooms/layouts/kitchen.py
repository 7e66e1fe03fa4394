"""Kitchens: a row of counters and appliances along a wall or around a corner, cupboards above, a small table."""

from __future__ import annotations

from rcnn.rooms.layouts.arrangement import Arrangement, LayoutError
from rcnn.rooms.layouts.clutter import decorate, scatter
from rcnn.rooms.layouts.dining_room import furnish_dining_room
from rcnn.rooms.layouts.floor_plan import Rectangle, Wall
from rcnn.rooms.layouts.groups import plant_somewhere
from rcnn.rooms.layouts.supply import MissingModelError, Thing
from rcnn.rooms.piece import WALL_GAP, Piece

CUPBOARD_FOOT = 1.42


def furnish_kitchen(room: Arrangement, zone: Rectangle) -> None:
    """Furnishes a zone as a kitchen. Raises LayoutError when no wall has room for a row."""
    rng = room.rng
    walls = room.walls_of(zone)
    order = sorted(walls, key=lambda part: -_free_length(room, part))
    row: list[Piece] = []
    for part in order[:3]:
        if not row:
            row = _row(room, part, _first_row(room))
            continue
        found = {piece.category for piece in row}
        missing = [kind for kind in ("sink", "oven", "fridge") if kind not in found]
        if missing or room.chance(0.5):
            more = ["counter", *missing, "counter"] if missing else ["counter", "counter", "washer"]
            row += _row(room, part, more)
            break
    if len(row) < 3:
        raise LayoutError("no wall is long enough for a kitchen")
    for piece in row:
        if piece.category in ("cabinet", "fridge", "washer") and piece.box[5] < 1.0:
            kinds = ("appliance", "tableware", "tableware", "plant", "electronics")
            decorate(room, piece, kinds, int(rng.integers(0, 4)))
    if zone.area > 9 and room.chance(0.75):
        furnish_dining_room(room, _open_part(zone, row), small=True)
    if room.chance(0.4):
        stool = room.draw("stool")
        for _ in range(int(rng.integers(1, 3))):
            room.somewhere(stool, zone, 12)
    if room.chance(0.5):
        plant_somewhere(room, zone)
    scatter(room, zone, ("bin", "box", "bag"), 2)


def _free_length(room: Arrangement, part: tuple[Wall, float, float]) -> float:
    wall, first, last = part
    doors = [opening for opening in room.openings if opening.wall == wall and opening.kind == "door"]
    return last - first - 1.2 * len(doors)


def _first_row(room: Arrangement) -> list[str]:
    """Kinds of units from one end to the other; the last ones are missing where the wall is short."""
    kinds = ["sink", "counter", "oven", "counter"]
    if room.rng.random() < 0.3:
        kinds.insert(int(room.rng.integers(1, 4)), "washer")
    if room.rng.random() < 0.5:
        kinds.reverse()
    # tall refrigerators stand at an end
    kinds.insert(0 if room.rng.random() < 0.6 else len(kinds), "fridge")
    return kinds


def _row(room: Arrangement, part: tuple[Wall, float, float], kinds: list[str]) -> list[Piece]:
    """Units side by side from one end of a wall, as many as fit between doors, windows and other furniture."""
    wall, first, last = part
    placed: list[Piece] = []
    at = first + 0.04
    for kind in kinds:
        thing = _unit(room, kind)
        if thing is None:
            continue
        wide, back = thing.size[0], float(thing.mesh.bounds()[1, 1])
        begin = at
        while at + wide < last - 0.02:
            x, y = wall.point(at + wide / 2, back + WALL_GAP)
            piece = room.put(thing, x, y, wall.yaw, front=0.7, gap=0.002, close_to=placed)
            if piece is not None:
                placed.append(piece)
                at += wide + 0.006
                break
            at += 0.1
        else:
            at = begin  # something narrower or lower may still fit
        if room.full:
            break
    for piece in list(placed):
        if piece.category in ("cabinet", "sink") and room.chance(0.6):
            _cupboard(room, wall, piece)
    return placed


def _unit(room: Arrangement, kind: str) -> Thing | None:
    if kind == "counter":
        return room.draw("cabinet", use="counter", own_only=True)
    if kind == "washer" and not room.supply.models.get("washer"):
        return None
    if kind == "sink":
        # a wash basin does not belong into a kitchen
        return room.draw("sink", lambda size: size[0] >= 0.8)
    if kind == "oven":
        return room.draw("oven", lambda size: size[2] > 0.7)
    return room.draw(kind)


def _cupboard(room: Arrangement, wall: Wall, below: Piece) -> None:
    try:
        thing = room.draw("cabinet", lambda size: size[0] < below.box[3] + 0.05, use="wall", own_only=True)
    except MissingModelError:
        return  # all too wide
    if thing.size[2] + CUPBOARD_FOOT > room.plan.size[2] - 0.05:
        return
    along = wall.along(below.box[0], below.box[1])
    x, y = wall.point(along, float(thing.mesh.bounds()[1, 1]) + WALL_GAP)
    room.put(thing, x, y, wall.yaw, CUPBOARD_FOOT, gap=0.002)


def _open_part(zone: Rectangle, row: list[Piece]) -> Rectangle:
    """The zone without the strips that the row takes."""
    x1, y1, x2, y2 = zone.x1, zone.y1, zone.x2, zone.y2
    for piece in row:
        low, high = piece.mesh.bounds()
        if high[0] - x1 < 1.1 and low[0] - x1 < 0.2:
            x1 = float(high[0])
        elif x2 - low[0] < 1.1 and x2 - high[0] < 0.2:
            x2 = float(low[0])
        elif high[1] - y1 < 1.1 and low[1] - y1 < 0.2:
            y1 = float(high[1])
        elif y2 - low[1] < 1.1 and y2 - high[1] < 0.2:
            y2 = float(low[1])
    return Rectangle(x1, y1, x2, y2)
