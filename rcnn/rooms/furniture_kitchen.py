"""Kitchen counter with or without sink, wall cabinet, stove, refrigerator.

Every builder returns one piece about the origin: footprint centred, standing on z = 0, front towards -y, metres.
"""

from __future__ import annotations

import numpy as np

from rcnn.rooms.mesh import Material, Mesh, hex_colour, join
from rcnn.rooms.palette import Palette
from rcnn.rooms.shapes import box, panel, tube, turned

COUNTER_HEIGHT, COUNTER_DEPTH = 0.9, 0.62
WORKTOPS = ("#3d3b3a", "#b9b2a8", "#d8d3ca", "#7a5c40", "#a67c52")


def _worktop(palette: Palette) -> Material:
    # one worktop per kitchen: chosen by the palette, not by the piece
    code = WORKTOPS[int(1000 * palette.wood.colour[0]) % len(WORKTOPS)]
    return Material("marble" if code in WORKTOPS[:3] else "wood", hex_colour(code), gloss=0.3)


def _fronts(
    palette: Palette, width: float, low: float, high: float, front: float, doors: int, drawers: int
) -> list[Mesh]:
    """Doors side by side, or drawers one above the other, on the plane y = front."""
    parts = []
    count = doors or drawers
    for k in range(count):
        if doors:
            size = (width / doors - 0.008, 0.02, high - low - 0.01)
            x, z = (k - (doors - 1) / 2) * width / doors, (low + high) / 2
            handle = (x + (0.5 - (k >= doors / 2)) * 0.7 * size[0] * (doors > 1), z + 0.2 * size[2])
            grip = (0.012, 0.02, 0.14)
        else:
            tall = (high - low) / drawers
            size = (width - 0.008, 0.02, tall - 0.008)
            x, z = 0.0, low + (k + 0.5) * tall
            handle, grip = (x, z + 0.2 * tall), (0.16, 0.02, 0.012)
        parts.append(box(size, palette.paint, (x, front - 0.008, z), 0.004))
        parts.append(box(grip, palette.metal, (handle[0], front - 0.026, handle[1]), 0.004))
    return parts


def counter(palette: Palette, rng: np.random.Generator, width: float = 0.8) -> Mesh:
    """Base cabinet with a worktop."""
    depth = COUNTER_DEPTH
    body = depth - 0.05
    parts = [
        box((width, depth, 0.04), _worktop(palette), (0, 0, COUNTER_HEIGHT - 0.02), 0.005),
        box((width - 0.004, body, 0.76), palette.paint, (0, 0.02, 0.48)),
        box((width - 0.02, body - 0.06, 0.1), palette.black, (0, 0.03, 0.05)),
    ]
    doors = round(width / 0.45) if rng.random() < 0.65 else 0
    return join(parts + _fronts(palette, width, 0.1, 0.86, 0.02 - body / 2, doors, int(rng.integers(3, 5))))


def sink_counter(palette: Palette, rng: np.random.Generator, width: float = 0.9) -> Mesh:
    """Base cabinet with a basin and a tap."""
    depth, bowl_x, bowl_y = COUNTER_DEPTH, 0.44, 0.36
    body = depth - 0.05
    top = _worktop(palette)
    shift = float(rng.choice([-1, 1])) * max(0.0, width / 2 - bowl_x / 2 - 0.12)
    left, right = width / 2 + shift - bowl_x / 2, width / 2 - shift - bowl_x / 2
    z = COUNTER_HEIGHT - 0.02
    steel = Material("paper", hex_colour("#a9abad"), gloss=0.5)
    parts = [
        box((left, depth, 0.04), top, (-width / 2 + left / 2, 0, z), 0.003),
        box((right, depth, 0.04), top, (width / 2 - right / 2, 0, z), 0.003),
        box((bowl_x, 0.10, 0.04), top, (shift, -depth / 2 + 0.05, z)),
        box((bowl_x, depth - bowl_y - 0.10, 0.04), top, (shift, (bowl_y + 0.10) / 2, z)),
        box((width - 0.004, body, 0.56), palette.paint, (0, 0.02, 0.38)),
        box((width - 0.004, 0.02, 0.2), palette.paint, (0, 0.03 - body / 2, 0.76)),
        box((width - 0.004, 0.02, 0.2), palette.paint, (0, 0.01 + body / 2, 0.76)),
        box((width - 0.02, body - 0.06, 0.1), palette.black, (0, 0.03, 0.05)),
        box((bowl_x + 0.03, bowl_y + 0.02, 0.012), steel, (shift, 0.10 - depth / 2 + bowl_y / 2, 0.72)),
    ]
    for x in (-1, 1):
        parts.append(box((0.02, body - 0.04, 0.2), palette.paint, (x * (width / 2 - 0.012), 0.02, 0.76)))
        side = (shift + x * (bowl_x / 2 + 0.005), 0.10 - depth / 2 + bowl_y / 2, 0.795)
        parts.append(box((0.012, bowl_y + 0.02, 0.15), steel, side))
    for y in (0.10 - depth / 2 - 0.005, 0.10 - depth / 2 + bowl_y + 0.005):
        parts.append(box((bowl_x + 0.02, 0.012, 0.15), steel, (shift, y, 0.795)))
    back = 0.10 - depth / 2 + bowl_y + 0.06
    rise = COUNTER_HEIGHT + float(rng.uniform(0.2, 0.32))
    path = [(shift, back, COUNTER_HEIGHT - 0.01), (shift, back, rise - 0.05), (shift, back - 0.04, rise)]
    path += [(shift, back - 0.13, rise), (shift, back - 0.16, rise - 0.05)]
    parts.append(tube(path, 0.013, steel))
    parts.append(turned([(0, 0), (0.03, 0), (0.026, 0.03), (0, 0.03)], steel, (shift, back, COUNTER_HEIGHT), 16))
    return join(parts + _fronts(palette, width, 0.1, 0.86, 0.02 - body / 2, max(1, round(width / 0.45)), 0))


