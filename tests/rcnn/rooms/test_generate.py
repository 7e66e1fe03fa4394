"""A generated room on disk: its files agree with each other, pixel by pixel and voxel by voxel."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rcnn.errors import InputError
from rcnn.rooms import generate
from rcnn.rooms.assets import shipped_pack
from rcnn.rooms.assets.classes import furniture_classes
from rcnn.rooms.generate import GeneratedRoomConfig, back_project, generate_room
from rcnn.rooms.irradiance import IrradianceConfig
from rcnn.rooms.layouts.arrangement import LayoutError
from rcnn.rooms.layouts.supply import FurnitureSupply
from rcnn.rooms.render import Pinhole

TINY = GeneratedRoomConfig(
    width=96, height=72, num_views=12, num_held_out=3, voxel_resolution=160, light=IrradianceConfig(2, 1, 1, 1)
)


@pytest.fixture(scope="module")
def supply() -> FurnitureSupply:
    return FurnitureSupply(shipped_pack(), "train")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, supply: FurnitureSupply) -> Path:
    folder = tmp_path_factory.mktemp("rooms") / "room"
    generate_room(folder, supply, 5, 2, TINY, "living_room")
    return folder


class Truth:
    """All files of a room in memory."""

    def __init__(self, room: Path):
        self.transforms: dict[str, Any] = json.loads((room / "transforms.json").read_text())
        self.content: dict[str, Any] = json.loads((room / "instances.json").read_text())
        self.rows: list[dict[str, Any]] = self.content["instances"]
        frames = self.transforms["frames"]
        self.poses = [np.array(frame["transform_matrix"]) for frame in frames]
        self.pictures = [self._image(room / frame["file_path"], cv2.IMREAD_COLOR) for frame in frames]
        self.ids, self.semantic, self.depth = (
            [self._image(room / frame[key], cv2.IMREAD_UNCHANGED) for frame in frames]
            for key in ("instance_mask_path", "semantic_file_path", "depth_file_path")
        )
        with np.load(room / "gt_voxels.npz", allow_pickle=False) as grid:
            self.grid = {name: grid[name] for name in grid.files}
        self.edge = (self.grid["bbox_max"] - self.grid["bbox_min"]) / self.grid["instances"].shape
        focal = self.transforms["fl_x"]
        self.camera = Pinhole(self.transforms["w"], self.transforms["h"], focal)

    @staticmethod
    def _image(path: Path, flags: int) -> np.ndarray:
        image = cv2.imread(str(path), flags)
        assert image is not None, path
        return image

    def points(self, view: int) -> np.ndarray:
        """World points of all pixels, in the order of the flattened maps."""
        assert (self.depth[view] > 0).all(), "a ray left the room"
        return back_project(self.depth[view] / 1000, self.camera, self.poses[view])


@pytest.fixture(scope="module")
def truth(room: Path) -> Truth:
    return Truth(room)


def test_layout_of_the_folder_and_counts(truth: Truth):
    held_out = truth.transforms["test_filenames"]
    assert len(held_out) == TINY.num_held_out
    assert sorted(truth.transforms["train_filenames"] + held_out) == [
        frame["file_path"] for frame in truth.transforms["frames"]
    ]
    classes = furniture_classes()
    count = len(truth.rows) + 1
    training = [frame["file_path"] not in held_out for frame in truth.transforms["frames"]]
    pixels = np.stack([np.bincount(ids.ravel(), minlength=count) for ids in truth.ids])
    assert [row["id"] for row in truth.rows] == list(range(1, count))
    for row in truth.rows:
        assert row["semantic_id"] == classes[row["category"]].semantic_id
        assert row["pixels"] == pixels[:, row["id"]].sum() > 0
        assert row["views"] == (pixels[:, row["id"]] > 0).sum()
        assert row["training_views"] == (pixels[training, row["id"]] > 0).sum() >= 2
        assert row["voxels"] == (truth.grid["instances"] == row["id"]).sum() > 0
        assert row["surface_voxels"] == (truth.grid["surface"] == row["id"]).sum()
    of_id = np.array([0, *(row["semantic_id"] for row in truth.rows)])
    for ids, semantic, picture in zip(truth.ids, truth.semantic, truth.pictures, strict=True):
        assert ids.dtype == semantic.dtype == np.uint16
        np.testing.assert_array_equal(of_id[ids], semantic)
        assert picture.shape == (TINY.height, TINY.width, 3)
        assert 50 < picture.mean() < 210
        assert picture.std() > 12


def test_pixels_land_in_voxels_of_their_instance(truth: Truth):
    ids = truth.grid["instances"]
    assert ids.dtype == truth.grid["surface"].dtype == np.int32
    padded = np.pad(ids, 1)
    right = exact = total = 0
    for view in range(len(truth.poses)):
        seen = truth.ids[view].ravel()
        thing = seen > 0
        cell = np.floor((truth.points(view)[thing] - truth.grid["bbox_min"]) / truth.edge).astype(int)
        cell = np.clip(cell, 0, np.array(ids.shape) - 1) + 1
        agrees = np.zeros(len(cell), bool)
        for step in np.ndindex(3, 3, 3):
            agrees |= padded[tuple((cell + np.array(step) - 1).T)] == seen[thing]
        exact += (padded[tuple(cell.T)] == seen[thing]).sum()
        right += agrees.sum()
        total += len(agrees)
    assert total > 20_000
    assert right / total >= 0.995
    assert exact / total >= 0.93


def test_pixels_land_on_the_same_instance_in_other_views(truth: Truth):
    right = total = 0
    width, height, focal = truth.camera.width, truth.camera.height, truth.camera.focal
    for first in range(len(truth.poses)):
        points, ids = truth.points(first), truth.ids[first].ravel()
        for second in range(len(truth.poses)):
            if first == second:
                continue
            pose = truth.poses[second]
            local = (points - pose[:3, 3]) @ pose[:3, :3]
            with np.errstate(divide="ignore", invalid="ignore"):
                column = np.floor(width / 2 + focal * local[:, 0] / -local[:, 2])
                row = np.floor(height / 2 - focal * local[:, 1] / -local[:, 2])
            inside = (local[:, 2] < -0.1) & (column >= 1) & (column < width - 1) & (row >= 1) & (row < height - 1)
            i, j = row[inside].astype(int), column[inside].astype(int)
            visible = np.abs(truth.depth[second][i, j] / 1000 + local[inside, 2]) < 0.02
            agrees = np.zeros(len(i), bool)
            for di, dj in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
                agrees |= truth.ids[second][i + di, j + dj] == ids[inside]
            right += (agrees & visible).sum()
            total += visible.sum()
    assert total > 50_000
    assert right / total >= 0.995


def test_voxels_that_training_views_see_are_counted(truth: Truth):
    held_out = set(truth.transforms["test_filenames"])
    counted = np.zeros(truth.grid["instances"].shape, int)
    for view, frame in enumerate(truth.transforms["frames"]):
        if frame["file_path"] in held_out:
            continue
        cell = np.floor((truth.points(view) - truth.grid["bbox_min"]) / truth.edge).astype(int)
        cell = np.unique(np.clip(cell, 0, np.array(counted.shape) - 1), axis=0)
        counted[tuple(cell.T)] += 1
    # depth is rounded to millimetres, so a point on the border of two voxels may change sides
    assert (counted > 0).sum() == pytest.approx((truth.grid["views"] > 0).sum(), rel=0.02)
    assert counted.sum() == pytest.approx(truth.grid["views"].sum(), rel=0.02)
    seen = truth.grid["surface"][truth.grid["views"] > 0]
    for row in truth.rows:
        assert row["seen_voxels"] == (seen == row["id"]).sum() > 0


def test_boxes_hold_surfaces(truth: Truth):
    for row in truth.rows:
        cells = np.argwhere(truth.grid["surface"] == row["id"])
        centres = truth.grid["bbox_min"] + (cells + 0.5) * truth.edge
        low, high = np.array(row["aabb"][:3]), np.array(row["aabb"][3:])
        assert (centres > low - truth.edge).all()
        assert (centres < high + truth.edge).all()
        x, y, z, *size, yaw = row["obb"]
        turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        assert (np.abs((centres - (x, y, z)) @ turn.T) < np.array(size) / 2 + 1.5 * truth.edge).all()


def test_same_seed_same_bytes(room: Path, supply: FurnitureSupply, tmp_path: Path):
    # a supply that has drawn before gives the same room
    generate_room(tmp_path / "again", supply, 5, 2, TINY, "living_room")
    files = sorted(path.relative_to(room) for path in room.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (room / name).read_bytes(), name


def test_failed_layouts_are_tried_again_and_at_last_reported(
    supply: FurnitureSupply, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried = []

    def fail(supply: FurnitureSupply, rng: np.random.Generator, kind: str | None) -> None:
        tried.append(rng.integers(1 << 60))
        raise LayoutError("no wall is free for a bed")

    monkeypatch.setattr(generate, "design_room", fail)
    with pytest.raises(InputError, match=r"room: no room in 4 attempts.* no wall is free for a bed.*--seed") as error:
        generate_room(tmp_path / "room", supply, 0, 0, replace(TINY, attempts=4))
    assert len(set(tried)) == 4, "every attempt has a seed of its own"
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [{"width": 0}, {"num_held_out": 0}, {"num_views": 5, "num_held_out": 5}])
def test_impossible_settings_are_refused(values: dict[str, Any]):
    with pytest.raises(InputError, match="must"):
        GeneratedRoomConfig(**values)
