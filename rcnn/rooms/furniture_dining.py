"""Dining table, chairs, stool, bench.

Every builder returns one piece about the origin: footprint centred, standing on z = 0, front towards -y, metres.
"""

from __future__ import annotations

import numpy as np

from rcnn.rooms.mesh import Material, Mesh, join
from rcnn.rooms.palette import Palette
from rcnn.rooms.shapes import box, tube, turned


def dining_table(
    palette: Palette, rng: np.random.Generator, width: float = 1.5, depth: float = 0.85, height: float = 0.75
) -> Mesh:
    """Board on four legs with an apron."""
    top, leg = float(rng.uniform(0.025, 0.05)), float(rng.uniform(0.045, 0.08))
    inset = float(rng.uniform(0.0, 0.08)) + leg / 2
    legs = palette.dark_wood if rng.random() < 0.5 else palette.wood
    apron = float(rng.uniform(0.05, 0.1))
    parts = [box((width, depth, top), palette.wood, (0, 0, height - top / 2), 0.008)]
    z = height - top - apron / 2
    for side in (-1, 1):
        y, x = side * (depth / 2 - inset), side * (width / 2 - inset)
        parts.append(box((width - 2 * inset - leg, 0.02, apron), legs, (0, y, z)))
        parts.append(box((0.02, depth - 2 * inset - leg, apron), legs, (x, 0, z)))
        for other in (-1, 1):
            parts.append(_leg(legs, side * (width / 2 - inset), other * (depth / 2 - inset), leg, height - top, rng))
    return join(parts)


def round_table(palette: Palette, rng: np.random.Generator, radius: float = 0.55, height: float = 0.75) -> Mesh:
    """Round board on a turned pillar."""
    top = float(rng.uniform(0.025, 0.04))
    foot, pillar = float(rng.uniform(0.4, 0.6)) * radius, float(rng.uniform(0.03, 0.06))
    rim = [(0, height - top), (radius - 0.01, height - top), (radius, height - top + 0.01), (radius, height - 0.008)]
    rim += [(radius - 0.008, height), (0, height)]
    stem = [(0, 0), (foot, 0), (foot, 0.02), (0.5 * foot, 0.05), (pillar, 0.1), (pillar, height - top - 0.05)]
    stem += [(2.5 * pillar, height - top), (0, height - top)]
    legs = palette.dark_wood if rng.random() < 0.5 else palette.metal
    return join([turned(rim, palette.wood, segments=40), turned(stem, legs, segments=24)])


def dining_chair(palette: Palette, rng: np.random.Generator, width: float = 0.44, height: float = 0.9) -> Mesh:
    """Seat on four legs; its back is slatted, padded or plain."""
    depth, seat, leg = width + 0.03, float(rng.uniform(0.44, 0.47)), float(rng.uniform(0.028, 0.042))
    frame = palette.wood if rng.random() < 0.5 else palette.dark_wood
    cloth = palette.upholstery if rng.random() < 0.5 else palette.accent
    padded = rng.random() < 0.6
    x, y = width / 2 - leg / 2, depth / 2 - leg / 2
    thick = 0.055 if padded else 0.025
    parts = [box((width, depth - 2 * leg, thick), cloth if padded else frame, (0, -leg / 2, seat - thick / 2), 0.012)]
    for side in (-1, 1):
        parts.append(box((leg, leg, seat - thick), frame, (side * x, -y + leg, (seat - thick) / 2), 0.005))
        post = [(side * x, y, 0.0), (side * x, y, seat), (side * x, y - 0.02, height)]
        parts.append(tube(post, [0.55 * leg, 0.55 * leg, 0.4 * leg], frame))
        parts.append(box((0.02, depth - 3 * leg, 0.03), frame, (side * x, 0, 0.22)))
    style = rng.integers(3)
    back = height - seat
    if style == 0:  # rails across
        for k in range(3):
            z = seat + back * (0.35 + 0.28 * k)
            parts.append(box((width - 1.4 * leg, 0.018, 0.05), frame, (0, y - 0.012, z), 0.005))
    elif style == 1:  # padded
        parts.append(box((width - 1.4 * leg, 0.05, 0.55 * back), cloth, (0, y - 0.014, seat + 0.68 * back), 0.02))
    else:  # slats between two rails
        for z in (seat + 0.2 * back, seat + 0.93 * back):
            parts.append(box((width - 1.4 * leg, 0.02, 0.045), frame, (0, y - 0.012, z), 0.005))
        for k in range(5):
            at = (k - 2) * (width - 2 * leg) / 5
            parts.append(box((0.022, 0.014, 0.72 * back), frame, (at, y - 0.012, seat + 0.565 * back)))
    return join(parts)


def stool(palette: Palette, rng: np.random.Generator, height: float = 0.46) -> Mesh:
    """Round padded seat on four splayed legs with a ring."""
    radius = float(rng.uniform(0.16, 0.2))
    pad = [(0, height - 0.06), (radius - 0.01, height - 0.06), (radius, height - 0.04), (radius, height - 0.015)]
    pad += [(radius - 0.015, height), (0, height)]
    cloth = palette.accent if rng.random() < 0.6 else palette.wood
    legs = palette.metal if rng.random() < 0.5 else palette.dark_wood
    parts = [turned(pad, cloth, segments=28)]
    for k in range(4):
        angle = np.pi * (2 * k + 1) / 4
        reach = np.array([np.cos(angle), np.sin(angle)])
        path = [(*(1.05 * radius * reach), 0.008), (*(0.7 * radius * reach), height - 0.058)]
        parts.append(tube(path, [0.012, 0.015], legs))
    return join(parts)


def bench(palette: Palette, rng: np.random.Generator, width: float = 1.1, depth: float = 0.38) -> Mesh:
    """Board or cushion on two frames."""
    height = float(rng.uniform(0.42, 0.48))
    padded = rng.random() < 0.5
    thick = 0.08 if padded else 0.04
    cover: Material = palette.upholstery if padded else palette.wood
    parts = [box((width, depth, thick), cover, (0, 0, height - thick / 2), 0.02 if padded else 0.006)]
    for x in (-1, 1):
        at = x * (width / 2 - 0.1)
        parts.append(box((0.05, depth - 0.06, 0.04), palette.dark_wood, (at, 0, height - thick - 0.02)))
        for y in (-1, 1):
            size = (0.045, 0.045, height - thick - 0.04)
            parts.append(box(size, palette.dark_wood, (at, y * (depth / 2 - 0.06), size[2] / 2), 0.005))
    return join(parts)


def _leg(material: Material, x: float, y: float, thick: float, height: float, rng: np.random.Generator) -> Mesh:
    if thick > 0.06:
        return box((thick, thick, height), material, (x, y, height / 2), 0.006)
    return turned([(0, 0), (0.35 * thick, 0), (0.6 * thick, height), (0, height)], material, (x, y, 0), 12)
