"""Furnished rooms of every kind: nothing interpenetrates, everything stands on something, models keep to splits."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from rcnn.errors import InputError
from rcnn.rooms.assets import FurniturePack, shipped_pack
from rcnn.rooms.assets.classes import furniture_classes
from rcnn.rooms.colours import random_palette
from rcnn.rooms.layouts.arrangement import LayoutError
from rcnn.rooms.layouts.furnish import KINDS, MAX_PIECES, MIN_PIECES, RoomDesign, design_room, kind_of_room
from rcnn.rooms.layouts.parametric import NUMBERS, SHAPES, build_parametric
from rcnn.rooms.layouts.supply import FurnitureSupply, MissingModelError
from rcnn.rooms.piece import FurnishedRoom, Piece, box_overlap
from rcnn.rooms.raycast import RayCaster
from rcnn.rooms.scene import build_scene
from rcnn.rooms.shell import Shell
from rcnn.rooms.textures import TextureAtlas, paint_textures

# Every kind, each split, and enough seeds for all three shapes of plans.
CASES = [(kind, ("train", "val", "test")[k % 3], 10 * k) for k, kind in enumerate([*KINDS, "bedroom", "kitchen"])]


@pytest.fixture(scope="module")
def pack() -> FurniturePack:
    return shipped_pack()


@pytest.fixture(scope="module")
def designs(pack: FurniturePack) -> list[tuple[str, RoomDesign]]:
    supplies = {split: FurnitureSupply(pack, split) for split in ("train", "val", "test")}
    found = []
    for kind, split, seed in CASES:
        for attempt in range(10):
            try:
                found.append((split, design_room(supplies[split], np.random.default_rng((seed, attempt)), kind)))
                break
            except (LayoutError, MissingModelError):
                continue
    assert len(found) == len(CASES)
    return found


@pytest.fixture(scope="module")
def atlas() -> TextureAtlas:
    return paint_textures(0)


def _label(design: RoomDesign, *pieces: Piece) -> str:
    return f"{design.kind}: {', '.join(piece.name for piece in pieces)}"


def test_rooms_have_what_they_are_for(designs: list[tuple[str, RoomDesign]]):
    needed = {
        "bedroom": {"bed"},
        "living_room": {"sofa"},
        "dining_room": {"table", "chair"},
        "study": {"desk", "chair"},
        "kitchen": {"cabinet"},
    }
    plans = set()
    for _, design in designs:
        categories = {piece.category for piece in design.pieces}
        for kind in design.kind.split("+"):
            assert needed[kind] <= categories, design.kind
        assert MIN_PIECES <= len(design.pieces) <= MAX_PIECES
        assert categories <= set(furniture_classes())
        plans.add(design.plan.kind)
    assert plans == {"rectangle", "l_shape", "open_plan"}


def test_models_belong_to_the_split(pack: FurniturePack, designs: list[tuple[str, RoomDesign]]):
    split_of = {info.model_id: info.split for info in pack.models}
    for split, design in designs:
        for piece in design.pieces:
            if piece.library == "parametric":
                assert int(piece.name.rsplit("-", 1)[1]) in range(*NUMBERS[split]), piece.name
            else:
                assert split_of[piece.name] == split


def test_no_edge_of_a_piece_cuts_another(designs: list[tuple[str, RoomDesign]], atlas: TextureAtlas):
    """Exact, and independent of how pieces were placed: edges of one mesh as rays against the other's triangles."""
    close = 0
    for _, design in designs:
        casters: dict[int, RayCaster] = {}
        for a, b in combinations(range(len(design.pieces)), 2):
            pair = design.pieces[a], design.pieces[b]
            (low_a, high_a), (low_b, high_b) = (piece.mesh.bounds() for piece in pair)
            if (low_a > high_b).any() or (low_b > high_a).any():
                continue
            close += 1
            for cut, cutter in ((a, b), (b, a)):
                if cut not in casters:
                    casters[cut] = _caster(design, design.pieces[cut], atlas)
                mesh = design.pieces[cutter].mesh
                corners = mesh.vertices[mesh.faces]
                start, edge = corners.reshape(-1, 3), (corners[:, [1, 2, 0]] - corners).reshape(-1, 3)
                long = np.linalg.norm(edge, axis=1) > 1e-4
                hit = casters[cut].is_blocked(start[long], edge[long], np.full(int(long.sum()), 1.0))
                assert not hit.any(), _label(design, *pair)
    assert close > 10, "chairs at tables and lamps on nightstands were tested"


def _caster(design: RoomDesign, piece: Piece, atlas: TextureAtlas) -> RayCaster:
    empty = Shell(piece.mesh, (), design.plan.size)
    return RayCaster(build_scene(FurnishedRoom(empty, ()), atlas.with_images(design.images)))


