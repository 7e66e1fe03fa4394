"""Desk, office chair, monitor, bookshelf.

Every builder returns one piece about the origin: footprint centred, standing on z = 0, front towards -y, metres.
"""

from __future__ import annotations

import numpy as np

from rcnn.rooms.mesh import Material, Mesh, hex_colour, join
from rcnn.rooms.palette import Palette
from rcnn.rooms.shapes import box, panel, tube, turned


def desk(palette: Palette, rng: np.random.Generator, width: float = 1.2, height: float = 0.74) -> Mesh:
    """Table top on two legs and a block of three drawers."""
    depth, top = 0.62, 0.03
    block = 0.36
    x_block = width / 2 - block / 2 - 0.02
    parts = [
        box((width, depth, top), palette.dark_wood, (0, 0, height - top / 2), 0.008),
        box(
            (block, depth - 0.08, height - top - 0.06), palette.wood, (x_block, 0.01, 0.06 + (height - top - 0.06) / 2)
        ),
        box((block - 0.04, depth - 0.14, 0.06), palette.black, (x_block, 0.01, 0.03)),
        box((width - block - 0.1, 0.02, 0.28), palette.wood, (-block / 2, depth / 2 - 0.06, height - top - 0.14)),
    ]
    drawer = (height - top - 0.06 - 0.04) / 3
    for k in range(3):
        z = 0.07 + drawer / 2 + k * (drawer + 0.008)
        parts.append(box((block - 0.02, 0.02, drawer), palette.paint, (x_block, -depth / 2 + 0.046, z), 0.005))
        parts.append(box((0.12, 0.02, 0.012), palette.black, (x_block, -depth / 2 + 0.030, z + 0.05), 0.004))
    for y in (-1, 1):
        at = (-width / 2 + 0.05, y * (depth / 2 - 0.05), (height - top) / 2)
        parts.append(box((0.05, 0.05, height - top), palette.dark_wood, at, 0.006))
    return join(parts)


def office_chair(palette: Palette, rng: np.random.Generator, height: float = 0.94) -> Mesh:
    """Swivel chair: five-armed base on casters, gas spring, padded seat, curved back, arm rests."""
    seat = 0.46
    cloth = Material("fabric", palette.accent.colour)
    parts = [
        turned(
            [(0, 0.07), (0.04, 0.07), (0.035, 0.16), (0.02, 0.17), (0.02, seat - 0.07), (0, seat - 0.07)], palette.metal
        ),
        box((0.20, 0.24, 0.03), palette.black, (0, 0, seat - 0.075), 0.01),
        box((0.50, 0.48, 0.09), cloth, (0, -0.01, seat - 0.02), 0.04),
        box((0.06, 0.03, 0.30), palette.black, (0, 0.265, seat + 0.02), 0.01),
    ]
    caster = [(0, 0.0), (0.018, 0.004), (0.027, 0.02), (0.027, 0.034), (0.018, 0.05), (0, 0.056)]
    for k in range(5):
        angle = 2 * np.pi * k / 5 + 0.3
        reach = np.array([np.cos(angle), np.sin(angle)])
        parts.append(tube([(*(0.02 * reach), 0.105), (*(0.285 * reach), 0.07)], [0.024, 0.015], palette.metal))
        parts.append(turned(caster, palette.black, (0.28 * reach[0], 0.28 * reach[1], 0), 12))
    back = box((0.46, 0.07, height - seat - 0.10), cloth, (0, 0, 0), 0.033)
    curved = back.vertices.copy()
    curved[:, 1] -= 0.9 * curved[:, 0] ** 2
    parts.append(back.deformed(curved).moved((0, 0.27, (height + seat + 0.10) / 2), 0, -0.08))
    for x in (-1, 1):
        parts.append(box((0.05, 0.24, 0.03), palette.black, (x * 0.27, 0.0, seat + 0.19), 0.012))
        post = [(x * 0.235, 0.02, seat - 0.03), (x * 0.27, 0.02, seat + 0.03), (x * 0.27, 0.02, seat + 0.185)]
        parts.append(tube(post, 0.014, palette.black))
    return join(parts)


