"""Truth of a grid: boxes between frames, voxels resampled, and the rooms'."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rcnn.errors import InputError
from rcnn.grids import DensityGrid, GridTruth, read_grid_truth, write_grid_truth
from rcnn.grids.grid_truth import resample_ids, room_truth, scale_boxes

ROOMS = Path(__file__).parents[4] / "shared" / "data" / "rooms"


def _grid(shape=(10, 8, 6), low=(-1.0, 0, 0), edge=0.25, **more) -> DensityGrid:
    low = np.array(low)
    return DensityGrid(np.zeros((*shape, 4), np.float16), low, low + edge * np.array(shape), "sigma", **more)


def _corners(box: np.ndarray) -> np.ndarray:
    cosine, sine = np.cos(box[6]), np.sin(box[6])
    unit = np.array([[x, y] for x in (-0.5, 0.5) for y in (-0.5, 0.5)]) * box[3:5]
    return unit @ np.array([[cosine, sine], [-sine, cosine]]) + box[:2]


@pytest.mark.parametrize("yaw", [0.0, 0.4, np.pi / 2, -2.5])
def test_oriented_boxes_move_like_their_corners(yaw):
    box = np.array([[1.0, 2, 3, 4, 2, 1, yaw]])
    moved = scale_boxes(box, np.full(3, 0.5), np.array([1.0, 0, 2]))
    np.testing.assert_allclose(_corners(moved[0]), _corners(box[0]) * 0.5 + [1.0, 0])
    np.testing.assert_allclose(moved[0, [2, 5]], [3.5, 0.5])
    uneven = scale_boxes(box, np.array([2.0, 1, 3]), np.zeros(3))
    np.testing.assert_allclose(np.prod(uneven[0, 3:6]), 6 * np.prod(box[0, 3:6]))
    if yaw == np.pi / 2:
        np.testing.assert_allclose(_corners(uneven[0]), _corners(box[0]) * [2, 1], atol=1e-9)


@pytest.mark.parametrize("origin", ["cells", "nodes"])
def test_round_trip_is_in_world_units_on_disk(tmp_path: Path, origin):
    grid = _grid(origin=origin)
    ids = np.zeros(grid.resolution, np.int32)
    ids[2:4, 1:3, 0:2] = 70_000
    aabb, obb = np.array([[2.0, 1, 0, 4, 3, 2]]), np.array([[3.0, 2, 1, 2, 2, 2, 0.3]])
    truth = GridTruth(ids, np.array([70_000], np.int32), ("sofa",), aabb, obb)
    write_grid_truth(tmp_path / "t.npz", truth, grid)
    with np.load(tmp_path / "t.npz", allow_pickle=False) as data:
        np.testing.assert_allclose(data["aabb"][0, :3], grid.voxels_to_world(np.array([2.0, 1, 0])))
    read = read_grid_truth(tmp_path / "t.npz", grid)
    assert read.instances is not None
    np.testing.assert_array_equal(read.instances, ids)
    np.testing.assert_allclose(read.aabb, truth.aabb)
    np.testing.assert_allclose(read.obb, truth.obb)  # type: ignore[arg-type]
    assert (read.categories, read.ids.tolist()) == (("sofa",), [70_000])
    with pytest.raises(InputError, match="another box"):
        read_grid_truth(tmp_path / "t.npz", replace(grid, bbox_max=grid.bbox_max + 1))


def test_resampling_to_the_same_grid_changes_nothing_and_outside_is_background():
    ids = np.random.default_rng(0).integers(0, 5, (6, 5, 4))
    np.testing.assert_array_equal(resample_ids(ids, (6, 5, 4), np.ones(3), np.zeros(3)), ids)
    wider = resample_ids(ids, (8, 7, 6), np.ones(3), np.full(3, -1.0))
    np.testing.assert_array_equal(wider[1:-1, 1:-1, 1:-1], ids)
    assert wider.sum() == ids.sum()
    finer = resample_ids(ids, (12, 10, 8), np.full(3, 0.5), np.zeros(3))
    np.testing.assert_array_equal(finer, ids.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_coarser_cells_take_the_majority_and_ties_go_to_instances():
    ids = np.zeros((4, 2, 2), int)
    ids[0] = 7  # half of the first coarse cell
    ids[2, 0, 0] = 9  # an eighth of the second
    np.testing.assert_array_equal(resample_ids(ids, (2, 1, 1), np.full(3, 2.0), np.zeros(3)).ravel(), [7, 0])


@pytest.mark.skipif(not ROOMS.is_dir(), reason="no shared rooms on this machine")
def test_room_truth_fits_boxes_and_voxels():
    room = ROOMS / "room_001"
    with np.load(room / "gt_voxels.npz") as data:
        voxels, low, high = data["instances"], data["bbox_min"], data["bbox_max"]
    same = DensityGrid(np.zeros((*voxels.shape, 4), np.float16), low, high, "sigma")
    truth = room_truth(room, same)
    assert truth.instances is not None
    np.testing.assert_array_equal(truth.instances, voxels)
    moved = _grid((90, 70, 50), low - 0.2, float((high - low)[0]) / 80)
    other = room_truth(room, moved)
    assert other.instances is not None
    rows = json.loads((room / "instances.json").read_text())["instances"]
    assert other.ids.tolist() == sorted(row["id"] for row in rows)
    for number, box in zip(other.ids, other.aabb, strict=True):
        where = np.argwhere(other.instances == number)
        if len(where) > 50:
            assert (where.min(0) >= box[:3] - 1.5).all()
            assert (where.max(0) + 1 <= box[3:] + 1.5).all()
    np.testing.assert_allclose(moved.voxels_to_world(other.aabb[:, :3]), same.voxels_to_world(truth.aabb[:, :3]))


def test_damaged_rooms_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"gt_voxels\.npz"):
        room_truth(tmp_path, _grid())
    box = {"bbox_min": np.zeros(3), "bbox_max": np.ones(3)}
    np.savez(tmp_path / "gt_voxels.npz", instances=np.zeros((2, 2, 2), np.int32), **box)
    (tmp_path / "instances.json").write_text('{"instances": [{"id": "x", "aabb": [1]}]}')
    with pytest.raises(InputError, match=r"instances\.json"):
        room_truth(tmp_path, _grid())
