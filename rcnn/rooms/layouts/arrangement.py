"""A room while it is being furnished: what stands where, and the ways to put one more thing into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rcnn.rooms.layouts.contact import Support, find_support, place_on, surfaces_meet
from rcnn.rooms.layouts.floor_plan import FloorPlan, Rectangle, Wall, facing
from rcnn.rooms.layouts.openings import Opening
from rcnn.rooms.layouts.supply import FurnitureSupply, Size, Thing, anything
from rcnn.rooms.palette import Palette
from rcnn.rooms.piece import WALL_GAP, Box, Piece, box_corners, box_overlap, place, placed_box

# Air between pieces that do not belong together.
GAP = 0.03
# Air below what stands on something: faces that coincide would flicker.
TOUCH = 1e-4


class LayoutError(ValueError):
    """A room cannot be furnished this way; another seed may do."""


@dataclass(frozen=True)
class Aisle:
    """Floor that people need, such as the space before a wardrobe."""

    box: Box
    """In the world."""
    owner: int
    """The piece that it belongs to."""


class Arrangement:
    """Pieces placed so far. Every method that places something returns None when it finds no place."""

    def __init__(
        self,
        plan: FloorPlan,
        openings: Sequence[Opening],
        supply: FurnitureSupply,
        palette: Palette,
        rng: np.random.Generator,
        limit: int,
        most: int,
    ):
        self.plan, self.openings, self.supply, self.palette, self.rng = plan, tuple(openings), supply, palette, rng
        self.limit = limit
        """Number of pieces at which optional ones are left out."""
        self.most = most
        """Number of pieces that is never exceeded."""
        self.pieces: list[Piece] = []
        self.standing_on: list[int] = []
        """Number of the piece below each piece, -1 for floor, wall and ceiling."""
        self.images: dict[str, np.ndarray] = {}
        self._aisles: list[Aisle] = []
        self._supports: dict[int, Support] = {}
        self._closed = [box for opening in openings for box in opening.keep_clear()]
        height = plan.size[2]
        for solid in plan.solids:
            wide, deep = solid.x2 - solid.x1 + 2 * WALL_GAP - 0.004, solid.y2 - solid.y1 + 2 * WALL_GAP - 0.004
            self._closed.append((*solid.centre, height / 2, wide, deep, height, 0.0))

    @property
    def full(self) -> bool:
        """Whether only indispensable pieces may still be added."""
        return len(self.pieces) >= self.limit

    def draw(
        self, category: str, fits: Callable[[Size], bool] = anything, use: str = "", own_only: bool = False
    ) -> Thing:
        """A random model of a class."""
        return self.supply.draw(category, self.palette, self.rng, fits, use, own_only)

    def chance(self, probability: float) -> bool:
        """A biased coin that always fails in a full room."""
        return bool(self.rng.random() < probability) and not self.full

    def put(
        self,
        thing: Thing,
        x: float,
        y: float,
        yaw: float,
        z: float = 0.0,
        on: Piece | None = None,
        close_to: Sequence[Piece] = (),
        front: float = 0.0,
        gap: float = GAP,
    ) -> Piece | None:
        """Puts a thing at (x, y) on height z if it fits there.

        Args:
            on: the piece it stands on.
            close_to: pieces whose boxes it may enter, as long as the surfaces stay apart; also allows aisles.
            front: depth of the floor in front of it that later pieces leave free.
            gap: air to pieces that are not in `close_to`.
        """
        if on is None and z == 0.0:
            z = self._floor_height(thing, x, y, yaw)
        box = placed_box(thing.mesh, x, y, z, yaw)
        if len(self.pieces) >= self.most or not self._is_free(box, on, close_to, gap):
            return None
        placed = place(thing.category, thing.mesh, x, y, z, yaw)
        piece = replace(placed, asset=thing.asset, library=thing.library)
        if any(box_overlap(box, other.box) and surfaces_meet(piece.mesh, other.mesh) for other in close_to):
            return None
        self.pieces.append(piece)
        self.standing_on.append(-1 if on is None else self.number(on))
        self.images.update(thing.images)
        if front > 0:
            self._aisles.append(Aisle(_before(piece.box, front), len(self.pieces) - 1))
        return piece

    def number(self, piece: Piece) -> int:
        """Index of a piece; pieces are compared by identity."""
        return next(k for k, other in enumerate(self.pieces) if other is piece)

    def _floor_height(self, thing: Thing, x: float, y: float, yaw: float) -> float:
        box = placed_box(thing.mesh, x, y, 0.0, yaw)
        rugs = [other for other in self.pieces if other.category == "rug" and box_overlap(box, other.box)]
        return max((float(rug.mesh.bounds()[1, 2]) + TOUCH for rug in rugs), default=0.0)

    def _is_free(self, box: Box, on: Piece | None, close_to: Sequence[Piece], gap: float) -> bool:
        x, y, z, wide, deep, tall, yaw = box
        low, high = z - tall / 2, z + tall / 2
        if not self.plan.contains(box_corners(box), WALL_GAP - 0.002).all() or high > self.plan.size[2] + 1e-6:
            return False
        if any(box_overlap(box, closed) for closed in self._closed):
            return False
        on_floor = on is None and low < 0.3
        if on_floor and not close_to and any(box_overlap(box, aisle.box) for aisle in self._aisles):
            return False
        spaced = (x, y, z, wide + 2 * gap, deep + 2 * gap, tall, yaw)
        friends = {id(piece) for piece in close_to}
        return not any(box_overlap(spaced, other.box) for other in self.pieces if id(other) not in friends)

    def aisle_is_free(self, box: Box) -> bool:
        """Whether no piece stands in a box."""
        return not any(box_overlap(box, other.box) for other in self.pieces)

    def walls_of(self, zone: Rectangle) -> list[tuple[Wall, float, float]]:
        """Walls that bound a zone, with the part of each, in metres from its start."""
        found = []
        for wall in self.plan.walls:
            inside = [
                along
                for along in np.linspace(0.0, wall.length, max(2, int(wall.length / 0.05)))
                if zone.contains(*wall.point(along, 0.08))
            ]
            if inside and inside[-1] - inside[0] > 0.4:
                found.append((wall, inside[0], inside[-1]))
        return found

    def against_wall(
        self,
        thing: Thing,
        zone: Rectangle,
        front: float = 0.5,
        z: float = 0.0,
        corner: float = 0.3,
        tries: int = 30,
        walls: Sequence[tuple[Wall, float, float]] | None = None,
        gap: float = GAP,
        along: float | None = None,
    ) -> Piece | None:
        """Puts a thing with its back to a wall of the zone.

        `corner` is how often it is pushed into the end of the wall; `along` prescribes the place on the (single) wall.
        """
        walls = self.walls_of(zone) if walls is None else walls
        low, high = thing.mesh.bounds()
        wide, back = float(high[0] - low[0]), float(high[1])
        usable = [(wall, first, last) for wall, first, last in walls if last - first > wide + 0.1]
        if not usable:
            return None
        lengths = np.array([last - first for _, first, last in usable])
        for _ in range(tries if along is None else 1):
            wall, first, last = usable[self.rng.choice(len(usable), p=lengths / lengths.sum())]
            start, stop = first + wide / 2 + 0.04, last - wide / 2 - 0.04
            at = along if along is not None else float(self.rng.uniform(start, stop))
            if along is None and self.rng.random() < corner:
                at = start if self.rng.random() < 0.5 else stop
            off = back + WALL_GAP + 0.008 * float(self.rng.random())
            x, y = wall.point(at, off)
            before = placed_box(thing.mesh, x, y, z, wall.yaw)
            if front > 0 and z == 0 and not self.aisle_is_free(_before(before, front)):
                continue
            piece = self.put(thing, x, y, wall.yaw, z, front=front if z == 0 else 0.0, gap=gap)
            if piece is not None:
                return piece
        return None

    def beside(
        self, thing: Thing, piece: Piece, side: int, gap: float = 0.05, flush: str = "back", close: bool = False
    ) -> Piece | None:
        """Puts a thing to the left (-1) or right (1) of a piece, seen from behind it, in line at its back or front."""
        low, high = thing.mesh.bounds()
        x, y, _, wide, deep, _, yaw = piece.box
        shift = side * (wide / 2 + gap + float(high[0] - low[0]) / 2)
        off = deep / 2 - float(high[1]) if flush == "back" else -deep / 2 - float(low[1])
        cos, sin = np.cos(yaw), np.sin(yaw)
        return self.put(
            thing,
            float(x + cos * shift - sin * off),
            float(y + sin * shift + cos * off),
            yaw,
            close_to=[piece] if close else [],
            gap=min(gap, GAP),
        )

    def before(
        self,
        thing: Thing,
        piece: Piece,
        distance: float,
        shift: float = 0.0,
        turned: bool = False,
        jitter: float = 0.0,
        close: bool = False,
        front: float = 0.0,
    ) -> Piece | None:
        """Puts a thing in front of a piece; `turned` makes it look back at it. `distance` is between their boxes."""
        low, high = thing.mesh.bounds()
        x, y, _, _, deep, _, yaw = piece.box
        half = -float(low[1]) if turned else float(high[1])
        off = -(deep / 2 + distance + half)
        cos, sin = np.cos(yaw), np.sin(yaw)
        turn = yaw + (np.pi if turned else 0.0) + jitter * float(self.rng.uniform(-1, 1))
        at = (float(x + cos * shift - sin * off), float(y + sin * shift + cos * off))
        return self.put(thing, *at, turn, close_to=[piece] if close else [], front=front)

    def on_top(
        self,
        thing: Thing,
        piece: Piece,
        spread: float = 1.0,
        turn: float | None = None,
        back: bool = False,
        tries: int = 24,
    ) -> Piece | None:
        """Puts a thing on a piece, anywhere where it stands level.

        `spread` is the share of the top that is tried around its middle, `turn` its yaw relative to the piece (any when
        None), `back` prefers the rear edge.
        """
        number = self.number(piece)
        if number not in self._supports:
            self._supports[number] = find_support(piece)
        support = self._supports[number]
        x, y, _, wide, deep, _, yaw = piece.box
        low, high = thing.mesh.bounds()
        size, middle = high - low, (high + low) / 2
        cos, sin = np.cos(yaw), np.sin(yaw)
        for _ in range(tries):
            twist = float(self.rng.uniform(-np.pi, np.pi)) if turn is None else turn + 0.12 * float(self.rng.normal())
            u, v = spread * self.rng.uniform(-0.5, 0.5, 2)
            if back:
                v = 0.5 - (size[1] / 2 + 0.03) / deep - 0.1 * self.rng.random()
            at = (float(u * wide), float(v * deep))
            height = place_on(support, piece, (size[0], size[1]), at, twist)
            if height is None:
                continue
            total = yaw + twist
            centre = (x + cos * at[0] - sin * at[1], y + sin * at[0] + cos * at[1])
            # the origin of a mesh need not be the middle of its box
            ox = centre[0] - (np.cos(total) * middle[0] - np.sin(total) * middle[1])
            oy = centre[1] - (np.sin(total) * middle[0] + np.cos(total) * middle[1])
            # its box may reach into that of the piece (a drawer under a raised edge), the surfaces may not
            placed = self.put(thing, float(ox), float(oy), total, height + TOUCH - float(low[2]), on=piece, gap=0.01,
                              close_to=[piece])  # fmt: skip
            if placed is not None:
                return placed
        return None

    def somewhere(self, thing: Thing, zone: Rectangle, tries: int = 30, gap: float = 0.12) -> Piece | None:
        """Puts a thing anywhere on the floor of a zone, turned anyhow."""
        for _ in range(tries):
            x, y = self.rng.uniform(zone.x1, zone.x2), self.rng.uniform(zone.y1, zone.y2)
            piece = self.put(thing, float(x), float(y), float(self.rng.uniform(-np.pi, np.pi)), gap=gap)
            if piece is not None:
                return piece
        return None

    def under_ceiling(self, thing: Thing, x: float, y: float, yaw: float) -> Piece | None:
        """Hangs a thing from the ceiling."""
        return self.put(thing, x, y, yaw, self.plan.size[2] - float(thing.mesh.bounds()[1, 2]) - 1e-4)

    def lay_rug(self, thing: Thing, x: float, y: float, yaw: float) -> Piece | None:
        """Lays a rug, under what stands there already."""
        rug = replace(place(thing.category, thing.mesh, x, y, 0.0, yaw), asset=thing.asset, library=thing.library)
        under = [
            number
            for number, piece in enumerate(self.pieces)
            if piece.mesh.bounds()[0, 2] < 0.05
            and self.standing_on[number] < 0
            and box_overlap((*piece.box[:2], 0.0, *piece.box[3:5], 1.0, piece.box[6]), (*rug.box[:5], 1.0, rug.box[6]))
        ]
        if len(self.pieces) >= self.most or not self.plan.contains(box_corners(rug.box), WALL_GAP).all():
            return None
        if any(box_overlap(rug.box, box) for box in self._closed):
            return None
        if any(
            self.pieces[number].mesh.bounds()[0, 2] > 1e-6 or self.pieces[number].category == "rug" for number in under
        ):
            return None
        for number in under:
            self._lift(number, float(rug.mesh.bounds()[1, 2]) + TOUCH)
        self.pieces.append(rug)
        self.standing_on.append(-1)
        self.images.update(thing.images)
        return rug

    def _lift(self, number: int, height: float) -> None:
        self.pieces[number] = self.pieces[number].lifted(height)
        self._supports.pop(number, None)
        for above, below in enumerate(self.standing_on):
            if below == number:
                self._lift(above, height)

    def remove(self, numbers: Sequence[int]) -> None:
        """Takes pieces away that nothing stands on."""
        keep = [k for k in range(len(self.pieces)) if k not in set(numbers)]
        moved = {old: new for new, old in enumerate(keep)}
        self.standing_on = [moved.get(self.standing_on[k], -1) for k in keep]
        self.pieces = [self.pieces[k] for k in keep]
        self._supports.clear()
        self._aisles = [aisle for aisle in self._aisles if aisle.owner in moved]


def _before(box: Box, depth: float) -> Box:
    """The box of floor in front of a piece."""
    x, y, _, wide, deep, _, yaw = box
    off = -(deep + depth) / 2 - 0.002
    return (float(x - np.sin(yaw) * off), float(y + np.cos(yaw) * off), 0.5, wide, depth, 1.0, yaw)


def towards(piece: Piece, x: float, y: float) -> float:
    """Yaw that makes something at (x, y) look at a piece."""
    return facing(piece.box[0] - x, piece.box[1] - y)