def monitor(palette: Palette, rng: np.random.Generator, width: float = 0.56) -> Mesh:
    """Computer screen on a stand."""
    tall = 0.6 * width
    low = 0.12
    parts = [
        box((width, 0.03, tall), palette.black, (0, 0, low + tall / 2), 0.008),
        panel(width - 0.03, tall - 0.03, Material("desktop", (0.85, 0.85, 0.85), emission=0.35)).moved(
            (0, -0.0165, low + tall / 2)
        ),
        box((0.05, 0.025, low + 0.12), palette.metal, (0, 0.025, (low + 0.12) / 2 + 0.005), 0.006),
        box((0.24, 0.18, 0.014), palette.metal, (0, 0.01, 0.007), 0.005),
    ]
    return join(parts)


BOOK_COLOURS = (
    *("#8c2f2b", "#2f4f6f", "#c9a24b", "#3f6b4f", "#d8cfbb", "#6a4a7a", "#b5622f", "#2b2f38", "#7fa3b5", "#a9443f"),
    *("#e0d6c4", "#4f7f7a"),
)


def bookshelf(palette: Palette, rng: np.random.Generator, width: float = 0.8, height: float = 1.85) -> Mesh:
    """Open shelf with five rows of books, some leaning, and a few things between them; all one instance."""
    depth, board = 0.30, 0.025
    parts = [
        box((width - 2 * board, 0.012, height - 0.06), palette.dark_wood, (0, depth / 2 - 0.008, height / 2 + 0.02)),
        box((width - 2 * board, depth - 0.02, 0.06), palette.wood, (0, 0.005, 0.03)),
    ]
    for x in (-1, 1):
        parts.append(box((board, depth, height), palette.wood, (x * (width - board) / 2, 0, height / 2), 0.004))
    rows = 5
    pitch = (height - 0.06 - board) / rows
    for row in range(rows + 1):
        z = 0.06 + board / 2 + row * pitch
        parts.append(box((width - 2 * board, depth - 0.015, board), palette.wood, (0, 0.0, z)))
    for row in range(rows):
        parts += _fill_row(palette, rng, 0.06 + board + row * pitch, pitch - board, width - 2 * board - 0.02, depth)
    return join(parts)


def _fill_row(
    palette: Palette, rng: np.random.Generator, floor: float, clear: float, width: float, depth: float
) -> list[Mesh]:
    """Books from left to right, with a gap that holds a pot or a lying stack."""
    parts: list[Mesh] = []
    x, end = -width / 2, width / 2
    gap_at = x + width * (0.25 + 0.45 * rng.random())
    gap_left = True
    while x < end - 0.05:
        if gap_left and x > gap_at:
            gap_left = False
            if rng.random() < 0.5 and end - x > 0.17:
                pot = [(0, 0), (0.045, 0), (0.07, 0.07), (0.05, 0.13), (0.03, 0.15), (0, 0.15)]
                material = Material("speckle", palette.accent.colour)
                parts.append(turned(pot, material, (x + 0.085, -0.02, floor), 16))
                x += 0.18
            elif end - x > 0.24:
                z = floor
                for _ in range(3):
                    thick = 0.025 + 0.02 * rng.random()
                    size = (0.20 - 0.02 * rng.random(), 0.16, thick)
                    parts.append(box(size, _cover(rng), (x + 0.11, -0.01, z + thick / 2)))
                    z += thick
                x += 0.23
            continue
        thick = 0.02 + 0.028 * rng.random()
        tall = clear * (0.68 + 0.24 * rng.random())
        deep = 0.15 + 0.06 * rng.random()
        if x + thick > end:
            break
        book = box((thick, deep, tall), _cover(rng), (x + thick / 2, depth / 2 - 0.03 - deep / 2, floor + tall / 2))
        label = Material("paper", hex_colour("#d9c893"))
        front = depth / 2 - 0.03 - deep - 0.001
        parts.append(book)
        parts.append(
            box(
                (0.7 * thick, 0.004, 0.12 * tall),
                label,
                (x + thick / 2, front, floor + tall * (0.62 + 0.2 * rng.random())),
            )
        )
        x += thick + 0.0015
    return parts


def _cover(rng: np.random.Generator) -> Material:
    return Material("paper", hex_colour(BOOK_COLOURS[rng.integers(len(BOOK_COLOURS))]))