def test_everything_stands_hangs_or_is_carried(designs: list[tuple[str, RoomDesign]]):
    hanging = 0
    for _, design in designs:
        rugs = [piece for piece in design.pieces if piece.category == "rug"]
        for piece, below in zip(design.pieces, design.standing_on, strict=True):
            low, high = piece.mesh.bounds()[:, 2]
            if below >= 0:
                under = design.pieces[below].mesh.bounds()
                assert under[0, 2] < low <= under[1, 2] + 1e-3, _label(design, piece, design.pieces[below])
                assert box_overlap((*piece.box[:2], 0, *piece.box[3:5], 1, piece.box[6]), _column(design.pieces[below]))
            elif high > design.plan.size[2] - 1e-3 and piece.category == "pendant_lamp":
                hanging += 1
            elif low > 0.05:
                assert piece.category in ("cabinet", "tv", "radiator"), _label(design, piece)
            else:
                floors = [0.0, *(float(rug.mesh.bounds()[1, 2]) for rug in rugs)]
                assert min(abs(low - floor) for floor in floors) < 2e-3, _label(design, piece)
    assert hanging


def _column(piece: Piece) -> tuple[float, float, float, float, float, float, float]:
    x, y, _, width, length, _, yaw = piece.box
    return (x, y, 0.0, width, length, 1.0, yaw)


def test_pieces_stay_inside_and_leave_doors_free(designs: list[tuple[str, RoomDesign]]):
    for _, design in designs:
        for piece in design.pieces:
            flat = piece.mesh.vertices[:, :2]
            assert design.plan.contains(flat, 0.015).all(), _label(design, piece)
            assert piece.mesh.bounds()[0, 2] >= -1e-6
            assert piece.mesh.bounds()[1, 2] <= design.plan.size[2] + 1e-6


def test_light_stays_in_the_room(designs: list[tuple[str, RoomDesign]], atlas: TextureAtlas):
    rng = np.random.default_rng(0)
    for _, design in designs[::3]:
        caster = RayCaster(build_scene(FurnishedRoom(design.shell, ()), atlas))
        points = np.column_stack([rng.uniform(0, edge, 4000) for edge in design.plan.size])
        points = points[design.plan.contains(points[:, :2], 0.1) & (points[:, 2] < design.plan.size[2] - 0.1)]
        directions = rng.normal(size=points.shape)
        # along the corners of the room as well, where walls meet
        corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * design.plan.size
        directions = np.concatenate([directions, *(corners[k] - points for k in range(8))])
        assert (caster.nearest_triangle(np.tile(points, (9, 1)), directions) >= 0).all(), design.plan.kind
        for light in design.shell.lights:
            away = np.cross(light.edges[0], light.edges[1])
            middle = light.corner + light.edges.sum(0) / 2 + 0.1 * away / np.linalg.norm(away)
            assert design.plan.contains(middle[None, :2])[0], "lights shine into the room"
            assert middle[2] < design.plan.size[2]


def test_parametric_models_are_told_apart_by_number_and_repeat():
    assert sorted(number for low, high in NUMBERS.values() for number in range(low, high)) == list(range(1000))
    palette = random_palette(np.random.default_rng(0))
    for category, shapes in SHAPES.items():
        assert category in furniture_classes()
        for use in {shape.use for shape in shapes}:
            mesh, name = build_parametric(category, 7, use, palette)
            again, _ = build_parametric(category, 7, use, palette)
            other, other_name = build_parametric(category, 8, use, palette)
            np.testing.assert_array_equal(mesh.vertices, again.vertices)
            assert name != other_name
            different = mesh.vertices.shape != other.vertices.shape or not np.allclose(mesh.vertices, other.vertices)
            assert different or (category, use) == ("oven", ""), name
            low, high = mesh.bounds()
            assert abs(low[2]) < 1e-9, name
            np.testing.assert_allclose(low[:2] + high[:2], 0, atol=0.25, err_msg=name)


def test_every_kind_of_room_gets_its_share():
    for start in (0.0, 0.37):
        counts = Counter(kind_of_room(index, start) for index in range(100))
        for name, kind in KINDS.items():
            assert counts[name] == pytest.approx(100 * kind.share, abs=2)


def test_classes_and_splits_without_models_are_named(pack: FurniturePack):
    palette, rng = random_palette(np.random.default_rng(0)), np.random.default_rng(0)
    with pytest.raises(MissingModelError, match=r"furniture_cc0.pack: no crib for the split val") as error:
        FurnitureSupply(pack, "val").draw("crib", palette, rng)
    assert "\n" not in str(error.value)
    assert FurnitureSupply(pack, "val").draw("bed", palette, rng).category == "bed"
    with pytest.raises(InputError, match="no models of the split nothing"):
        FurnitureSupply(pack, "nothing")
