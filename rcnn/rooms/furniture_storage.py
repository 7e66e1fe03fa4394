"""Chests of drawers, sideboards, cubes of shelves, and small things that stand on them.

Every builder returns one piece about the origin: footprint centred, standing on z = 0, front towards -y, metres.
"""

from __future__ import annotations

import numpy as np

from rcnn.rooms.furniture_study import BOOK_COLOURS
from rcnn.rooms.mesh import Material, Mesh, hex_colour, join
from rcnn.rooms.palette import Palette
from rcnn.rooms.shapes import box, leaf, tube, turned


def chest(
    palette: Palette, rng: np.random.Generator, width: float = 1.0, depth: float = 0.45, height: float = 0.85
) -> Mesh:
    """Chest of drawers in one, two or three columns, on a plinth or legs."""
    foot = float(rng.uniform(0.05, 0.14))
    body = height - foot
    parts = [
        box((width, depth, 0.03), palette.wood, (0, 0, height - 0.015), 0.006),
        box((width - 0.01, depth - 0.03, body - 0.03), palette.wood, (0, 0.015, foot + (body - 0.03) / 2), 0.004),
    ]
    columns, rows = max(1, round(width / 0.6)), max(2, round(body / 0.24))
    wide, tall = (width - 0.04) / columns, (body - 0.05) / rows
    for column in range(columns):
        for row in range(rows):
            x, z = (column - (columns - 1) / 2) * wide, foot + 0.01 + (row + 0.5) * tall
            parts.append(
                box((wide - 0.012, 0.02, tall - 0.012), palette.paint, (x, 0.004 - depth / 2 + 0.012, z), 0.004)
            )
            parts.append(box((0.3 * wide, 0.018, 0.014), palette.metal, (x, -depth / 2 - 0.004, z + 0.02), 0.005))
    if rng.random() < 0.5:
        parts.append(box((width - 0.08, depth - 0.08, foot), palette.dark_wood, (0, 0.02, foot / 2)))
    else:
        for x in (-1, 1):
            for y in (-1, 1):
                at = (x * (width / 2 - 0.06), y * (depth / 2 - 0.06), 0)
                parts.append(
                    turned([(0, 0), (0.014, 0), (0.022, foot + 0.01), (0, foot + 0.01)], palette.dark_wood, at, 10)
                )
    return join(parts)


def cube_shelf(palette: Palette, rng: np.random.Generator, columns: int = 2, rows: int = 3, cell: float = 0.36) -> Mesh:
    """Open cubes with a back; some hold boxes, some books, some nothing."""
    depth, board = 0.34, 0.022
    width, height = columns * cell + board, rows * cell + board
    parts = [box((width - 0.01, 0.01, height - 0.01), palette.paint, (0, depth / 2 - 0.006, height / 2))]
    for column in range(columns + 1):
        outer = column in (0, columns)
        size = (board, depth, height if outer else height - 2 * board)
        parts.append(
            box(size, palette.wood, (column * cell - width / 2 + board / 2, 0, height / 2), 0.003 if outer else 0)
        )
    for row in range(rows + 1):
        parts.append(box((width - 2 * board, depth - 0.01, board), palette.wood, (0, -0.004, row * cell + board / 2)))
    for column in range(columns):
        for row in range(rows):
            x, z = (column + 0.5) * cell - width / 2 + board / 2, row * cell + board
            clear = cell - board
            choice = rng.random()
            if choice < 0.25:
                cloth = palette.accent if rng.random() < 0.5 else palette.linen
                parts.append(box((clear - 0.03, depth - 0.06, 0.8 * clear), cloth, (x, 0, z + 0.4 * clear), 0.012))
            elif choice < 0.7:
                parts += _books(rng, x - clear / 2 + 0.01, 0.9 * clear, z, clear, depth)
    return join(parts)


