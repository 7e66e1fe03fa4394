"""Furniture and its arrangement: closed solids, no piece inside another, nothing floating."""

from itertools import combinations

import numpy as np
import pytest
import trimesh

from rcnn.rooms.layouts.demo import furnish_demo
from rcnn.rooms.mesh import Material, weld
from rcnn.rooms.piece import FurnishedRoom, Piece, boxes_overlap, place
from rcnn.rooms.shapes import box
from rcnn.rooms.voxels import _inside


@pytest.fixture(scope="module", params=[0, 1, 2])
def room(request: pytest.FixtureRequest) -> FurnishedRoom:
    return furnish_demo(request.param)


def _cube(x: float, y: float, z: float, yaw: float) -> Piece:
    return place("cube", box((1.0, 1.0, 1.0), Material("paper"), (0, 0, 0.5)), x, y, z, yaw)


def test_box_overlap_knows_turned_neighbours():
    assert boxes_overlap(_cube(0, 0, 0, 0), _cube(0.9, 0, 0, 0))
    assert not boxes_overlap(_cube(0, 0, 0, 0), _cube(1.1, 0, 0, 0))
    assert boxes_overlap(_cube(0, 0, 0, 0), _cube(1.1, 0, 0, np.pi / 4))
    assert not boxes_overlap(_cube(0, 0, 0, 0), _cube(0.9, 0, 1.0, 0)), "stacked"
    # the axis-aligned boxes of these two overlap, the cubes do not
    assert not boxes_overlap(_cube(0, 0, 0, np.pi / 4), _cube(0.8, 0.8, 0, np.pi / 4))


def test_seeds_differ_and_repeat():
    first, again, other = furnish_demo(0), furnish_demo(0), furnish_demo(1)
    for a, b in zip(first.pieces, again.pieces, strict=True):
        np.testing.assert_array_equal(a.mesh.vertices, b.mesh.vertices)
    assert first.shell.size != other.shell.size
    assert first.pieces[0].mesh.materials != other.pieces[0].mesh.materials


def test_pieces_do_not_cut_into_each_other(room: FurnishedRoom):
    assert len(room.pieces) >= 12
    for a, b in combinations(room.pieces, 2):
        assert not boxes_overlap(a, b), (a.category, b.category)


def test_no_point_lies_in_two_pieces(room: FurnishedRoom):
    edge = 0.041  # no piece ends exactly at a cell centre
    shape = np.ceil(np.array(room.shell.size) / edge).astype(int)
    owners = np.zeros(shape, int)
    for piece in room.pieces:
        inside = _inside(piece.mesh.vertices[piece.mesh.faces] / edge, shape)
        assert inside.any(), piece.category
        owners += inside
    assert owners.max() == 1


def test_every_piece_stands_on_the_floor_or_on_another(room: FurnishedRoom):
    tops = [piece.mesh.bounds()[1, 2] for piece in room.pieces]
    for piece in room.pieces:
        assert min(abs(piece.mesh.bounds()[0, 2] - height) for height in [0.0, *tops]) < 0.013, piece.category


def test_boxes_enclose_their_meshes_tightly(room: FurnishedRoom):
    for piece in room.pieces:
        x, y, z, width, length, height, yaw = piece.box
        turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        local = (piece.mesh.vertices - (x, y, z)) @ turn.T
        np.testing.assert_allclose(local.max(0), np.array([width, length, height]) / 2, atol=1e-6)
        np.testing.assert_allclose(local.min(0), -np.array([width, length, height]) / 2, atol=1e-6)


def test_pieces_are_closed_and_shaded_outwards(room: FurnishedRoom):
    for piece in room.pieces:
        mesh = piece.mesh
        corners = mesh.vertices[mesh.faces]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert (np.einsum("fk,fk->f", normal, mesh.normals[mesh.faces].mean(1)) > 0).all(), piece.category
        if piece.category in ("tv", "monitor"):  # the picture on a screen is an open sheet
            continue
        solid = trimesh.Trimesh(*_welded(mesh.vertices, mesh.faces), process=False)
        assert solid.is_watertight, piece.category
        assert solid.volume > 0


def _welded(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    group = weld(vertices, 1e-6)
    return vertices[np.unique(group, return_index=True)[1]], group[faces]
