"""Cameras, rays and voxels agree: what one view sees is where the voxels and the other views say it is."""

from dataclasses import dataclass

import numpy as np
import pytest

from rcnn.rooms.cameras import CameraConfig, CameraPlan, choose_cameras, focal_length, look_at
from rcnn.rooms.layouts.demo import furnish_demo
from rcnn.rooms.mesh import Material, join
from rcnn.rooms.piece import Piece, place
from rcnn.rooms.raycast import RayCaster, ray_pool
from rcnn.rooms.render import Pinhole
from rcnn.rooms.scene import Scene, build_scene
from rcnn.rooms.shapes import box
from rcnn.rooms.textures import paint_textures
from rcnn.rooms.voxels import VoxelGrid, voxelise


@dataclass(frozen=True)
class Prepared:
    pieces: tuple[Piece, ...]
    scene: Scene
    plan: CameraPlan
    grid: VoxelGrid


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    room = furnish_demo(3)
    scene = build_scene(room, paint_textures(3))
    with ray_pool(scene, 2) as pool:
        plan = choose_cameras(pool, scene, room.pieces, 60, 6, CameraConfig(), 3)
    return Prepared(room.pieces, scene, plan, voxelise(room.pieces, scene.size, 160))


@dataclass(frozen=True)
class View:
    pose: np.ndarray
    ids: np.ndarray
    points: np.ndarray
    depth: np.ndarray


CAMERA = Pinhole(80, 60, focal_length(80, 75.0))


@pytest.fixture(scope="module")
def views(prepared: Prepared) -> list[View]:
    caster = RayCaster(prepared.scene)
    result = []
    for pose in prepared.plan.poses:
        origins, directions = CAMERA.rays(pose)
        hit = caster.first_hit(origins, directions)
        assert (hit["primID"] >= 0).all(), "a ray left the room"
        points = origins + directions * hit["tfar"][:, None]
        result.append(View(pose, prepared.scene.instance[hit["primID"]], points, hit["tfar"]))
    return result


def test_every_piece_is_seen_often(prepared: Prepared, views: list[View]):
    seen = np.stack([np.bincount(view.ids, minlength=len(prepared.pieces) + 1)[1:] for view in views]) > 8
    held_out = np.isin(np.arange(len(views)), prepared.plan.held_out)
    assert held_out.sum() == 6
    for piece, in_training, in_held_out in zip(
        prepared.pieces, seen[~held_out].sum(0), seen[held_out].sum(0), strict=True
    ):
        assert in_training >= 8, piece.category
        assert in_held_out >= 1, piece.category


def test_views_follow_the_rules(prepared: Prepared, views: list[View]):
    rules = CameraConfig()
    for view in views:
        np.testing.assert_allclose(view.pose[:3, :3] @ view.pose[:3, :3].T, np.eye(3), atol=1e-9)
        assert np.linalg.det(view.pose[:3, :3]) > 0
        assert abs(view.pose[2, 0]) < 1e-9, "the horizon is level"
        assert (view.pose[:3, 3] > 0).all()
        assert (view.pose[:3, 3] < prepared.scene.size).all()
        assert np.quantile(view.depth, 0.05) > 0.9 * rules.min_near_distance
        assert view.depth.mean() > 0.9 * rules.min_mean_distance


def test_pixels_land_in_voxels_of_their_instance(prepared: Prepared, views: list[View]):
    grid = prepared.grid
    edge = (grid.bbox_max - grid.bbox_min) / grid.instances.shape
    padded = np.pad(grid.instances, 1)
    right = total = 0
    for view in views:
        thing = view.ids > 0
        cell = np.floor((view.points[thing] - grid.bbox_min) / edge).astype(int)
        cell = np.clip(cell, 0, np.array(grid.instances.shape) - 1) + 1
        agrees = np.zeros(len(cell), bool)
        for step in np.ndindex(3, 3, 3):
            agrees |= padded[tuple((cell + np.array(step) - 1).T)] == view.ids[thing]
        right += agrees.sum()
        total += len(agrees)
    assert total > 50_000
    assert right / total >= 0.995


