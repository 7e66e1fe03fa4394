"""The room itself: floor, walls, ceiling, window, door, rug, curtains, pictures. All of it is background (id 0)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rcnn.rooms.mesh import Material, Mesh, hex_colour, join
from rcnn.rooms.palette import Palette
from rcnn.rooms.shapes import box, panel, sheet

SKIRTING = 0.015
# What a window shows by day.
DAY_VIEW = Material("sky", (1.0, 1.0, 1.0), emission=0.34)


@dataclass(frozen=True)
class AreaLight:
    """A rectangle that lights the room from one side."""

    corner: np.ndarray
    """(3,) metres, world frame."""
    edges: np.ndarray
    """(2, 3) metres; light leaves along edges[0] x edges[1]."""
    radiance: np.ndarray
    """(3,) linear RGB."""


@dataclass(frozen=True)
class Shell:
    """Background surfaces and the lights in them."""

    mesh: Mesh
    """World frame, metres; the room spans (0, 0, 0) to `size`."""
    lights: tuple[AreaLight, ...]
    """Window and ceiling panel."""
    size: tuple[float, float, float]
    """Inner width (x), depth (y) and height (z) in metres."""


def _wall_frames(width: float, depth: float) -> dict[str, tuple[np.ndarray, float, float]]:
    """Per wall: its middle on the floor, the yaw that makes furniture stand with its back to it, its length."""
    return {
        "north": (np.array([width / 2, depth, 0]), 0.0, width),
        "west": (np.array([0, depth / 2, 0]), np.pi / 2, depth),
        "south": (np.array([width / 2, 0, 0]), np.pi, width),
        "east": (np.array([width, depth / 2, 0]), -np.pi / 2, depth),
    }


def build_shell(size: tuple[float, float, float], palette: Palette, mirrored: bool, rng: np.random.Generator) -> Shell:
    """An empty room of the given inner size; `mirrored` swaps east and west for everything in it."""
    width, depth, height = size
    frames = _wall_frames(width, depth)
    flip = -1.0 if mirrored else 1.0
    side = {"east": "west", "west": "east"} if mirrored else {}

    def hang(mesh: Mesh, wall: str, along: float, up: float = 0.0, off: float = 0.0) -> Mesh:
        """Puts a mesh whose back is y = 0 on a wall, `along` metres north or east of the wall's middle."""
        middle, yaw, _ = frames[side.get(wall, wall)]
        direction = np.array([flip, 0, 0]) if wall in ("north", "south") else np.array([0, 1.0, 0])
        inward = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        return mesh.moved(middle + direction * along + inward * off + np.array([0, 0, up]), yaw)

    white = Material("plaster", hex_colour("#f0eeea"))
    parts = [
        sheet((0, 0, 0), (width, 0, 0), (0, depth, 0), palette.floor),
        sheet((0, depth, height), (width, 0, 0), (0, -depth, 0), white),
    ]
    for wall, (_, _, length) in frames.items():
        paint = palette.accent_wall if wall == "north" else palette.wall
        surface = sheet((-length / 2, 0, 0), (length, 0, 0), (0, 0, height), paint)
        middle, yaw, _ = frames[wall]
        parts.append(surface.moved(middle, yaw))
    door_at, door_width = -width / 2 + 0.85, 0.9
    for wall, (_, _, length) in frames.items():
        if wall == "south":
            left = door_at - door_width / 2 - 0.05 + length / 2
            right = length - left - door_width - 0.1
            pieces = [(left, left / 2 - length / 2), (right, length / 2 - right / 2)]
        else:
            pieces = [(length, 0.0)]
        for piece, along in pieces:
            skirting = board((piece - 0.002, SKIRTING, 0.09), palette.trim, (0, -SKIRTING / 2, 0.045), 0.005)
            parts.append(hang(skirting, side.get(wall, wall), along))
    parts += [hang(part, "south", door_at) for part in door_leaf(palette, door_width)]

    pane_width, pane_height, sill, pane_at = 1.7, 1.25, 0.95, 0.75
    parts += [hang(part, "south", pane_at, sill) for part in window_frame(palette, pane_width, pane_height)]
    for x in (-1, 1):
        cloth = curtain(palette, 0.42, height - 0.5, rng)
        parts.append(hang(cloth, "south", pane_at + x * (pane_width / 2 + 0.2), 0.32, 0.07))
    rod = board((pane_width + 1.0, 0.02, 0.02), palette.black, (0, -0.07, height - 0.17), 0.009)
    parts.append(hang(rod, "south", pane_at))

    hill, shapes, waves = (Material(f"picture_{name}", (0.9, 0.9, 0.9)) for name in ("hills", "shapes", "waves"))
    for material, wall, along, up, wide, tall in (
        (hill, "north", 1.75 - width / 2, 1.62, 0.95, 0.55),
        (shapes, "north", 4.05 - width / 2, 1.65, 0.55, 0.7),
        (waves, "west", 0.75, 1.55, 0.6, 0.8),
        (shapes, "east", 1.55 - depth / 2, 1.78, 0.9, 0.5),
    ):
        parts.append(hang(framed_picture(material, wide, tall, palette), wall, along, up))

    rug = (2.1, 1.5, 0.010)
    rug_at = (width / 2 + flip * (3.35 - width / 2), 1.45, 0.0)
    pile = Material("rug", (1.0, 1.0, 1.0))
    parts.append(board((rug[0], rug[1], 0.008), palette.blanket, (rug_at[0], rug_at[1], 0.004)))
    low = np.array(rug_at) - np.array([rug[0], rug[1], 0]) / 2 + np.array([0, 0, rug[2]])
    parts.append(sheet(low, (rug[0], 0, 0), (0, rug[1], 0), pile, stretched=True))

    lamp, lamp_at = np.array([1.1, 0.55]), np.array([width / 2, depth / 2])
    bright = Material("paper", (1.0, 0.97, 0.92), emission=9.0)
    corner = np.array([lamp_at[0] - lamp[0] / 2, lamp_at[1] + lamp[1] / 2, height - 0.055])
    edges = np.array([[lamp[0], 0, 0], [0, -lamp[1], 0]])
    parts.append(sheet(corner, edges[0], edges[1], bright))
    parts.append(board((lamp[0] + 0.06, lamp[1] + 0.06, 0.05), palette.trim, (*lamp_at, height - 0.025), 0.006))
    ceiling_light = AreaLight(corner, edges, np.array([11.0, 10.0, 8.6]))

    window_middle = hang(panel(pane_width, pane_height, white), "south", pane_at, sill + pane_height / 2, 0.03)
    low, high = window_middle.bounds()
    window_edges = np.array([[0, 0, pane_height], [pane_width, 0, 0]])
    daylight = AreaLight(np.array([low[0], high[1], low[2]]), window_edges, np.array([8.2, 9.4, 11.0]))
    return Shell(join(parts), (ceiling_light, daylight), size)