def _books(rng: np.random.Generator, x: float, room: float, z: float, clear: float, depth: float) -> list[Mesh]:
    parts = []
    end = x + room * rng.uniform(0.4, 1.0)
    while True:
        thick, tall = float(rng.uniform(0.02, 0.045)), clear * float(rng.uniform(0.6, 0.9))
        if x + thick > end:
            return parts
        deep = float(rng.uniform(0.15, 0.22))
        parts.append(box((thick, deep, tall), _cover(rng), (x + thick / 2, depth / 2 - 0.02 - deep / 2, z + tall / 2)))
        x += thick + 0.002


def _cover(rng: np.random.Generator) -> Material:
    return Material("paper", hex_colour(BOOK_COLOURS[rng.integers(len(BOOK_COLOURS))]))


def book_stack(palette: Palette, rng: np.random.Generator, count: int = 4) -> Mesh:
    """Books lying on each other."""
    z, parts = 0.0, []
    for _ in range(count):
        size = (rng.uniform(0.2, 0.28), rng.uniform(0.14, 0.2), rng.uniform(0.02, 0.045))
        cover = box(size, _cover(rng), (0, 0, z + size[2] / 2), 0.003)
        parts.append(cover.moved(yaw=float(0.15 * rng.normal())))
        z += size[2]
    return join(parts)


def table_vase(palette: Palette, rng: np.random.Generator, height: float = 0.28) -> Mesh:
    """Turned vase, empty or with a few leaves."""
    belly = height * float(rng.uniform(0.25, 0.42))
    waist, neck = float(rng.uniform(0.5, 0.8)), float(rng.uniform(0.25, 0.55))
    shares = [(0.0, 0.0), (waist, 0.0), (waist + 0.05, 0.03), (1.0, float(rng.uniform(0.3, 0.6))), (neck, 0.9)]
    shares += [(neck + 0.1, 1.0), (neck + 0.02, 1.0), (neck - 0.08, 0.92), (0.0, 0.88)]
    glaze = Material(("speckle", "stripes", "marble", "paper")[rng.integers(4)], palette.accent.colour, gloss=0.4)
    parts = [turned([(r * belly, z * height) for r, z in shares], glaze, segments=28)]
    green = Material("leaf", hex_colour(("#4f8a3c", "#86ad58", "#a9743c")[rng.integers(3)]))
    for k in range(int(rng.integers(0, 2)) * 7):
        angle = 2.399963 * k
        blade = leaf(float(rng.uniform(0.16, 0.26)), 0.05, 1.1, green)
        # upright at the root, arching outwards
        turned_up = blade.vertices @ np.array([[0.35, 0, 0.94], [0, 1, 0], [-0.94, 0, 0.35]])
        parts.append(blade.deformed(turned_up).moved((0.01 * np.cos(angle), 0.01 * np.sin(angle), 0.9 * height), angle))
    return join(parts)


def bowl(palette: Palette, rng: np.random.Generator, radius: float = 0.13) -> Mesh:
    """Bowl, with fruit or empty."""
    height = radius * float(rng.uniform(0.5, 0.8))
    outline = [(0, 0), (0.4 * radius, 0), (0.75 * radius, 0.4 * height), (radius, height), (radius - 0.008, height)]
    outline += [(0.7 * radius, 0.45 * height), (0, 0.2 * height)]
    parts = [turned(outline, Material("speckle", palette.accent.colour, gloss=0.3), segments=28)]
    for k in range(int(rng.integers(0, 5))):
        size = float(rng.uniform(0.03, 0.04))
        fruit = Material("speckle", hex_colour(("#c43b2a", "#d99a2b", "#7f9d3a", "#c9b23c")[rng.integers(4)]))
        angle, reach = 2 * np.pi * k / 4, 0.42 * radius * (k < 4)
        ball = _ball(size, fruit)
        parts.append(ball.moved((reach * np.cos(angle), reach * np.sin(angle), 0.5 * height + (k == 4) * 0.03)))
    return join(parts)


