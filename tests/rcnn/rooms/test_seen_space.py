"""Fused views: distances, colours and visibility against a room whose geometry is known in closed form."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from box_room import BOARD, COLOURS, CUBE, RESOLUTION, SIZE, write_box_room

from rcnn.errors import InputError
from rcnn.rooms.seen_space import REACH, SeenSpace, see_space


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_box_room(tmp_path_factory.mktemp("seen") / "room")


@pytest.fixture(scope="module")
def space(room: Path) -> SeenSpace:
    return see_space(room, RESOLUTION)


def _centres(space: SeenSpace) -> np.ndarray:
    return (np.stack(np.meshgrid(*map(np.arange, space.distance.shape), indexing="ij"), -1) + 0.5) * space.edge


def _outside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Signed distance to a box, negative inside."""
    beyond = np.maximum(box[0] - points, points - box[1])
    return np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(-1), 0)


def test_distances_are_those_of_the_surfaces(space: SeenSpace):
    centres = _centres(space)
    cube, board = _outside(centres, CUBE), _outside(centres, BOARD)
    wall = np.minimum(centres, SIZE - centres).min(-1)
    true = np.where(cube < 0, -cube, -np.minimum(np.minimum(cube, board), wall)) / space.edge
    assert np.allclose(space.edge, 0.05)
    assert space.distance.shape == (40, 32, 24)
    beside_board = board < space.edge
    near = (np.abs(true) < 3) & space.seen & ~beside_board
    error = (space.distance - true)[near]
    assert np.quantile(np.abs(error), 0.9) < 0.6
    assert abs(np.median(error)) < 0.2
    assert (space.distance[(true < -1.5) & space.seen] < 0).mean() > 0.99, "free space"
    deep = cube < -1.6 * space.edge
    assert (space.distance[deep] > 1).all()
    assert not space.seen[cube < -2.6 * space.edge].any()
    assert space.seen[true < -0.5].mean() > 0.97
    assert np.abs(space.distance).max() <= REACH
    in_board = (board < space.edge / 2).ravel()[space.surface]
    assert in_board.sum() > 60
    assert np.abs(space.distance.ravel()[space.surface[in_board]]).max() < 1, "a board has no inside"


def test_colours_and_views_are_those_of_the_pictures(space: SeenSpace):
    points = _centres(space).reshape(-1, 3)[space.surface]
    for thing, box in ((1, CUBE), (2, BOARD)):
        on = np.abs(_outside(points, box)) < 0.6 * space.edge
        assert on.sum() > 30
        assert np.allclose(np.median(space.colour[on], axis=0), COLOURS[thing] / 255, atol=0.02)
    assert space.views.min() >= 1
    assert 2 < np.median(space.views) <= space.views.max() <= 24


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path):
    room = write_box_room(tmp_path / "room")
    content = json.loads((room / "transforms.json").read_text())

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            see_space(room, 16)
        assert "\n" not in str(caught.value)

    (room / "transforms.json").write_text(json.dumps({**content, "k1": 0.1}))
    refused(r"no plain pinhole; take rooms made by")
    frames = [{key: value for key, value in frame.items() if key != "depth_file_path"} for frame in content["frames"]]
    (room / "transforms.json").write_text(json.dumps({**content, "frames": frames}))
    refused(r"lacks what voxelize needs \(KeyError\('depth_file_path'\)\)")
    (room / "transforms.json").write_text(json.dumps(content))
    cv2.imwrite(str(room / "depth" / "0003.png"), np.zeros((4, 4), np.uint16))
    refused(r"0003\.png: is damaged or not 64x48")
    (room / "depth" / "0003.png").unlink()
    refused(r"0003\.png: cannot be read")