def test_pixels_land_on_the_same_instance_in_other_views(views: list[View]):
    right = total = 0
    for first, second in [(views[k], views[(k + step) % len(views)]) for k in range(len(views)) for step in (1, 7, 23)]:
        local = (first.points - second.pose[:3, 3]) @ second.pose[:3, :3]
        with np.errstate(divide="ignore", invalid="ignore"):
            column = np.floor(CAMERA.width / 2 + CAMERA.focal * local[:, 0] / -local[:, 2])
            row = np.floor(CAMERA.height / 2 - CAMERA.focal * local[:, 1] / -local[:, 2])
        inside = (local[:, 2] < -0.1) & (column >= 1) & (column < CAMERA.width - 1) & (row >= 1)
        inside &= row < CAMERA.height - 1
        pixel = (row[inside] * CAMERA.width + column[inside]).astype(int)
        ids, distance = first.ids[inside], np.linalg.norm(local[inside], axis=1)
        visible = np.abs(second.depth[pixel] - distance) < 0.03
        # a point seen near an outline may fall into the pixel beside it
        agrees = np.zeros(len(pixel), bool)
        for step in (0, -1, 1, -CAMERA.width, CAMERA.width):
            agrees |= second.ids[pixel + step] == ids
        right += (agrees & visible).sum()
        total += visible.sum()
    assert total > 20_000
    assert right / total >= 0.995


def test_look_at_puts_the_target_in_the_middle():
    pose = look_at(np.array([1.0, 2.0, 1.5]), np.array([3.0, 1.0, 0.5]))
    local = np.linalg.inv(pose) @ np.array([3.0, 1.0, 0.5, 1.0])
    np.testing.assert_allclose(local[:2], 0, atol=1e-12)
    assert local[2] < 0


def test_voxels_follow_the_cell_centred_rule():
    """A box from 0.30 to 0.70 m on a 0.1 m grid fills the cells 3 to 6, whose centres are 0.35 to 0.65 m."""
    crate = place("crate", box((0.4, 0.4, 0.4), Material("paper"), (0, 0, 0.2)), 0.5, 0.5, 0.3, 0.0)
    grid = voxelise([crate], np.array([1.0, 0.8, 0.9]), 10)
    assert grid.instances.shape == (10, 8, 9)
    np.testing.assert_allclose(grid.bbox_max, [1.0, 0.8, 0.9])
    # shrunk by a hair so that its sides do not lie exactly between two cells
    crate = place("crate", box((0.398, 0.398, 0.398), Material("paper"), (0, 0, 0.2)), 0.5, 0.5, 0.3, 0.0)
    cells = np.argwhere(voxelise([crate], np.array([1.0, 0.8, 0.9]), 10).instances)
    assert len(cells) == 64
    np.testing.assert_array_equal(cells.min(0), [3, 3, 3])
    np.testing.assert_array_equal(cells.max(0), [6, 6, 6])


def test_voxels_of_a_sheet_thinner_than_a_voxel_are_kept():
    board = place("board", box((0.6, 0.01, 0.6), Material("paper"), (0, 0, 0.3)), 0.5, 0.52, 0.1, 0.0)
    cells = np.argwhere(voxelise([board], np.array([1.0, 1.0, 1.0]), 10).instances)
    assert set(cells[:, 1]) == {5}
    assert len(cells) >= 36


def test_closed_furniture_is_solid():
    """Panels around nothing: what they enclose is the cabinet's; what is open is not."""
    card = Material("paper")
    sides = [box((0.56, 0.02, 0.6), card, (0, y, 0.3)) for y in (-0.27, 0.27)]
    ends = [box((0.02, 0.56, 0.6), card, (x, 0, 0.3)) for x in (-0.27, 0.27)]
    bottom, top = (box((0.56, 0.56, 0.02), card, (0, 0, z)) for z in (0.01, 0.59))

    def middle(meshes: list, height: float) -> int:
        piece = place("cabinet", join(meshes), 0.5, 0.5, height, 0.0)
        grid = voxelise([piece], np.array([1.0, 1.0, 1.2]), 12)
        return int(grid.instances[5, 5, int((height + 0.3) * 12 / 1.2)])

    assert middle([*sides, *ends, bottom, top], 0.0) == 1
    assert middle([*sides, *ends, bottom, top], 0.4) == 1
    assert middle([*sides, *ends, bottom], 0.0) == 0, "open above"
    assert middle([*sides, ends[0], bottom, top], 0.0) == 0, "open in front"
    assert middle([*sides, *ends, top], 0.0) == 1, "closed by the floor"
    assert middle([*sides, *ends, top], 0.4) == 0, "a shade that hangs is open below"
