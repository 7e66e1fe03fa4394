"""A whole furnished room from a seed: its purpose, plan, openings, furniture, pictures, colours and light."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rcnn.rooms.colours import random_palette
from rcnn.rooms.layouts.arrangement import Arrangement, LayoutError
from rcnn.rooms.layouts.bedroom import furnish_bedroom
from rcnn.rooms.layouts.clutter import scatter
from rcnn.rooms.layouts.dining_room import furnish_dining_room
from rcnn.rooms.layouts.floor_plan import FloorPlan, PlanKind, Rectangle, draw_plan
from rcnn.rooms.layouts.groups import desk_group, lamp_on_floor, plant_somewhere, reading_corner, shelves, sideboard
from rcnn.rooms.layouts.kitchen import furnish_kitchen
from rcnn.rooms.layouts.living_room import furnish_living_room
from rcnn.rooms.layouts.openings import Opening, draw_openings
from rcnn.rooms.layouts.plan_shell import Picture, build_plan_shell
from rcnn.rooms.layouts.study import furnish_study
from rcnn.rooms.layouts.supply import FurnitureSupply
from rcnn.rooms.mood import Mood, draw_mood, with_lamps
from rcnn.rooms.piece import FurnishedRoom, Piece, box_overlap
from rcnn.rooms.shell import Shell

MIN_PIECES, MAX_PIECES = 6, 25
# Share of the pieces that a room may have which it has at least, if they find a place.
FILLED = 0.75


@dataclass(frozen=True)
class RoomKind:
    """What a room is for."""

    furnish: Callable[[Arrangement, Rectangle], None]
    """Furnishes a zone or raises LayoutError."""
    area: tuple[float, float]
    """Square metres of a room of its own."""
    share: float
    """Share of rooms."""


KINDS: dict[str, RoomKind] = {
    "bedroom": RoomKind(furnish_bedroom, (10.0, 19.0), 0.24),
    "living_room": RoomKind(furnish_living_room, (15.0, 28.0), 0.22),
    "dining_room": RoomKind(furnish_dining_room, (11.0, 20.0), 0.18),
    "study": RoomKind(furnish_study, (9.0, 17.0), 0.16),
    "kitchen": RoomKind(furnish_kitchen, (9.0, 18.0), 0.20),
}
PLANS: tuple[tuple[PlanKind, float], ...] = (("rectangle", 0.55), ("l_shape", 0.25), ("open_plan", 0.2))
DOUBLES = (
    ("living_room", "dining_room"),
    ("living_room", "kitchen"),
    ("living_room", "study"),
    ("dining_room", "kitchen"),
    ("bedroom", "study"),
    ("living_room", "bedroom"),
)
MOTIFS = ("picture_hills", "picture_shapes", "picture_waves")


@dataclass(frozen=True)
class RoomDesign:
    """Everything about a room except its cameras; pieces may still be taken out before it is built."""

    kind: str
    """Purpose, or two joined by a plus sign."""
    plan: FloorPlan
    """Its space."""
    pieces: tuple[Piece, ...]
    """Instances."""
    standing_on: tuple[int, ...]
    """Index of the piece below each piece, -1 for floor, wall and ceiling."""
    images: Mapping[str, np.ndarray]
    """Pictures that materials of the pieces name."""
    mood: Mood
    """Light."""
    shell: Shell
    """Background."""

    @property
    def bearing(self) -> np.ndarray:
        """(K,) bool: pieces that carry others."""
        return np.array([k in self.standing_on or piece.category == "rug" for k, piece in enumerate(self.pieces)])

    def room(self, keep: np.ndarray | None = None) -> FurnishedRoom:
        """The furnished room, with the pieces chosen by a mask (K,)."""
        chosen = (
            self.pieces if keep is None else tuple(piece for piece, kept in zip(self.pieces, keep, strict=True) if kept)
        )
        return FurnishedRoom(self.shell, chosen)


def kind_of_room(index: int, start: float) -> str:
    """The purpose of room `index`; any run of rooms has about the wanted share of every kind."""
    at = (start + 0.618034 * index) % 1.0
    bounds = np.cumsum([kind.share for kind in KINDS.values()])
    return list(KINDS)[int(np.searchsorted(bounds[:-1], at, side="right"))]


def design_room(supply: FurnitureSupply, rng: np.random.Generator, kind: str) -> RoomDesign:
    """Draws a room of a kind, in an open plan together with another kind.

    Raises LayoutError or MissingModelError when this one cannot be furnished.
    """
    purposes: tuple[str, ...]
    plan_kind: PlanKind = PLANS[rng.choice(len(PLANS), p=[share for _, share in PLANS])][0]
    if plan_kind == "open_plan":
        choices = [pair for pair in DOUBLES if kind in pair]
        purposes = choices[rng.integers(len(choices))]
        area = float(rng.uniform(27.0, 42.0))
    else:
        purposes = (kind,)
        area = float(rng.uniform(*KINDS[kind].area)) * (1.2 if plan_kind == "l_shape" else 1.0)
    palette = random_palette(rng, wet_room="kitchen" in purposes)
    plan = draw_plan(plan_kind, area, rng)
    openings = draw_openings(plan, 1.08 if "kitchen" in purposes else None, rng)
    limit = int(np.clip(round(rng.uniform(0.75, 1.5) * plan.floor_area), MIN_PIECES + 3, MAX_PIECES))
    arrangement = Arrangement(plan, openings, supply, palette, rng, limit, MAX_PIECES)
    if plan_kind == "open_plan":
        arrangement.limit = round(0.6 * limit)
        for purpose, zone in zip(purposes, plan.zones, strict=True):
            KINDS[purpose].furnish(arrangement, zone)
            arrangement.limit = limit
    else:
        # the small arm of an L keeps room for something else
        arrangement.limit = limit if plan_kind == "rectangle" else max(MIN_PIECES, round(0.7 * limit))
        KINDS[purposes[0]].furnish(arrangement, plan.zones[0])
        arrangement.limit = limit
        if plan_kind == "l_shape":
            _second_arm(arrangement, plan.zones[1], purposes[0])
    _fill_up(arrangement, max(MIN_PIECES + 1, round(FILLED * limit)))
    if len(arrangement.pieces) < MIN_PIECES:
        raise LayoutError(f"only {len(arrangement.pieces)} pieces fit into the {purposes[0]}")
    mood = draw_mood(rng)
    if not all(_has_window(zone, openings) for zone in plan.zones):
        mood = with_lamps(mood)
    pendants = tuple(
        (piece.box[0], piece.box[1], float(piece.mesh.bounds()[0, 2]))
        for piece in arrangement.pieces
        if piece.category == "pendant_lamp"
    )
    pictures = _hang_pictures(arrangement, rng)
    shell = build_plan_shell(plan, openings, pictures, pendants, palette, mood, rng)
    return RoomDesign(
        kind="+".join(purposes),
        plan=plan,
        pieces=tuple(_lit(piece, mood.lamp_glow) for piece in arrangement.pieces),
        standing_on=tuple(arrangement.standing_on),
        images=arrangement.images,
        mood=mood,
        shell=shell,
    )


def _has_window(zone: Rectangle, openings: Sequence[Opening]) -> bool:
    return any(
        opening.kind == "window" and zone.contains(*opening.wall.point(opening.along, 0.05)) for opening in openings
    )


def _lit(piece: Piece, glow: float) -> Piece:
    """A lamp as bright as the mood wants; models made by people glow where their shades are bright and lamps are on."""
    if piece.category not in ("lamp", "floor_lamp", "pendant_lamp"):
        return piece
    materials = []
    for material in piece.mesh.materials:
        emission = material.emission * glow
        if piece.library != "parametric" and glow > 1 and min(material.colour) > 0.3:
            emission = 0.3 * glow
        materials.append(replace(material, emission=emission))
    return replace(piece, mesh=replace(piece.mesh, materials=tuple(materials)))


def _fill_up(room: Arrangement, wanted: int) -> None:
    """More storage, plants, lamps and seats until there are enough pieces."""
    choices = (plant_somewhere, shelves, shelves, sideboard, sideboard, reading_corner, _lamp, _clutter, _clutter)
    for _ in range(3 * MAX_PIECES):
        if len(room.pieces) >= wanted:
            return
        zone = room.plan.zones[room.rng.integers(len(room.plan.zones))]
        choices[room.rng.integers(len(choices))](room, zone)


def _lamp(room: Arrangement, zone: Rectangle) -> None:
    if not any(piece.category == "floor_lamp" for piece in room.pieces):
        lamp_on_floor(room, zone, None)


def _clutter(room: Arrangement, zone: Rectangle) -> None:
    scatter(room, zone, ("box", "bag", "toy", "bin", "ball", "vase", "stool", "fan", "instrument"), 1)


def _second_arm(room: Arrangement, zone: Rectangle, purpose: str) -> None:
    """A reading corner, a desk, a table for two or storage in the smaller arm of an L."""
    choices = [
        lambda: desk_group(room, zone),
        lambda: reading_corner(room, zone),
        lambda: (sideboard(room, zone), shelves(room, zone)),
        lambda: furnish_dining_room(room, zone, small=True),
    ]
    if purpose == "study":
        choices = choices[1:3]
    for k in room.rng.permutation(len(choices))[: int(room.rng.integers(1, 3))]:
        if not room.full:
            choices[int(k)]()
    if room.chance(0.6):
        plant_somewhere(room, zone)


def _hang_pictures(room: Arrangement, rng: np.random.Generator) -> list[Picture]:
    """Up to four pictures where no tall piece, door or window is."""
    pictures: list[Picture] = []
    taken = [box for opening in room.openings for box in opening.keep_clear()]
    for _ in range(int(rng.integers(0, 12))):
        wall = room.plan.walls[rng.integers(len(room.plan.walls))]
        size = (float(rng.uniform(0.35, 1.0)), float(rng.uniform(0.35, 0.75)))
        if wall.length < size[0] + 0.4:
            continue
        along = float(rng.uniform(size[0] / 2 + 0.15, wall.length - size[0] / 2 - 0.15))
        height = float(rng.uniform(1.5, 1.75))
        x, y = wall.point(along, 0.03)
        box = (x, y, height, size[0] + 0.2, 0.06, size[1] + 0.15, wall.yaw)
        if any(box_overlap(box, other) for other in taken) or any(box_overlap(box, p.box) for p in room.pieces):
            continue
        if height + size[1] / 2 > room.plan.size[2] - 0.1 or len(pictures) == 4:
            continue
        pictures.append(Picture(wall, along, height, size, MOTIFS[rng.integers(len(MOTIFS))]))
        taken.append(box)
    return pictures
