"""Background of any floor plan: floor, ceiling, walls, skirting, doors, windows, curtains, pictures, lights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcnn.rooms.layouts.floor_plan import FloorPlan, Wall
from rcnn.rooms.layouts.openings import CURTAIN_FOOT, CURTAIN_WIDTH, Opening
from rcnn.rooms.mesh import Material, Mesh, hex_colour, join
from rcnn.rooms.mood import Mood
from rcnn.rooms.palette import Palette
from rcnn.rooms.shapes import sheet
from rcnn.rooms.shell import SKIRTING, AreaLight, Shell, board, curtain, door_leaf, framed_picture, window_frame

# Edges of the triangles that carry the light: shadows fall on floors.
FLOOR_STEP, WALL_STEP, CEILING_STEP = 0.075, 0.11, 0.16
SEAM = 0.004


@dataclass(frozen=True)
class Picture:
    """A picture on a wall."""

    wall: Wall
    """Where it hangs."""
    along: float
    """Its middle, metres from the wall's start."""
    height: float
    """Its middle, metres above the floor."""
    size: tuple[float, float]
    """Width and height in metres."""
    motif: str
    """Texture."""


def hang(mesh: Mesh, wall: Wall, along: float, up: float = 0.0, off: float = 0.0) -> Mesh:
    """Puts a mesh whose back is y = 0 on a wall."""
    return mesh.moved((*wall.point(along, off), up), wall.yaw)


def build_plan_shell(
    plan: FloorPlan,
    openings: Sequence[Opening],
    pictures: Sequence[Picture],
    pendants: Sequence[tuple[float, float, float]],
    palette: Palette,
    mood: Mood,
    rng: np.random.Generator,
) -> Shell:
    """The empty room. `pendants` are (x, y, z) of the lower ends of hanging lamps; a zone without one has a panel."""
    height = plan.size[2]
    white = Material("plaster", hex_colour(("#f0eeea", "#e9e6df", "#f2f1ee")[rng.integers(3)]))
    parts: list[Mesh] = []
    for cell in plan.floor:
        wide, deep = cell.x2 - cell.x1, cell.y2 - cell.y1
        parts.append(sheet((cell.x1, cell.y1, 0), (wide, 0, 0), (0, deep, 0), palette.floor, step=FLOOR_STEP))
        parts.append(sheet((cell.x1, cell.y2, height), (wide, 0, 0), (0, -deep, 0), white, step=CEILING_STEP))
    accent = int(rng.integers(len(plan.walls)))
    for number, wall in enumerate(plan.walls):
        paint = palette.accent_wall if number == accent else palette.wall
        # walls reach into the walls, floor and ceiling that they meet, so that no ray slips through between them
        ends = np.array([wall.point(-SEAM, SEAM), wall.point(wall.length + SEAM, SEAM)])
        # but not into the air around an outer corner
        low, high = np.where(plan.contains(ends), 0.0, SEAM)
        start, stop = -float(low), wall.length + float(high)
        edge = (-(stop - start) / 2, 0, -SEAM)
        surface = sheet(edge, (stop - start, 0, 0), (0, 0, height + 2 * SEAM), paint, step=WALL_STEP)
        parts.append(hang(surface, wall, (start + stop) / 2))
        parts += _skirting(wall, [door for door in openings if door.kind == "door" and door.wall == wall], palette)
    lights: list[AreaLight] = []
    for opening in openings:
        if opening.kind == "door":
            parts += [
                hang(part, opening.wall, opening.along) for part in door_leaf(palette, opening.width, opening.top)
            ]
            continue
        tall = opening.top - opening.bottom
        for part in window_frame(palette, opening.width, tall, mood.view):
            parts.append(hang(part, opening.wall, opening.along, opening.bottom))
        if opening.curtains:
            for x in (-1, 1):
                cloth = curtain(palette, CURTAIN_WIDTH, height - 0.18 - CURTAIN_FOOT, rng)
                at = opening.along + x * (opening.width / 2 + 0.2)
                parts.append(hang(cloth, opening.wall, at, CURTAIN_FOOT, 0.07))
            rod = board((opening.width + 0.9, 0.02, 0.02), palette.black, (0, -0.07, height - 0.17), 0.009)
            parts.append(hang(rod, opening.wall, opening.along))
        lights.append(_window_light(opening, mood))
    for picture in pictures:
        frame = framed_picture(Material(picture.motif, (0.9, 0.9, 0.9)), *picture.size, palette)
        parts.append(hang(frame, picture.wall, picture.along, picture.height))
    ceiling_parts, ceiling_lights = _ceiling(plan, pendants, palette, mood)
    return Shell(join(parts + ceiling_parts), tuple(lights + ceiling_lights), plan.size)


def _skirting(wall: Wall, doors: Sequence[Opening], palette: Palette) -> list[Mesh]:
    ends = sorted((door.along - door.width / 2 - 0.05, door.along + door.width / 2 + 0.05) for door in doors)
    starts = [0.0, *(end for _, end in ends)]
    stops = [*(start for start, _ in ends), wall.length]
    parts = []
    for start, stop in zip(starts, stops, strict=True):
        if stop - start > 0.03:
            size = (stop - start - 0.002, SKIRTING, 0.09)
            parts.append(hang(board(size, palette.trim, (0, -SKIRTING / 2, 0.045), 0.005), wall, (start + stop) / 2))
    return parts


def _window_light(opening: Opening, mood: Mood) -> AreaLight:
    tall = opening.top - opening.bottom
    corner = np.array([*opening.wall.point(opening.along - opening.width / 2, 0.03), opening.bottom])
    # light leaves along the first edge x the second, into the room
    edges = np.array([[0.0, 0.0, tall], [*(edge * opening.width for edge in opening.wall.direction), 0.0]])
    return AreaLight(corner, edges, mood.window)


def _ceiling(
    plan: FloorPlan, pendants: Sequence[tuple[float, float, float]], palette: Palette, mood: Mood
) -> tuple[list[Mesh], list[AreaLight]]:
    """Panels in the middle of zones that have no pendant, and the light of both."""
    height = plan.size[2]
    on = bool(mood.ceiling.max() > 0)
    parts, lights = [], []
    for x, y, z in pendants:
        edge = 0.24
        corner = np.array([x - edge / 2, y + edge / 2, z - 0.012])
        edges = np.array([[edge, 0, 0], [0, -edge, 0]])
        if on:
            lights.append(AreaLight(corner, edges, mood.ceiling * 5.0))
    for zone in plan.zones:
        if any(zone.contains(x, y) for x, y, _ in pendants):
            continue
        x, y = zone.centre
        lamp = np.array([1.1, 0.55]) if zone.x2 - zone.x1 > zone.y2 - zone.y1 else np.array([0.55, 1.1])
        corner = np.array([x - lamp[0] / 2, y + lamp[1] / 2, height - 0.055])
        edges = np.array([[lamp[0], 0, 0], [0, -lamp[1], 0]])
        glow = Material("paper", (1.0, 0.97, 0.92), emission=0.8 * float(mood.ceiling.max()) if on else 0.0)
        parts.append(sheet(corner, edges[0], edges[1], glow))
        parts.append(board((lamp[0] + 0.06, lamp[1] + 0.06, 0.05), palette.trim, (x, y, height - 0.025), 0.006))
        if on:
            lights.append(AreaLight(corner, edges, mood.ceiling))
    return parts, lights
