"""Living rooms: a sofa that looks at a television or a fireplace, seats around a low table, things along the walls."""

from __future__ import annotations

import numpy as np

from rcnn.rooms.layouts.arrangement import Arrangement, LayoutError, towards
from rcnn.rooms.layouts.clutter import decorate, scatter
from rcnn.rooms.layouts.floor_plan import Rectangle
from rcnn.rooms.layouts.groups import desk_group, lamp_on_floor, plant_somewhere, shelves, sideboard
from rcnn.rooms.piece import Piece


def furnish_living_room(room: Arrangement, zone: Rectangle) -> None:
    """Furnishes a zone as a living room. Raises LayoutError when no sofa fits."""
    rng = room.rng
    sofa = focus = None
    for _ in range(8):
        sofa, focus = _sofa_and_focus(room, zone)
        if sofa is not None:
            break
    if sofa is None:
        raise LayoutError("no place for a sofa")
    table = _low_table(room, sofa)
    if focus is not None and focus.category == "tv_stand" and room.chance(0.35):
        _speakers(room, focus)
    for _ in range(int(rng.integers(0, 3))):
        if not room.full:
            _seat(room, sofa, table)
    if room.chance(0.5):
        side = room.draw("coffee_table", use="side", own_only=True)
        end = room.beside(side, sofa, int(rng.choice([-1, 1])), 0.06)
        if end is not None:
            decorate(room, end, ("lamp", "book", "plant", "tableware"), 1)
    if room.chance(0.6):
        lamp_on_floor(room, zone, sofa)
    extras = [
        (0.6, lambda: shelves(room, zone)),
        (0.6, lambda: sideboard(room, zone)),
        (0.8, lambda: plant_somewhere(room, zone)),
        (0.4, lambda: plant_somewhere(room, zone)),
        (0.2, lambda: _piano(room, zone)),
        (0.25, lambda: desk_group(room, zone)),
        (0.4, lambda: _radiator(room, zone)),
    ]
    for k in rng.permutation(len(extras)):
        probability, add = extras[int(k)]
        if room.chance(probability):
            add()
    if table is not None:
        decorate(room, table, ("book", "vase", "plant", "tableware", "toy"), int(rng.integers(1, 4)))
    scatter(room, zone, ("vase", "box", "toy", "ball", "bag", "instrument"), 2)
    if room.chance(0.7):
        _rug(room, sofa, table)


def _sofa_and_focus(room: Arrangement, zone: Rectangle) -> tuple[Piece | None, Piece | None]:
    """A sofa opposite a television or a fireplace, or against a wall with nothing to look at."""
    rng = room.rng
    before = len(room.pieces)
    longest = min(3.5, max(zone.x2 - zone.x1, zone.y2 - zone.y1) - 0.6)
    thing = room.draw("sofa", lambda size: size[0] <= longest)
    style = rng.random()
    if style < 0.2:
        return room.against_wall(thing, zone, front=0.9, corner=0.1), None
    if style < 0.35 and room.supply.models.get("fireplace"):
        # a chimney breast that ends below the ceiling is as good as one that reaches it
        fire = room.draw("fireplace", lambda size: size[2] < room.plan.size[2])
        focus = room.against_wall(fire, zone, front=0.6, corner=0.0)
    else:
        focus = _television(room, zone)
    if focus is None:
        return None, None
    for _ in range(10):
        distance = float(rng.uniform(1.5, 3.0))
        sofa = room.before(thing, focus, distance, float(rng.uniform(-0.25, 0.25)), turned=True)
        if sofa is not None:
            return sofa, focus
    depth = zone.x2 - zone.x1 if abs(np.sin(focus.box[6])) > 0.7 else zone.y2 - zone.y1
    # with its back to the wall opposite
    distance = depth - focus.box[4] - thing.size[1] - 0.08
    sofa = room.before(thing, focus, distance, turned=True) if distance > 1.2 else None
    if sofa is None:
        room.remove(range(before, len(room.pieces)))
    return sofa, focus if sofa is not None else None