def board(size: ArrayLike, material: Material, centre: ArrayLike, radius: float = 0.0) -> Mesh:
    """Thin trim: light hardly changes along it, so a coarse mesh will do."""
    return box(size, material, centre, radius, step=0.14)


def door_leaf(palette: Palette, width: float, tall: float = 2.02) -> list[Mesh]:
    """Closed door with its frame, about x = 0; all of it is in front of y = 0."""
    parts = [board((width - 0.1, 0.03, tall - 0.06), palette.trim, (0, -0.015, (tall - 0.06) / 2), 0.004)]
    for x in (-1, 1):
        parts.append(board((0.06, 0.05, tall), palette.dark_wood, (x * (width / 2 - 0.02), -0.025, tall / 2), 0.006))
        for z, high in ((0.50, 0.62), (1.42, 0.82)):
            parts.append(
                board((width / 2 - 0.16, 0.014, high), palette.paint, (x * (width / 4 - 0.04), -0.034, z), 0.005)
            )
    parts.append(board((width + 0.02, 0.05, 0.06), palette.dark_wood, (0, -0.025, tall), 0.006))
    parts.append(board((0.12, 0.02, 0.02), palette.metal, (width / 2 - 0.14, -0.075, 1.0), 0.009))
    parts.append(board((0.02, 0.05, 0.02), palette.metal, (width / 2 - 0.09, -0.055, 1.0)))
    return parts


def window_frame(palette: Palette, width: float, tall: float, view: Material = DAY_VIEW) -> list[Mesh]:
    """Frame with one mullion and a sill; its lower edge is z = 0, its pane shows `view`."""
    parts = [panel(width, tall, view).moved((0, -0.012, tall / 2))]
    for x in (-1, 0, 1):
        parts.append(board((0.06, 0.06, tall + 0.06), palette.trim, (x * width / 2, -0.03, tall / 2), 0.008))
    for z in (0, 1):
        parts.append(board((width + 0.06, 0.06, 0.06), palette.trim, (0, -0.03, z * tall), 0.008))
    parts.append(board((width + 0.2, 0.14, 0.03), palette.trim, (0, -0.07, -0.045), 0.008))
    return parts


def curtain(palette: Palette, width: float, tall: float, rng: np.random.Generator) -> Mesh:
    """Hanging cloth in soft folds; its lower edge is z = 0."""
    cloth = box((width, 0.02, tall), Material("stripes", palette.blanket.colour), (0, 0, tall / 2), 0.0, 0.035)
    x, z = cloth.vertices[:, 0], cloth.vertices[:, 2]
    fold = 0.026 * np.sin(2 * np.pi * x / 0.13 + 0.5 * np.sin(2.0 * z) + 6 * rng.random())
    vertices = cloth.vertices.copy()
    vertices[:, 1] += fold
    return cloth.deformed(vertices)


def framed_picture(material: Material, width: float, tall: float, palette: Palette) -> Mesh:
    """A picture in a frame about its middle, hanging on y = 0."""
    parts = [
        panel(width, tall, material).moved((0, -0.014, 0)),
        board((width, 0.012, tall), palette.linen, (0, -0.006, 0)),
    ]
    for x in (-1, 1):
        parts.append(board((0.035, 0.03, tall + 0.035), palette.dark_wood, (x * width / 2, -0.015, 0), 0.005))
        parts.append(board((width + 0.035, 0.03, 0.035), palette.dark_wood, (0, -0.015, x * tall / 2), 0.005))
    return join(parts)
