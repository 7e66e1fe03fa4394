"""Armchair, sofa, coffee tables, TV stand, television, floor lamp, potted plant, floor vase.

Every builder returns one piece about the origin: footprint centred, standing on z = 0, front towards -y, metres.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rcnn.rooms.furniture_bedroom import shade
from rcnn.rooms.mesh import Material, Mesh, hex_colour, join
from rcnn.rooms.palette import Palette
from rcnn.rooms.shapes import box, cushion, leaf, panel, sheet, tube, turned


def armchair(palette: Palette, rng: np.random.Generator, width: float = 0.86) -> Mesh:
    """Upholstered chair with thick arms, a seat cushion, a leaning back and a throw pillow."""
    depth, cloth = 0.84, palette.upholstery
    inner = width - 0.32
    parts = [
        box((width - 0.04, depth - 0.06, 0.20), cloth, (0, 0, 0.24), 0.03),
        box((inner - 0.01, depth - 0.22, 0.16), cloth, (0, -0.09, 0.41), 0.055),
        box((inner + 0.06, 0.19, 0.56), cloth, (0, 0, 0.28), 0.075).moved((0, depth / 2 - 0.17, 0.36), 0, -0.16),
    ]
    for x in (-1, 1):
        parts.append(box((0.17, depth - 0.06, 0.44), cloth, (x * (width / 2 - 0.085), -0.01, 0.37), 0.07))
    pillow = cushion((0.40, 0.32, 0.14), palette.accent, puff=0.55)
    parts.append(pillow.moved((0.05 * rng.normal(), depth / 2 - 0.33, 0.64), 0.08 * rng.normal(), 1.15))
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (width / 2 - 0.1), y * (depth / 2 - 0.11), 0)
            parts.append(turned([(0, 0), (0.016, 0), (0.028, 0.16), (0, 0.16)], palette.dark_wood, at, 10))
    return join(parts)


def sofa(palette: Palette, rng: np.random.Generator, width: float = 2.0) -> Mesh:
    """Upholstered sofa for two to four with arms, seat and back cushions, and throw pillows."""
    depth, cloth = float(rng.uniform(0.82, 0.95)), palette.upholstery
    seat, arm = float(rng.uniform(0.40, 0.45)), float(rng.uniform(0.12, 0.22))
    back, rise = float(rng.uniform(0.72, 0.88)), float(rng.uniform(0.56, 0.66))
    foot, inner = float(rng.uniform(0.06, 0.14)), width - 2 * arm
    count = max(2, round(inner / 0.72))
    parts = [
        box((width - 0.04, depth - 0.04, seat - 0.13 - foot), cloth, (0, 0, (seat - 0.13 + foot) / 2), 0.03),
        box((inner + 0.04, 0.18, back - foot - 0.02), cloth, (0, depth / 2 - 0.10, (back + foot) / 2), 0.06),
    ]
    for k in range(count):
        x, wide = (k - (count - 1) / 2) * inner / count, inner / count - 0.008
        parts.append(box((wide, depth - 0.2, 0.15), cloth, (x, -0.09, seat - 0.075), 0.045))
        leaning = box((wide, 0.16, back - seat + 0.05), cloth, (0, 0, 0), 0.06)
        parts.append(leaning.moved((x, depth / 2 - 0.25, (back + seat) / 2 + 0.03), 0, -0.14))
    for side in (-1, 1):
        at = (side * (width / 2 - arm / 2), -0.01, (rise + foot) / 2)
        parts.append(box((arm, depth - 0.03, rise - foot), cloth, at, 0.45 * arm if rng.random() < 0.7 else 0.03))
        for y in (-1, 1):
            leg = [(0, 0), (0.016, 0), (0.025, foot + 0.02), (0, foot + 0.02)]
            parts.append(turned(leg, palette.dark_wood, (side * (width / 2 - 0.1), y * (depth / 2 - 0.1), 0), 10))
    for side in (-1, 1):
        if rng.random() < 0.7:
            pillow = cushion((0.42, 0.36, 0.15), palette.accent if rng.random() < 0.7 else palette.blanket, puff=0.55)
            at = (side * (inner / 2 - 0.26), depth / 2 - 0.43, seat + 0.20)
            parts.append(pillow.moved(at, side * 0.2 + 0.1 * rng.normal(), 1.05))
    return join(parts)


def low_table(
    palette: Palette, rng: np.random.Generator, width: float = 1.1, depth: float = 0.55, height: float = 0.42
) -> Mesh:
    """Rectangular coffee table on four legs, with or without a shelf."""
    top, leg = float(rng.uniform(0.025, 0.05)), float(rng.uniform(0.035, 0.06))
    legs = palette.metal if rng.random() < 0.35 else palette.dark_wood
    parts = [box((width, depth, top), palette.wood, (0, 0, height - top / 2), 0.008)]
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (width / 2 - leg / 2 - 0.02), y * (depth / 2 - leg / 2 - 0.02), (height - top) / 2)
            parts.append(box((leg, leg, height - top), legs, at, 0.005))
    if rng.random() < 0.5:
        parts.append(box((width - 0.06, depth - 0.06, 0.018), palette.wood, (0, 0, 0.14), 0.004))
    return join(parts)


def coffee_table(palette: Palette, rng: np.random.Generator, radius: float = 0.42, height: float = 0.42) -> Mesh:
    """Round top with a rounded rim, a lower shelf, three splayed legs, and two magazines that belong to it."""
    rim = 0.032
    top = [(0, height - rim), (radius - 0.012, height - rim), (radius, height - rim + 0.012)]
    top += [(radius, height - 0.010), (radius - 0.010, height), (0, height)]
    shelf = [(0, 0.16), (0.66 * radius, 0.16), (0.66 * radius, 0.18), (0, 0.18)]
    parts = [_planar_uv(turned(top, palette.wood, segments=40)), _planar_uv(turned(shelf, palette.wood, segments=32))]
    for k in range(3):
        angle = 2 * np.pi * k / 3 + 0.4
        foot, head = 0.92 * radius, 0.60 * radius
        path = [
            (foot * np.cos(angle), foot * np.sin(angle), 0.012),
            (head * np.cos(angle), head * np.sin(angle), height - rim + 0.005),
        ]
        parts.append(tube(path, [0.014, 0.022], palette.dark_wood))
    lower = box((0.21, 0.28, 0.018), Material("picture_waves", (0.8, 0.8, 0.8)), (0, 0, height + 0.009), 0.002)
    upper = box((0.19, 0.26, 0.014), Material("picture_shapes", (0.8, 0.8, 0.8)), (0, 0, height + 0.025), 0.002)
    parts.append(lower.moved((-0.1, 0.05, 0), 0.5 + 0.2 * rng.normal()))
    parts.append(upper.moved((-0.1, 0.05, 0), 0.2 * rng.normal()))
    return join(parts)


def _planar_uv(mesh: Mesh) -> Mesh:
    """Boards are sawn, not turned: texture coordinates straight from x and y."""
    return replace(mesh, uv=mesh.vertices[mesh.faces][..., :2] + np.array([0.31, 0.17]))


def tv_stand(palette: Palette, rng: np.random.Generator, width: float = 1.4, height: float = 0.46) -> Mesh:
    """Low board: drawers left and right, an open compartment with a shelf between them."""
    depth, leg, board = 0.4, 0.1, 0.025
    side = 0.32 * width
    body = height - leg
    middle = leg + body / 2
    parts = [
        box((width, depth, board), palette.wood, (0, 0, height - board / 2), 0.006),
        box((width, depth, board), palette.wood, (0, 0, leg + board / 2), 0.006),
        box((width - 0.02, 0.012, body - 0.03), palette.dark_wood, (0, depth / 2 - 0.014, middle)),
        box((width - 2 * side, depth - 0.04, 0.018), palette.wood, (0, 0.01, middle)),
        box((0.30, 0.2, 0.05), palette.black, (0.02, 0.02, leg + board + 0.026), 0.006),
    ]
    for x in (-1, 1):
        outer, inner = x * (width / 2 - board / 2), x * (width / 2 - side)
        for at in (outer, inner):
            parts.append(box((board, depth - 0.01, body - 0.01), palette.wood, (at, 0, middle), 0.004))
        drawer = (body - 2 * board - 0.02) / 2
        for k in range(2):
            z = leg + board + 0.006 + drawer / 2 + k * (drawer + 0.008)
            centre = (x * (width / 2 - side / 2 - board / 4), -depth / 2 + 0.006, z)
            parts.append(box((side - 0.045, 0.022, drawer), palette.paint, centre, 0.005))
            parts.append(box((0.12, 0.016, 0.012), palette.black, (centre[0], -depth / 2 - 0.010, z + 0.02), 0.004))
        for y in (-1, 1):
            at = (x * (width / 2 - 0.07), y * (depth / 2 - 0.06), 0)
            parts.append(turned([(0, 0), (0.013, 0), (0.02, leg + 0.01), (0, leg + 0.01)], palette.dark_wood, at, 10))
    return join(parts)


def television(palette: Palette, rng: np.random.Generator, width: float = 1.05) -> Mesh:
    """Flat screen showing a picture, on two feet."""
    tall = 0.58 * width
    picture = Material("screen", (0.8, 0.8, 0.8), emission=0.35)
    parts = [
        box((width, 0.035, tall), palette.black, (0, 0, 0.06 + tall / 2), 0.010),
        box((0.5 * width, 0.04, 0.4 * tall), palette.black, (0, 0.03, 0.06 + 0.4 * tall), 0.015),
        panel(width - 0.04, tall - 0.04, picture).moved((0, -0.019, 0.06 + tall / 2)),
    ]
    for x in (-1, 1):
        parts.append(box((0.03, 0.22, 0.014), palette.black, (x * 0.32 * width, 0, 0.007), 0.004))
        parts.append(box((0.025, 0.03, 0.07), palette.black, (x * 0.32 * width, 0, 0.04)))
    return join(parts)


def floor_lamp(palette: Palette, rng: np.random.Generator, height: float = 1.55) -> Mesh:
    """Three wooden legs meeting under a drum shade."""
    hub = height - 0.42
    parts = [turned([(0, hub - 0.03), (0.035, hub - 0.03), (0.035, hub + 0.03), (0, hub + 0.03)], palette.metal)]
    for k in range(3):
        angle = 2 * np.pi * k / 3 + 0.5
        reach = np.array([np.cos(angle), np.sin(angle)])
        path = [(*(0.25 * reach), 0.012), (*(0.018 * reach), hub)]
        parts.append(tube(path, [0.013, 0.017], palette.dark_wood))
    parts.append(
        turned([(0, hub), (0.009, hub), (0.009, height - 0.06), (0, height - 0.06)], palette.metal, segments=8)
    )
    bulb = [(0, height - 0.2), (0.03, height - 0.18), (0.03, height - 0.1), (0, height - 0.08)]
    parts.append(turned(bulb, Material("paper", hex_colour("#fff2d8"), emission=1.0), segments=12))
    parts.append(shade(0.22, 0.19, height - 0.32, height))
    for k in range(3):
        spoke = box((0.19, 0.007, 0.007), palette.metal, (0.1, 0, height - 0.07))
        parts.append(spoke.moved(yaw=2 * np.pi * k / 3))
    return join(parts)


def arc_lamp(palette: Palette, rng: np.random.Generator, height: float = 1.5) -> Mesh:
    """Straight pole on a round foot with a conical shade."""
    foot = float(rng.uniform(0.12, 0.16))
    wide = float(rng.uniform(0.15, 0.2))
    base = [(0, 0), (foot, 0), (foot, 0.015), (0.03, 0.03), (0.012, 0.05), (0.012, height - 0.1), (0, height - 0.1)]
    bulb = [(0, height - 0.2), (0.03, height - 0.18), (0.03, height - 0.1), (0, height - 0.08)]
    parts = [
        turned(base, palette.metal, segments=20),
        turned(bulb, Material("paper", hex_colour("#fff2d8"), emission=1.0), segments=12),
        shade(wide, float(rng.uniform(0.55, 0.95)) * wide, height - 0.28, height),
    ]
    for k in range(3):
        spoke = box((0.55 * wide, 0.007, 0.007), palette.metal, (0.275 * wide, 0, height - 0.11))
        parts.append(spoke.moved(yaw=2 * np.pi * k / 3))
    return join(parts)


def pendant(palette: Palette, rng: np.random.Generator, drop: float = 0.7) -> Mesh:
    """Lamp on a cord that hangs from the ceiling; its upper end is the plate on the ceiling."""
    wide, tall = float(rng.uniform(0.16, 0.28)), float(rng.uniform(0.16, 0.26))
    narrow = wide * float(rng.uniform(0.25, 0.95))
    plate = [(0, drop - 0.03), (0.05, drop - 0.02), (0.05, drop), (0, drop)]
    cord = [(0, tall - 0.02), (0.006, tall - 0.02), (0.006, drop - 0.025), (0, drop - 0.025)]
    bulb = [(0, 0.06), (0.035, 0.08), (0.035, tall - 0.06), (0, tall - 0.02)]
    parts = [
        turned(plate, palette.metal, segments=20),
        turned(cord, palette.black, segments=8),
        turned(bulb, Material("paper", hex_colour("#fff2d8"), emission=1.0), segments=12),
        shade(wide, narrow, 0.0, tall),
    ]
    for k in range(3):
        spoke = box((narrow, 0.006, 0.006), palette.metal, (narrow / 2, 0, tall - 0.03))
        parts.append(spoke.moved(yaw=2 * np.pi * k / 3))
    return join(parts)


def rug(palette: Palette, rng: np.random.Generator, width: float = 2.0, depth: float = 1.4) -> Mesh:
    """Carpet of 8 mm."""
    pattern = ("rug", "rug", "plaid", "stripes", "fabric", "wallpaper")[rng.integers(6)]
    pile = Material("rug", (1.0, 1.0, 1.0)) if pattern == "rug" else Material(pattern, palette.blanket.colour)
    sides = box((width, depth, 0.007), palette.blanket, (0, 0, 0.0035), step=0.09)
    top = sheet((-width / 2, -depth / 2, 0.008), (width, 0, 0), (0, depth, 0), pile, stretched=pattern == "rug")
    return join([sides, top])


def plant(palette: Palette, rng: np.random.Generator, height: float = 1.1) -> Mesh:
    """Arching pointed leaves on short stems in a tapered pot filled with earth."""
    pot_top = 0.32
    pot = [(0, 0), (0.13, 0), (0.14, 0.01), (0.185, pot_top - 0.05), (0.20, pot_top - 0.05), (0.20, pot_top)]
    pot += [(0.18, pot_top), (0.175, pot_top - 0.04), (0, pot_top - 0.03)]
    parts = [
        turned(pot, Material("speckle", hex_colour("#c9c2b4")), segments=28),
        turned(
            [(0, pot_top - 0.06), (0.175, pot_top - 0.06), (0.172, pot_top - 0.025), (0, pot_top - 0.015)],
            Material("speckle", hex_colour("#4a3423")),
        ),
    ]
    greens = [Material("leaf", hex_colour(code)) for code in ("#4f8a3c", "#6da04a", "#3c7040", "#86ad58")]
    count = 22
    for k in range(count):
        angle = 2.399963 * k + 0.2 * rng.normal()  # the golden angle spreads leaves evenly
        share = k / (count - 1)
        base = pot_top + 0.04 + (height - pot_top - 0.35) * share
        rise = np.radians(25 + 45 * share + 6 * rng.normal())
        length = (0.38 - 0.12 * share) * (0.9 + 0.15 * rng.random())
        blade = leaf(length, 0.115 - 0.02 * share, 1.0 - 0.3 * share, greens[k % 4])
        cos, sin = np.cos(rise), np.sin(rise)
        tilt = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        tilted = replace(blade, vertices=blade.vertices @ tilt, normals=blade.normals @ tilt)
        out = 0.02 + 0.03 * rng.random()
        parts.append(tilted.moved((out * np.cos(angle), out * np.sin(angle), base), angle))
    stalk = Material("leaf", hex_colour("#5b6b35"))
    for x, y in ((0.02, 0.0), (-0.015, 0.02), (-0.01, -0.02)):
        parts.append(tube([(x, y, pot_top - 0.04), (1.3 * x, 1.3 * y, height - 0.30)], [0.014, 0.007], stalk))
    return join(parts)


def snake_plant(palette: Palette, rng: np.random.Generator, height: float = 0.9) -> Mesh:
    """Upright blades in a straight pot."""
    tall = float(rng.uniform(0.25, 0.4)) * height
    wide = float(rng.uniform(0.11, 0.17))
    parts = [_pot(palette, wide, tall, float(rng.uniform(0.8, 1.0)))]
    greens = [Material("leaf", hex_colour(code)) for code in ("#55803f", "#7c9a4c", "#9aa95a")]
    count = int(rng.integers(9, 17))
    for k in range(count):
        angle, reach = 2.399963 * k, 0.75 * wide * np.sqrt(k / count)
        length = (height - tall) * float(rng.uniform(0.7, 1.0))
        blade = leaf(length, 0.07, 0.25, greens[k % 3])
        lean = np.radians(78 + 6 * rng.normal() - 18 * reach / wide)
        parts.append(_tilted(blade, lean).moved((reach * np.cos(angle), reach * np.sin(angle), tall - 0.02), angle))
    return join(parts)


def bush(palette: Palette, rng: np.random.Generator, height: float = 1.3) -> Mesh:
    """Small tree: a bent stem with a crown of short leaves all around."""
    tall = float(rng.uniform(0.2, 0.3)) * height
    wide = float(rng.uniform(0.13, 0.19))
    crown = float(rng.uniform(0.22, 0.36))
    parts = [_pot(palette, wide, tall, float(rng.uniform(0.65, 0.9)))]
    middle = height - 0.8 * crown
    bend = 0.06 * rng.normal(size=2)
    path = [(0, 0, tall - 0.05), (*bend, (tall + middle) / 2), (0, 0, middle)]
    parts.append(tube(path, [0.022, 0.018, 0.012], Material("wood", hex_colour("#6b5136"))))
    greens = [Material("leaf", hex_colour(code)) for code in ("#3f7a38", "#5c9446", "#2f6237")]
    count = int(rng.integers(40, 64))
    for k in range(count):
        # evenly over a ball
        up = 1 - 1.7 * (k + 0.5) / count
        angle = 2.399963 * k + 0.3 * rng.normal()
        reach = float(rng.uniform(0.35, 0.8)) * crown
        out = np.sqrt(max(0.0, 1 - up * up)) * reach
        blade = leaf(float(rng.uniform(0.11, 0.18)), 0.075, 0.7, greens[k % 3])
        at = (out * np.cos(angle), out * np.sin(angle), middle + 0.8 * up * reach)
        parts.append(_tilted(blade, np.arcsin(np.clip(0.8 * up, -1, 1))).moved(at, angle))
    return join(parts)


def _tilted(mesh: Mesh, rise: float) -> Mesh:
    """Turned about y, so that +x points up by `rise` radians."""
    cos, sin = np.cos(rise), np.sin(rise)
    tilt = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    return replace(mesh, vertices=mesh.vertices @ tilt, normals=mesh.normals @ tilt)


def _pot(palette: Palette, radius: float, height: float, foot: float) -> Mesh:
    """Pot with earth; `foot` is its lower radius as a share of the upper one."""
    glaze = Material("speckle", palette.accent.colour) if radius > 0.14 else palette.linen
    outline = [(0, 0), (foot * radius, 0), (radius, height), (radius - 0.015, height), (radius - 0.02, height - 0.03)]
    soil = [(0, height - 0.06), (0.9 * radius, height - 0.06), (0.9 * radius, height - 0.025), (0, height - 0.02)]
    return join([turned([*outline, (0, height - 0.03)], glaze, segments=28),
                 turned(soil, Material("speckle", hex_colour("#4a3423")))])  # fmt: skip


def floor_vase(palette: Palette, rng: np.random.Generator, height: float = 0.58) -> Mesh:
    """Bellied ceramic vase with dry twigs."""
    belly = 0.15
    shares = [(0.0, 0.0), (0.5, 0.0), (0.55, 0.02), (0.85, 0.2), (1.0, 0.4), (0.9, 0.6), (0.55, 0.8), (0.36, 0.92)]
    shares += [(0.42, 1.0), (0.36, 1.0), (0.28, 0.93), (0.0, 0.90)]
    glaze = Material("stripes", palette.accent.colour)
    parts = [turned([(r * belly, z * height) for r, z in shares], glaze, segments=28)]
    twig = Material("wood", hex_colour("#8a6a45"))
    bud = Material("fabric", hex_colour("#e2c48e"))
    for k in range(9):
        angle = 2.399963 * k
        lean = 0.07 + 0.13 * rng.random()
        top = height + 0.30 + 0.30 * rng.random()
        reach = np.array([np.cos(angle), np.sin(angle)])
        path = [(*(0.015 * reach), 0.88 * height), (*(0.35 * lean * reach), height + 0.1), (*(lean * reach), top)]
        parts.append(tube(path, [0.006, 0.005, 0.004], twig, segments=6))
        tuft = [(0, -0.07), (0.016, -0.04), (0.022, 0.0), (0.014, 0.05), (0, 0.08)]
        parts.append(turned(tuft, bud, (lean * reach[0], lean * reach[1], top), 10))
    return join(parts)