def _television(room: Arrangement, zone: Rectangle) -> Piece | None:
    stand = room.against_wall(room.draw("tv_stand", lambda size: size[2] < 0.8), zone, front=0.6, corner=0.0)
    if stand is None:
        return None
    for _ in range(4):
        screen = room.draw("tv", lambda size: size[0] < stand.box[3] + 0.02 and size[1] < stand.box[4])
        if screen.elevation > 0.1:  # made to hang on a wall
            x, y, _, _, deep, _, yaw = stand.box
            off = deep / 2 - float(screen.mesh.bounds()[1, 1]) - 0.002
            at = (float(x - np.sin(yaw) * off), float(y + np.cos(yaw) * off))
            if room.put(screen, *at, yaw, max(screen.elevation, stand.box[5] + 0.15)) is not None:
                break
        elif room.on_top(screen, stand, 0.15, turn=0.0) is not None:
            break
    return stand


def _low_table(room: Arrangement, sofa: Piece) -> Piece | None:
    for _ in range(4):
        distance, shift = float(room.rng.uniform(0.3, 0.45)), float(room.rng.uniform(-0.15, 0.15))
        placed = room.before(room.draw("coffee_table"), sofa, distance, shift, jitter=0.05)
        if placed is not None:
            return placed
    return None


def _seat(room: Arrangement, sofa: Piece, table: Piece | None) -> None:
    """An armchair, stool or chair beside the low table that looks at it."""
    kind = ("armchair", "armchair", "armchair", "stool")[room.rng.integers(4)]
    thing = room.draw(kind)
    x, y, _, wide, deep, _, yaw = sofa.box if table is None else table.box
    yaw = sofa.box[6]
    for _ in range(14):
        side = float(room.rng.choice([-1, 1]))
        shift = side * (wide / 2 + thing.size[1] / 2 + float(room.rng.uniform(0.25, 0.7)))
        off = float(room.rng.uniform(-0.7, 0.2)) if table is not None else -deep / 2 - float(room.rng.uniform(0.4, 1.0))
        at = (float(x + np.cos(yaw) * shift - np.sin(yaw) * off), float(y + np.sin(yaw) * shift + np.cos(yaw) * off))
        turn = towards(table or sofa, *at) + 0.15 * float(room.rng.normal())
        if room.put(thing, *at, turn, gap=0.06) is not None:
            return


def _speakers(room: Arrangement, stand: Piece) -> None:
    thing = room.draw("speaker", lambda size: size[2] > 0.5)
    for side in (-1, 1):
        if not room.full:
            room.beside(thing, stand, side, 0.08)


def _piano(room: Arrangement, zone: Rectangle) -> None:
    if not room.supply.models.get("piano"):
        return
    piano = room.against_wall(room.draw("piano"), zone, front=0.0)
    if piano is not None:
        room.before(room.draw("bench", lambda size: size[0] < 1.3), piano, 0.12, turned=True)


def _radiator(room: Arrangement, zone: Rectangle) -> None:
    if not room.supply.models.get("radiator"):
        return
    thing = room.draw("radiator")
    for opening in room.openings:
        low = thing.elevation + thing.size[2] < opening.bottom - 0.1
        if opening.kind == "window" and low and zone.contains(*opening.wall.point(opening.along, 0.1)):
            x, y = opening.wall.point(opening.along, float(thing.mesh.bounds()[1, 1]) + 0.022)
            if room.put(thing, x, y, opening.wall.yaw, thing.elevation) is not None:
                return


def _rug(room: Arrangement, sofa: Piece, table: Piece | None) -> None:
    rug = room.draw("rug", lambda size: size[2] < 0.02 and size[0] > 0.7)
    x, y, _, _, deep, _, yaw = sofa.box
    off = -(deep / 2 + 0.55)
    at = (float(x - np.sin(yaw) * off), float(y + np.cos(yaw) * off)) if table is None else table.box[:2]
    room.lay_rug(rug, float(at[0]), float(at[1]), yaw)