def wall_cabinet(palette: Palette, rng: np.random.Generator, width: float = 0.8, height: float = 0.65) -> Mesh:
    """Cupboard that hangs on a wall."""
    depth = 0.36
    body = box((width - 0.004, depth - 0.03, height), palette.paint, (0, 0.015, height / 2), 0.004)
    return join(
        [body, *_fronts(palette, width, 0.0, height, 0.015 - (depth - 0.03) / 2, max(1, round(width / 0.45)), 0)]
    )


def stove(palette: Palette, rng: np.random.Generator) -> Mesh:
    """Cooker with an oven door, knobs and four plates."""
    width, depth, height = 0.6, 0.62, COUNTER_HEIGHT - float(rng.uniform(0.0, 0.03))
    steel = rng.random() < 0.5
    body = Material("paper", hex_colour("#b5b6b8" if steel else "#e8e7e3"), gloss=0.3)
    glass = Material("paper", hex_colour("#191a1c"), gloss=0.6)
    front = -depth / 2 + 0.04
    parts = [
        box((width, depth - 0.05, height - 0.1), body, (0, 0.02, 0.08 + (height - 0.1) / 2 - 0.01), 0.006),
        box((width - 0.04, depth - 0.12, 0.08), palette.black, (0, 0.03, 0.04)),
        box((width, depth - 0.03, 0.03), glass if rng.random() < 0.6 else body, (0, 0.01, height - 0.015), 0.006),
        box((width - 0.05, 0.025, 0.46), body, (0, front - 0.01, 0.42), 0.006),
        panel(width - 0.16, 0.28, glass).moved((0, front - 0.0235, 0.42)),
        box((width - 0.14, 0.02, 0.02), palette.metal, (0, front - 0.045, 0.63), 0.008),
    ]
    for x in (-1, 1):
        parts.append(box((0.02, 0.03, 0.02), palette.metal, (x * 0.2, front - 0.03, 0.63)))
        for y in (-0.12, 0.14):
            radius = float(rng.choice([0.075, 0.095]))
            plate = [(0, 0), (radius, 0), (radius, 0.006), (radius - 0.01, 0.009), (0, 0.009)]
            parts.append(turned(plate, palette.black, (x * 0.15, 0.02 + y, height), 24))
    for k in range(5):
        knob = turned([(0, 0), (0.018, 0), (0.015, 0.022), (0, 0.022)], palette.black, segments=14)
        parts.append(knob.moved(pitch=np.pi / 2).moved(((k - 2) * 0.1, front, height - 0.085)))
    return join(parts)


def refrigerator(palette: Palette, rng: np.random.Generator, width: float = 0.6, height: float = 1.75) -> Mesh:
    """Fridge with a freezer above or below."""
    depth = float(rng.uniform(0.6, 0.68))
    code = ("#e9e9e6", "#b4b6b8", "#3a3c40", "#a8322d", "#7fa79c")[rng.choice(5, p=[0.45, 0.3, 0.1, 0.08, 0.07])]
    coat = Material("paper", hex_colour(code), gloss=0.35)
    split = height * (0.36 if rng.random() < 0.5 else 0.68)
    front = -depth / 2 + 0.05
    parts = [
        box((width, depth - 0.05, height - 0.04), coat, (0, 0.025, 0.04 + (height - 0.04) / 2), 0.01),
        box((width - 0.06, depth - 0.15, 0.04), palette.black, (0, 0.03, 0.02)),
    ]
    for low, high in ((0.05, split), (split, height)):
        parts.append(box((width, 0.045, high - low - 0.008), coat, (0, front - 0.028, (low + high) / 2), 0.012))
        at = (0.4 * width, front - 0.068, split + (0.16 if low > 0.1 else -0.2))
        parts.append(box((0.02, 0.02, 0.26), palette.metal, at, 0.007))
        for z in (-0.1, 0.1):
            parts.append(box((0.016, 0.03, 0.016), palette.metal, (at[0], front - 0.055, at[2] + z)))
    return join(parts)
