"""Bed, nightstand, table lamp, wardrobe.

Every builder returns one piece about the origin: footprint centred, standing on z = 0, front towards -y, metres.
"""

from __future__ import annotations

import numpy as np

from rcnn.rooms.mesh import Material, Mesh, hex_colour, join
from rcnn.rooms.palette import Palette
from rcnn.rooms.shapes import box, cushion, turned

KNOB = [(0.0, -0.012), (0.012, -0.012), (0.016, 0.0), (0.012, 0.012), (0.0, 0.012)]


def bed(palette: Palette, rng: np.random.Generator, width: float = 1.6, length: float = 2.05, pillows: int = 2) -> Mesh:
    """Bed with headboard, mattress, one or two pillows, a throw pillow and a blanket; the head is at +y."""
    back = length / 2
    parts = [
        box((width, 0.06, 0.62), palette.dark_wood, (0, back - 0.03, 0.71), 0.02),
        box((width - 0.1, 0.03, 0.44), palette.upholstery, (0, back - 0.075, 0.74), 0.014),
        box((width, 0.04, 0.24), palette.dark_wood, (0, -back + 0.02, 0.28), 0.012),
        box((0.04, length - 0.08, 0.2), palette.dark_wood, (-width / 2 + 0.02, 0, 0.28), 0.01),
        box((0.04, length - 0.08, 0.2), palette.dark_wood, (width / 2 - 0.02, 0, 0.28), 0.01),
        box((width - 0.08, length - 0.1, 0.06), palette.dark_wood, (0, 0, 0.27)),
    ]
    for x in (-1, 1):
        parts.append(box((0.07, 0.06, 0.44), palette.dark_wood, (x * (width / 2 - 0.035), back - 0.03, 0.22)))
        parts.append(box((0.07, 0.06, 0.18), palette.dark_wood, (x * (width / 2 - 0.035), -back + 0.04, 0.09)))
    parts.append(box((width - 0.1, length - 0.15, 0.24), palette.linen, (0, -0.01, 0.42), 0.07))
    cover_length = 1.28 * length / 2.05
    cover = box((width - 0.02, cover_length, 0.19), palette.blanket, (0, -back + 0.055 + cover_length / 2, 0.475), 0.05)
    ripple = 0.010 * np.sin(9 * cover.vertices[:, 0] + rng.random() * 6) * np.sin(7 * cover.vertices[:, 1] + 1.0)
    lifted = cover.vertices + np.stack([0 * ripple, 0 * ripple, ripple * (cover.vertices[:, 2] > 0.5)], 1)
    parts.append(cover.deformed(lifted))
    fold_y = -back + 0.055 + cover_length + 0.02
    parts.append(box((width - 0.01, 0.26, 0.07), palette.linen, (0, fold_y, 0.55), 0.033))
    for x in (-1, 1) if pillows == 2 else (0,):
        pillow = cushion((0.66, 0.42, 0.17), palette.linen, puff=0.55)
        lean = 0.30 + 0.08 * rng.random()
        parts.append(pillow.moved((x * 0.37 * width / 1.6, back - 0.33, 0.655), 0.06 * rng.normal(), lean))
    throw = cushion((0.42, 0.34, 0.15), palette.accent, puff=0.55)
    parts.append(throw.moved((0.05 * rng.normal(), back - 0.56, 0.68), 0.1 * rng.normal(), 0.55))
    return join(parts)


