"""A piece of furniture in its place, and the check that none cuts into another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rcnn.rooms.mesh import Mesh
from rcnn.rooms.shell import Shell

# Furniture stands in front of the skirting boards.
WALL_GAP = 0.022

# Oriented box (cx, cy, cz, w, l, h, yaw): metres; yaw in radians about z, counter-clockwise from above.
Box = tuple[float, float, float, float, float, float, float]


@dataclass(frozen=True)
class Piece:
    """One instance, placed."""

    category: str
    """Singular class name such as `tv_stand`."""
    mesh: Mesh
    """World frame, metres."""
    box: Box
    """Tight in its own frame."""
    asset: str = ""
    """Id of the model; the builder of its category when empty."""
    library: str = "parametric"
    """Furniture library that the model comes from."""

    @property
    def name(self) -> str:
        """Id of the model or name of the builder, for the truth files."""
        return self.asset or f"parametric#{self.category}"

    def lifted(self, height: float) -> Piece:
        """This piece, `height` metres higher."""
        x, y, z, *rest = self.box
        return replace(self, mesh=self.mesh.moved((0, 0, height)), box=(x, y, z + height, *rest))


@dataclass(frozen=True)
class FurnishedRoom:
    """A shell and the pieces in it."""

    shell: Shell
    """Background."""
    pieces: tuple[Piece, ...]
    """Instance k + 1 is pieces[k]."""


def place(category: str, mesh: Mesh, x: float, y: float, z: float, yaw: float) -> Piece:
    """Puts a piece built about the origin at (x, y), standing on height z, turned by yaw."""
    return Piece(category, mesh.moved((x, y, z), yaw), placed_box(mesh, x, y, z, yaw))


def placed_box(mesh: Mesh, x: float, y: float, z: float, yaw: float) -> Box:
    """The oriented box of a mesh that `place` puts there."""
    low, high = mesh.bounds()
    centre, size = (low + high) / 2, high - low
    cos, sin = np.cos(yaw), np.sin(yaw)
    yaw = float((yaw + np.pi) % (2 * np.pi) - np.pi)
    middle = (float(x + cos * centre[0] - sin * centre[1]), float(y + sin * centre[0] + cos * centre[1]))
    return (*middle, float(z + centre[2]), float(size[0]), float(size[1]), float(size[2]), yaw)


def box_corners(box: Box) -> np.ndarray:
    """(4, 2) corners of an oriented box seen from above, counter-clockwise from the front left."""
    x, y, _, width, length, _, yaw = box
    corners = np.array([[-width, -length], [width, -length], [width, length], [-width, length]]) / 2
    cos, sin = np.cos(yaw), np.sin(yaw)
    return corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def boxes_overlap(a: Piece, b: Piece, tolerance: float = 1e-3) -> bool:
    """Whether the boxes of two pieces share more than a touching face."""
    return box_overlap(a.box, b.box, tolerance)


def box_overlap(a: Box, b: Box, tolerance: float = 1e-3) -> bool:
    """Whether two oriented boxes share more than `tolerance` metres (separating axes: z and the four sides)."""
    if abs(a[2] - b[2]) > (a[5] + b[5]) / 2 - tolerance:
        return False
    offset = np.array(b[:2]) - np.array(a[:2])
    frames = [np.array([[np.cos(box[6]), np.sin(box[6])], [-np.sin(box[6]), np.cos(box[6])]]) for box in (a, b)]
    halves = [np.array(box[3:5]) / 2 for box in (a, b)]
    for axis in np.concatenate(frames):
        reach = sum(float(half @ np.abs(frame @ axis)) for half, frame in zip(halves, frames, strict=True))
        if abs(offset @ axis) > reach - tolerance:
            return False
    return True
