"""Masks and proposals of scenes: they follow boxes through every change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_rooms import EDGE, write_toy_room, write_toy_rooms

from rcnn.boxes import aabb_to_obb, obb_to_aabb
from rcnn.data import AugmentationConfig, GridDataset, SceneBatch, SceneReadingConfig, augment, find_scenes
from rcnn.data.grid_transform import GridTransform
from rcnn.errors import InputError
from rcnn.grids import GridTruth, read_density_grid, write_grid_truth
from rcnn.grids.npz import write_npz

BOXES = torch.tensor([[6.0, 5, 2, 12, 15, 9], [18, 16, 1, 25, 22, 6]])
SHAPE = (30, 26, 12)


def ids() -> torch.Tensor:
    result = torch.zeros(SHAPE, dtype=torch.int32)
    for row, box in enumerate(BOXES.long().tolist()):
        result[box[0] : box[3], box[1] : box[4], box[2] : box[5]] = row + 1
    return result


def extents(instances: torch.Tensor, row: int) -> torch.Tensor:
    places = (instances == row + 1).nonzero()
    return torch.cat([places.amin(0), places.amax(0) + 1]).float()


@pytest.mark.parametrize("rotated", [False, True])
def test_masks_stay_in_their_boxes(rotated: bool) -> None:
    """With small turns as well, where a box is enclosed by another and voxels are rounded."""
    config = AugmentationConfig(0.5, 0.5, 0.5, 0.5)
    truth = aabb_to_obb(BOXES) if rotated else BOXES
    small = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        found = augment(config, torch.rand(4, *SHAPE), truth, rng, aabb_to_obb(BOXES), ids(), truth)
        assert found.instances is not None
        assert found.instances.shape == found.features.shape[1:]
        assert found.instances.dtype == torch.int32
        assert found.proposals is not None
        boxes = obb_to_aabb(found.boxes) if rotated else found.boxes
        turned = bool(((boxes - boxes.round()).abs() > 1e-3).any())
        small += turned
        for row in range(len(boxes)):
            apart = (extents(found.instances, row) - boxes[row]).abs().max()
            assert float(apart) < (1.6 if turned else 1e-3)
        torch.testing.assert_close(found.proposals[: len(found.boxes)], found.boxes, atol=0.5 + 2.5 * turned, rtol=0)
    assert small > 5


def test_what_leaves_the_grid_leaves_the_map() -> None:
    features, boxes = torch.rand(4, *SHAPE), torch.tensor([[0.0, 0, 0, 3, 3, 3], [12, 10, 3, 18, 16, 9]])
    instances = torch.zeros(SHAPE, dtype=torch.int32)
    instances[:3, :3, :3], instances[12:18, 10:16, 3:9] = 1, 2
    config = AugmentationConfig(0, 0, 1, 1, max_turn=0, scale_range=(1.5, 1.5))
    found = augment(config, features, boxes, np.random.default_rng(0), None, instances)
    assert found.keep.tolist() == [False, True]
    assert found.instances is not None
    assert found.instances.unique().tolist() == [0, 1], "rows of the boxes that are left"


def test_turned_ids_are_those_at_the_centres() -> None:
    transform = GridTransform(1, True, False, angle=0.1, scale=0.95)
    moved = transform.apply_to_ids(ids())
    dense = transform.apply(torch.stack([(ids() == n).float() for n in (1, 2)]))
    for n in (1, 2):
        agree = ((dense[n - 1] > 0.5) == (moved == n)).float().mean()
        assert float(agree) > 0.98


def test_data_sets_give_masks_and_proposals(tmp_path: Path) -> None:
    rooms = write_toy_rooms(tmp_path / "rooms", train=2, val=0, stepped=True)
    reading = SceneReadingConfig(cache=tmp_path / "cache")
    found = find_scenes(rooms, "train")
    for number in range(2):
        world = EDGE * np.array([[1.0, 2, 3, 9, 8, 7], [0, 0, 0, 5, 5, 5]], np.float32)
        write_npz(tmp_path / "proposals" / f"room_{number:04d}.npz", {"boxes": world})
    scenes = GridDataset(found, reading, masks=True, proposals=tmp_path / "proposals")
    sample = scenes[0]
    assert sample.boxes is not None
    assert sample.instances is not None
    assert sample.proposals is not None
    for row, box in enumerate(sample.boxes):
        torch.testing.assert_close(extents(sample.instances, row), box)
    torch.testing.assert_close(sample.proposals, torch.tensor([[1.0, 2, 3, 9, 8, 7], [0, 0, 0, 5, 5, 5]]))
    batch = SceneBatch.collate([scenes[0], scenes[1]]).to("cpu")
    assert batch.instances[1] is not None
    assert batch.given_proposals() is not None
    plain = GridDataset(found, reading)
    assert plain[0].instances is None
    assert SceneBatch.collate([plain[0], scenes[1]]).given_proposals() is None


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    write_toy_room(tmp_path / "train" / "room_0000", 0)
    folder = tmp_path / "train" / "room_0000" / "grid"
    grid = read_density_grid(folder / "density.npz")
    truth = GridTruth(None, np.array([1], np.int32), ("block",), np.array([[1.0, 1, 1, 5, 5, 5]]))
    write_grid_truth(folder / "truth.npz", truth, grid)
    found, reading = find_scenes(tmp_path, "train"), SceneReadingConfig(cache=tmp_path / "cache")
    with pytest.raises(InputError, match=r"truth\.npz: holds boxes and no masks; leave scene 'room_0000' out"):
        GridDataset(found, reading, masks=True)
    assert GridDataset(found, reading)[0].boxes is not None
    for boxes, message in ((np.zeros((3, 7)), r"holds boxes \(3, 7\) where \(N, 6\) belong"), (None, "holds no boxes")):
        write_npz(tmp_path / "room_0000.npz", {"scores": np.zeros(3)} if boxes is None else {"boxes": boxes})
        with pytest.raises(InputError, match=message):
            GridDataset(found, reading, proposals=tmp_path)
