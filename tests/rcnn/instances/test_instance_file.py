"""Instances on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from instance_nerfstudio.instance_voxels import InstanceVoxels
from rcnn.boxes import aabb_to_obb
from rcnn.data import GridFrame
from rcnn.errors import InputError
from rcnn.instances import SceneInstances, VoxelMasks, read_instances, write_instances

FRAME = GridFrame(np.array([-2.0, 0.5, 0.0]), np.array([0.1, 0.1, 0.12]), np.eye(4))


def scene(rotated: bool = False) -> SceneInstances:
    masks = torch.zeros(2, 8, 6, 5, dtype=torch.bool)
    masks[0, 1:4, 2:5, :3] = masks[1, 3:6, 1:4] = True
    boxes = torch.tensor([[1.0, 2, 0, 4, 5, 3], [3, 1, 0, 6, 4, 5]])
    return SceneInstances(
        aabb_to_obb(boxes) if rotated else boxes, torch.tensor([0.9, 0.4]), torch.tensor([1, 0], dtype=torch.int32),
        VoxelMasks.of(masks), ("bed", "chair"),
    )  # fmt: skip


@pytest.mark.parametrize("rotated", [False, True])
def test_there_and_back(rotated: bool, tmp_path: Path) -> None:
    path = tmp_path / "room.npz"
    write_instances(path, scene(rotated), FRAME)
    with np.load(path, allow_pickle=False) as data:
        assert data["masks"].shape == (2, 8, 6, 5)
        assert data["masks"].dtype == bool
        assert data["labels"].dtype == np.int32
        assert data["categories"].tolist() == ["bed", "chair"]
        np.testing.assert_allclose(data["bbox_max"], [-1.2, 1.1, 0.6])
        first = [-1.75, 0.85, 0.18] if rotated else [-1.9, 0.7, 0.0]
        np.testing.assert_allclose(data["boxes"][0, :3], first, atol=1e-6)
    found, frame = read_instances(path)
    assert found.names == ["chair", "bed"]
    torch.testing.assert_close(found.boxes, scene(rotated).boxes)
    torch.testing.assert_close(found.scores, scene().scores)
    assert torch.equal(found.masks.dense(), scene().masks.dense())
    np.testing.assert_allclose(frame.voxel_size, FRAME.voxel_size)


def test_the_instance_field_learns_from_it(tmp_path: Path) -> None:
    write_instances(tmp_path / "room.npz", scene(), FRAME)
    voxels = InstanceVoxels(tmp_path / "room.npz", torch.eye(3, 4), 1.0)
    points, ids = voxels.sample(500)
    place = (points.numpy() - FRAME.box_min) / FRAME.voxel_size
    masks = scene().masks.dense()
    assert set(ids.tolist()) == {1, 2}
    for point, instance in zip(np.floor(place + 1e-6).astype(int), ids.tolist(), strict=True):
        assert masks[(instance - 1, *point)]


def test_nothing_found_is_a_result_too(tmp_path: Path) -> None:
    none = scene().select(torch.zeros(2, dtype=torch.bool))
    write_instances(tmp_path / "none.npz", none, FRAME)
    found, _ = read_instances(tmp_path / "none.npz")
    assert len(found) == 0
    assert found.masks.dense().shape == (0, 8, 6, 5)


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "room.npz"
    with pytest.raises(InputError, match="no such file"):
        read_instances(path)
    np.savez(path, masks=np.zeros((2, 3, 4)), categories=np.array(["a"]))
    with pytest.raises(InputError, match=r"room.npz: holds no instances .*nerf-rcnn predict"):
        read_instances(path)
    with pytest.raises(ValueError, match="2 boxes, 1 scores"):
        SceneInstances(scene().boxes, scene().scores[:1], scene().labels, scene().masks, ("a",))