def nightstand(palette: Palette, rng: np.random.Generator, width: float = 0.42, height: float = 0.52) -> Mesh:
    """Cabinet with two drawers on four legs."""
    depth, leg = 0.38, 0.13
    body = height - leg
    parts = [
        box((width, depth, 0.03), palette.wood, (0, 0, height - 0.015), 0.008),
        box((width - 0.02, depth - 0.02, body - 0.03), palette.wood, (0, 0.005, leg + (body - 0.03) / 2), 0.004),
    ]
    drawer = (body - 0.06) / 2
    for k in range(2):
        z = leg + 0.015 + drawer / 2 + k * (drawer + 0.01)
        parts.append(box((width - 0.05, 0.018, drawer), palette.paint, (0, -depth / 2 + 0.012, z), 0.004))
        parts.append(turned(KNOB, palette.metal, (0, -depth / 2 - 0.008, z), 10))
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (width / 2 - 0.04), y * (depth / 2 - 0.04), 0)
            parts.append(turned([(0, 0), (0.012, 0), (0.02, leg + 0.01), (0, leg + 0.01)], palette.dark_wood, at, 10))
    return join(parts)


def shade(radius_low: float, radius_high: float, low: float, high: float) -> Mesh:
    """Conical lamp shade, a thin ring from height `low` to `high`, glowing faintly."""
    glow = Material("fabric", hex_colour("#f3ddb8"), emission=0.45)
    wall = 0.008
    outline = [
        (radius_low - wall, low),
        (radius_low, low),
        (radius_high, high),
        (radius_high - wall, high),
        (radius_low - wall, low),
    ]
    return turned(outline, glow, segments=28)


def table_lamp(palette: Palette, rng: np.random.Generator, height: float = 0.46) -> Mesh:
    """Ceramic foot, short stem and a conical shade."""
    foot = 0.5 * height
    profile = [(0, 0), (0.055, 0), (0.06, 0.012), (0.045, 0.03), (0.07, 0.35 * foot), (0.078, 0.5 * foot)]
    profile += [(0.066, 0.72 * foot), (0.03, 0.95 * foot), (0.02, foot), (0, foot)]
    ceramic = Material("speckle", palette.accent.colour)
    parts = [
        turned(profile, ceramic, segments=20),
        turned([(0, foot), (0.008, foot), (0.008, height - 0.03), (0, height - 0.03)], palette.metal, segments=8),
        turned([(0, height - 0.1), (0.03, height - 0.08), (0.03, height - 0.05), (0, height - 0.03)], palette.linen),
        shade(0.145, 0.095, foot + 0.03, height),
    ]
    for k in range(3):  # spokes that carry the shade
        spoke = box((0.1, 0.006, 0.006), palette.metal, (0.05, 0, height - 0.05))
        parts.append(spoke.moved(yaw=2 * np.pi * k / 3))
    return join(parts)


def wardrobe(palette: Palette, rng: np.random.Generator, width: float = 1.3, height: float = 2.0) -> Mesh:
    """Three-door wardrobe on a plinth, with panelled doors and bar handles."""
    depth = 0.58
    parts = [
        box((width - 0.06, depth - 0.06, 0.08), palette.dark_wood, (0, 0.01, 0.04)),
        box((width, depth - 0.02, height - 0.12), palette.wood, (0, 0.01, 0.08 + (height - 0.12) / 2), 0.006),
        box((width + 0.04, depth + 0.02, 0.05), palette.wood, (0, 0.0, height - 0.025), 0.012),
    ]
    door, front = (width - 0.05) / 3, -depth / 2
    door_height = height - 0.2
    for k in range(3):
        x, z = (k - 1) * (door + 0.008), 0.1 + door_height / 2 + 0.005
        parts.append(box((door, 0.022, door_height), palette.paint, (x, front + 0.008, z), 0.005))
        for share, centre in ((0.56, 0.68), (0.30, 0.20)):
            tall = share * door_height
            at = (x, front - 0.004, 0.1 + centre * door_height)
            parts.append(box((door - 0.12, 0.014, tall), palette.paint, at, 0.006))
            inset = (at[0], front - 0.010, at[2])
            parts.append(box((door - 0.18, 0.012, tall - 0.06), palette.wood, inset, 0.005))
        handle_x = x + (door / 2 - 0.03) * (1 if k == 0 else -1)
        parts.append(box((0.014, 0.022, 0.22), palette.black, (handle_x, front - 0.014, 1.0), 0.006))
    return join(parts)
