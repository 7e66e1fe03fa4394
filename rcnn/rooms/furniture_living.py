"""Armchair, coffee table, TV stand, television, floor lamp, potted plant, floor vase.

Every builder returns one piece about the origin: footprint centred, standing on z = 0, front towards -y, metres.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rcnn.rooms.furniture_bedroom import shade
from rcnn.rooms.mesh import Material, Mesh, hex_colour, join
from rcnn.rooms.palette import Palette
from rcnn.rooms.shapes import box, cushion, leaf, panel, tube, turned


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
