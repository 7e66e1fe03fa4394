"""The room of the demo: one plan, in many sizes and colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rcnn.rooms.furniture_bedroom import bed, nightstand, table_lamp, wardrobe
from rcnn.rooms.furniture_living import (
    armchair,
    coffee_table,
    floor_lamp,
    floor_vase,
    plant,
    television,
    tv_stand,
)
from rcnn.rooms.furniture_study import bookshelf, desk, monitor, office_chair
from rcnn.rooms.mesh import Mesh
from rcnn.rooms.palette import Palette, choose_palette
from rcnn.rooms.piece import WALL_GAP, FurnishedRoom, Piece, boxes_overlap, place
from rcnn.rooms.shell import build_shell


def furnish_demo(seed: int) -> FurnishedRoom:
    """The bed-sitting room of the demo: the same plan for every seed, in other sizes, colours and details.

    The world frame has z up and the origin in the south-west corner of the floor; metres.
    """
    rng = np.random.default_rng((seed, 100))
    palette = choose_palette(rng)
    mirrored = bool(rng.random() < 0.5)
    width, depth, height = 5.4 + 0.3 * rng.random(), 4.4 + 0.2 * rng.random(), 2.55 + 0.12 * rng.random()
    shell = build_shell((width, depth, height), palette, mirrored, rng)
    pieces: list[Piece] = []

    def add(
        category: str,
        build: Callable[[Palette, np.random.Generator], Mesh],
        x: float,
        y: float,
        yaw: float,
        z: float = 0.0,
    ) -> Piece:
        mesh = build(palette, rng)
        if mirrored:
            x, yaw = width - x, -yaw
        piece = place(category, mesh, x, y, z, yaw)
        for other in pieces:
            if boxes_overlap(piece, other):
                raise ValueError(f"room layout: {category} cuts into {other.category} (seed {seed})")
        low, high = piece.mesh.bounds()
        if low.min() < -1e-9 or (high > np.array(shell.size)).any():
            raise ValueError(f"room layout: {category} sticks out of the room (seed {seed})")
        pieces.append(piece)
        return piece

    def jitter(spread: float) -> float:
        return float(spread * (2 * rng.random() - 1))

    quarter = np.pi / 2
    back = depth - WALL_GAP
    add("bed", bed, 1.75, back - 1.03, 0.0)
    for x in (0.67, 2.83):
        stand = add("nightstand", nightstand, x, back - 0.20, 0.0)
        top = stand.box[2] + stand.box[5] / 2
        add("lamp", table_lamp, x + jitter(0.02), back - 0.20, jitter(1.0), top)
    add("wardrobe", wardrobe, WALL_GAP + 0.32, 1.75, quarter)
    add("vase", floor_vase, 0.34, 2.92 + jitter(0.04), jitter(1.0))
    table = add("desk", desk, 4.05, back - 0.32, 0.0)
    table_top = table.box[2] + table.box[5] / 2
    add("monitor", monitor, 3.95 + jitter(0.05), back - 0.20, jitter(0.15), table_top)
    add("chair", office_chair, 4.0 + jitter(0.08), back - 1.12 + jitter(0.04), np.pi + jitter(0.35))
    add("bookshelf", bookshelf, width - WALL_GAP - 0.16, depth - 1.05, -quarter)
    low = add("tv_stand", tv_stand, width - WALL_GAP - 0.21, 1.66, -quarter)
    add("tv", television, width - WALL_GAP - 0.20, 1.66 + jitter(0.03), -quarter, low.box[2] + low.box[5] / 2)
    add("armchair", armchair, 2.28 + jitter(0.05), 1.25 + jitter(0.05), quarter + jitter(0.2))
    add("coffee_table", coffee_table, 3.45 + jitter(0.05), 1.45 + jitter(0.05), jitter(1.0))
    add("floor_lamp", floor_lamp, 1.85, 0.40, jitter(0.3))
    add("plant", plant, width - 0.46, 0.46, jitter(0.5))
    return FurnishedRoom(shell, tuple(pieces))