def mug(palette: Palette, rng: np.random.Generator, radius: float = 0.045) -> Mesh:
    """Cup with a handle."""
    tall = float(rng.uniform(0.08, 0.11))
    outline = [
        (0, 0),
        (0.85 * radius, 0),
        (radius, 0.01),
        (radius, tall),
        (radius - 0.005, tall),
        (radius - 0.007, 0.02),
    ]
    glaze = Material("paper", palette.accent.colour if rng.random() < 0.6 else (0.8, 0.79, 0.76), gloss=0.4)
    path = [(radius - 0.004, 0, 0.75 * tall), (radius + 0.025, 0, 0.7 * tall), (radius + 0.025, 0, 0.35 * tall)]
    path.append((radius - 0.004, 0, 0.25 * tall))
    return join([turned([*outline, (0, 0.015)], glaze, segments=20), tube(path, 0.006, glaze)])


def ball(palette: Palette, rng: np.random.Generator, radius: float = 0.11) -> Mesh:
    """A toy ball."""
    return _ball(radius, Material("stripes", palette.accent.colour)).moved((0, 0, radius))


def _ball(radius: float, material: Material) -> Mesh:
    angles = np.linspace(-np.pi / 2, np.pi / 2, 11)
    profile = [(radius * max(0.0, float(np.cos(a))), radius * float(np.sin(a))) for a in angles]
    profile[0], profile[-1] = (0.0, -radius), (0.0, radius)
    return turned(profile, material, segments=20)


def storage_box(
    palette: Palette, rng: np.random.Generator, width: float = 0.4, depth: float = 0.3, height: float = 0.26
) -> Mesh:
    """Box with a lid."""
    card = Material("paper", hex_colour(("#b58e62", "#c9c2b4", "#8f9aa3")[rng.integers(3)]))
    side = palette.accent if rng.random() < 0.5 else card
    lid = 0.25 * height
    return join(
        [
            box((width - 0.012, depth - 0.012, height - lid), side, (0, 0, (height - lid) / 2), 0.004),
            box((width, depth, lid), side if rng.random() < 0.5 else palette.linen, (0, 0, height - lid / 2), 0.004),
        ]
    )


def bin_(palette: Palette, rng: np.random.Generator, height: float = 0.32) -> Mesh:
    """Conical waste-paper basket."""
    radius = float(rng.uniform(0.11, 0.15))
    outline = [
        (0, 0),
        (0.75 * radius, 0),
        (radius, height),
        (radius - 0.008, height),
        (0.72 * radius, 0.012),
        (0, 0.012),
    ]
    return turned(outline, palette.metal if rng.random() < 0.5 else palette.accent, segments=24)


def speaker(palette: Palette, rng: np.random.Generator, height: float = 0.9) -> Mesh:
    """Loudspeaker with two cones."""
    width = float(rng.uniform(0.18, 0.24)) if height > 0.5 else 0.6 * height
    depth = 1.15 * width
    case = palette.black if rng.random() < 0.6 else palette.dark_wood
    parts = [box((width, depth, height), case, (0, 0, height / 2), 0.006)]
    for z, radius in ((height - 0.75 * width, 0.28 * width), (height - 1.5 * width, 0.4 * width)):
        cone = turned(
            [(0, 0), (radius, 0), (radius, 0.008), (0.7 * radius, 0.012), (0, 0.004)], palette.metal, segments=24
        )
        if z - radius > 0.02:
            parts.append(cone.moved(pitch=np.pi / 2).moved((0, -depth / 2, z)))
    return join(parts)


def radio(palette: Palette, rng: np.random.Generator, width: float = 0.3) -> Mesh:
    """Small radio with a grille and two knobs."""
    tall, deep = 0.55 * width, 0.32 * width
    case = palette.accent if rng.random() < 0.4 else palette.wood
    front = -deep / 2
    parts = [
        box((width, deep, tall), case, (0, 0, tall / 2), 0.012),
        box((0.55 * width, 0.006, 0.7 * tall), palette.linen, (-0.16 * width, front - 0.002, tall / 2)),
    ]
    for z in (0.3, 0.7):
        knob = turned([(0, 0), (0.07 * width, 0), (0.06 * width, 0.012), (0, 0.012)], palette.metal, segments=16)
        parts.append(knob.moved(pitch=np.pi / 2).moved((0.3 * width, front, z * tall)))
    return join(parts)
