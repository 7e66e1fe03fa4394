"""Floor plans: rectangles, L shapes and open-plan doubles, with their walls.

A plan is a box of air from (0, 0, 0) to its size in which some rectangles are solid up to the ceiling: the missing
corner of an L, or the stubs of wall between two halves of an open-plan room. Metres, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

PlanKind = Literal["rectangle", "l_shape", "open_plan"]


@dataclass(frozen=True)
class Rectangle:
    """An axis-aligned rectangle on the floor, metres."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    @property
    def area(self) -> float:
        """Square metres."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def contains(self, x: float, y: float) -> bool:
        """Whether a point lies inside or on the edge."""
        return self.x1 <= x <= self.x2 and self.y1 <= y <= self.y2


@dataclass(frozen=True)
class Wall:
    """A straight wall seen from inside."""

    start: tuple[float, float]
    """Its right end for somebody who looks at it from inside; `direction` leads to the left."""
    length: float
    """Metres."""
    inward: tuple[int, int]
    """Unit normal that points into the room."""
    exterior: bool
    """Whether it lies on the edge of the plan, so that it can have a window."""

    @property
    def direction(self) -> tuple[int, int]:
        """Unit vector from the start along the wall."""
        return self.inward[1], -self.inward[0]

    @property
    def yaw(self) -> float:
        """Turn that makes furniture stand with its back to the wall."""
        return facing(*self.inward)

    def point(self, along: float, off: float = 0.0) -> tuple[float, float]:
        """The point `along` metres from the start and `off` metres into the room."""
        return (
            self.start[0] + self.direction[0] * along + self.inward[0] * off,
            self.start[1] + self.direction[1] * along + self.inward[1] * off,
        )

    def along(self, x: float, y: float) -> float:
        """Metres from the start to the point of the wall nearest to (x, y)."""
        return (x - self.start[0]) * self.direction[0] + (y - self.start[1]) * self.direction[1]


def facing(dx: float, dy: float) -> float:
    """Yaw of a piece, built with its front towards -y, whose front looks along (dx, dy)."""
    return float(np.arctan2(dx, -dy))


@dataclass(frozen=True)
class FloorPlan:
    """The space of one room."""

    kind: PlanKind
    """Shape."""
    size: tuple[float, float, float]
    """Width, depth and height of the box of air."""
    solids: tuple[Rectangle, ...]
    """Parts of it that are filled."""
    zones: tuple[Rectangle, ...]
    """Parts that are furnished for a purpose each, the largest first; they need not cover the floor."""

    def contains(self, points: Float[np.ndarray, "n 2"], margin: float = 0.0) -> Bool[np.ndarray, " n"]:
        """Whether points are at least `margin` metres away from every wall."""
        x, y = points[:, 0], points[:, 1]
        width, depth, _ = self.size
        inside = (x >= margin) & (x <= width - margin) & (y >= margin) & (y <= depth - margin)
        for solid in self.solids:
            inside &= ~(
                (x > solid.x1 - margin) & (x < solid.x2 + margin) & (y > solid.y1 - margin) & (y < solid.y2 + margin)
            )
        return inside

    @property
    def floor_area(self) -> float:
        """Square metres."""
        return self.size[0] * self.size[1] - sum(solid.area for solid in self.solids)

    @cached_property
    def _cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lines x and y along which the plan changes, and (X - 1, Y - 1) bool: which cells between them are free."""
        xs = np.unique([0.0, self.size[0], *(x for s in self.solids for x in (s.x1, s.x2))])
        ys = np.unique([0.0, self.size[1], *(y for s in self.solids for y in (s.y1, s.y2))])
        middle = np.stack(np.meshgrid((xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2, indexing="ij"), -1)
        return xs, ys, self.contains(middle.reshape(-1, 2)).reshape(middle.shape[:2])

    @property
    def floor(self) -> tuple[Rectangle, ...]:
        """Rectangles that cover the floor without overlap."""
        xs, ys, free = self._cells
        return tuple(
            Rectangle(float(xs[i]), float(ys[j]), float(xs[i + 1]), float(ys[j + 1])) for i, j in np.argwhere(free)
        )

    @cached_property
    def walls(self) -> tuple[Wall, ...]:
        """All walls, each as long as it is straight."""
        xs, ys, free = self._cells
        padded = np.pad(free, 1)
        walls: list[Wall] = []
        for nx, ny in ((0, -1), (1, 0), (0, 1), (-1, 0)):  # north, west, south, east walls
            beyond = np.roll(padded, (nx, ny), (0, 1))[1:-1, 1:-1]
            edge = free & ~beyond
            lines = edge if ny else edge.T
            for k in range(lines.shape[1]):
                run: list[int] = []
                for i in [*np.nonzero(lines[:, k])[0].tolist(), -9]:
                    if run and i != run[-1] + 1:
                        walls.append(self._wall(run[0], run[-1] + 1, k, nx, ny, xs, ys))
                        run = []
                    run.append(i)
        return tuple(walls)

    def _wall(self, first: int, last: int, line: int, nx: int, ny: int, xs: np.ndarray, ys: np.ndarray) -> Wall:
        across, along = (ys, xs) if ny else (xs, ys)
        level = float(across[line + (nx + ny < 0)])
        low, high = float(along[first]), float(along[last])
        # the start is where the direction (ny, -nx) comes from
        begin = low if (ny - nx) > 0 else high
        start = (begin, level) if ny else (level, begin)
        return Wall(start, high - low, (nx, ny), level in (0.0, float(across[-1])))


def draw_plan(kind: PlanKind, area: float, rng: np.random.Generator) -> FloorPlan:
    """A plan of about `area` square metres."""
    height = float(rng.uniform(2.4, 3.0))
    if kind == "rectangle":
        width, depth = _sides(area, rng.uniform(1.0, 1.45), rng)
        return FloorPlan(kind, (width, depth, height), (), (Rectangle(0, 0, width, depth),))
    if kind == "l_shape":
        width, depth = _sides(area / 0.8, rng.uniform(1.0, 1.3), rng)
        notch = (width * rng.uniform(0.35, 0.5), depth * rng.uniform(0.35, 0.5))
        east, north = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
        x1, x2 = (width - notch[0], width) if east else (0.0, notch[0])
        y1, y2 = (depth - notch[1], depth) if north else (0.0, notch[1])
        solid = Rectangle(float(x1), float(y1), float(x2), float(y2))
        # one arm over the full width, the other one beside the missing corner
        long_y = (0.0, solid.y1) if north else (solid.y2, depth)
        short_x = (0.0, solid.x1) if east else (solid.x2, width)
        arms = (
            Rectangle(0.0, long_y[0], width, long_y[1]),
            Rectangle(short_x[0], solid.y1, short_x[1], solid.y2),
        )
        return FloorPlan(kind, (width, depth, height), (solid,), arms)
    long, short = float(np.sqrt(area * 1.8)), float(np.sqrt(area / 1.8))
    at, thick = long * rng.uniform(0.45, 0.58), 0.14
    opening = min(short - 0.9, rng.uniform(1.8, 2.8))
    low = rng.choice([0.0, 0.5, 1.0]) * (short - opening)
    left, right = float(at - thick / 2), float(at + thick / 2)
    stubs = [Rectangle(left, 0.0, right, float(low)), Rectangle(left, float(low + opening), right, short)]
    solids = [stub for stub in stubs if stub.y2 - stub.y1 > 0.05]
    halves = [Rectangle(0.0, 0.0, left, short), Rectangle(right, 0.0, long, short)]
    halves.sort(key=lambda half: -half.area)
    size = (long, short, height)
    if rng.random() < 0.5:
        size = (short, long, height)
        solids, halves = ([Rectangle(r.y1, r.x1, r.y2, r.x2) for r in group] for group in (solids, halves))
    return FloorPlan(kind, size, tuple(solids), tuple(halves))


def _sides(area: float, ratio: float, rng: np.random.Generator) -> tuple[float, float]:
    long, short = float(np.sqrt(area * ratio)), float(np.sqrt(area / ratio))
    return (long, short) if rng.random() < 0.5 else (short, long)
