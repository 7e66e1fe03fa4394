"""Doors, windows and their curtains: where they are, and the air that furniture must leave to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rcnn.rooms.layouts.floor_plan import FloorPlan, Wall
from rcnn.rooms.piece import Box

DOOR_HEIGHT = 2.02
CURTAIN_WIDTH, CURTAIN_FOOT = 0.42, 0.32
MARGIN = 0.12


@dataclass(frozen=True)
class Opening:
    """A door or window in a wall."""

    kind: Literal["door", "window"]
    """Doors are closed."""
    wall: Wall
    """Where it is."""
    along: float
    """Its middle, metres from the wall's start."""
    width: float
    """Metres, without the frame."""
    bottom: float
    """Height of its lower edge."""
    top: float
    """Height of its upper edge."""
    curtains: bool = False
    """Whether curtains hang beside it."""

    @property
    def reach(self) -> float:
        """Half the length of wall that it takes, with frame and curtains."""
        return self.width / 2 + (0.2 + CURTAIN_WIDTH / 2 if self.curtains else 0.08)

    def keep_clear(self) -> list[Box]:
        """Boxes in which nothing may stand: the swing of a door, the light of a window, curtains."""
        if self.kind == "door":
            return [self._box(0.0, self.width, 0.0, self.top, 0.85)]
        boxes = [self._box(0.0, self.width, self.bottom - 0.08, self.top, 0.35)]
        if self.curtains:
            boxes += [
                self._box(x * (self.width / 2 + 0.2), CURTAIN_WIDTH, CURTAIN_FOOT - 0.02, 10.0, 0.12) for x in (-1, 1)
            ]
        return boxes

    def _box(self, shift: float, width: float, low: float, high: float, depth: float) -> Box:
        x, y = self.wall.point(self.along + shift, depth / 2)
        return (x, y, (low + high) / 2, width, depth, high - low, self.wall.yaw)


def draw_openings(plan: FloorPlan, sill: float | None, rng: np.random.Generator) -> tuple[Opening, ...]:
    """One or two doors and one to four windows. `sill` is the height of the window sills, random when None."""
    height = plan.size[2]
    taken: list[Opening] = []

    def free(wall: Wall, along: float, reach: float) -> bool:
        if along < reach + MARGIN or along > wall.length - reach - MARGIN:
            return False
        return all(other.wall != wall or abs(other.along - along) > reach + other.reach + MARGIN for other in taken)

    walls = [wall for wall in plan.walls if wall.length > 1.3]
    for _ in range(1 + int(rng.random() < 0.3)):
        for _ in range(20):
            wall = walls[rng.integers(len(walls))]
            width = float(rng.uniform(0.82, 0.95))
            # doors are near a corner more often than not
            along = rng.uniform(0.0, wall.length)
            if rng.random() < 0.7:
                along = width / 2 + 0.08 + MARGIN + rng.uniform(0.0, 0.4)
                along = along if rng.random() < 0.5 else wall.length - along
            if free(wall, along, width / 2 + 0.08):
                taken.append(Opening("door", wall, float(along), width, 0.0, DOOR_HEIGHT))
                break
    outside = [wall for wall in walls if wall.exterior]
    low = float(rng.uniform(0.75, 1.0)) if sill is None else sill
    high = float(min(height - 0.35, low + rng.uniform(1.1, 1.5)))
    curtains = bool(rng.random() < 0.55) and sill is None
    wanted = int(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2])) + int(plan.kind == "open_plan")
    for _ in range(40 * wanted):
        wall = outside[rng.integers(len(outside))]
        width = float(rng.uniform(0.9, 1.9))
        window = Opening("window", wall, float(rng.uniform(0.0, wall.length)), width, low, high, curtains)
        if free(wall, window.along, window.reach):
            taken.append(window)
            if sum(opening.kind == "window" for opening in taken) == wanted:
                break
    return tuple(taken)
