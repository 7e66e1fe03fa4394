"""A tiny room on disk: what the files promise each other, and what failures leave behind."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rcnn.rooms import RoomConfig, make_room, room as room_module
from rcnn.rooms.irradiance import IrradianceConfig

QUICK_LIGHT = IrradianceConfig(sky_strata=2, light_strata=1, bounces=1, smoothing=1)
TINY = RoomConfig(
    width=80, height=60, num_views=8, num_held_out=2, samples_per_pixel=1, voxel_resolution=80, light=QUICK_LIGHT
)


@pytest.fixture(scope="module")
def tiny_room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_room(tmp_path_factory.mktemp("rooms") / "tiny", TINY)


def _image(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    picture = cv2.imread(str(path), flags)
    assert picture is not None, path
    return picture


def _read(room: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[np.ndarray]]:
    transforms = json.loads((room / "transforms.json").read_text())
    instances = json.loads((room / "instances.json").read_text())["instances"]
    names = [Path(frame["file_path"]).name for frame in transforms["frames"]]
    masks = [_image(room / "instance_masks" / name, cv2.IMREAD_UNCHANGED) for name in names]
    return transforms, instances, masks


def _contents(room: Path) -> dict[str, bytes]:
    return {str(path.relative_to(room)): path.read_bytes() for path in sorted(room.rglob("*")) if path.is_file()}


def test_same_seed_gives_same_bytes_for_any_number_of_workers(tiny_room: Path, tmp_path: Path):
    again = make_room(tmp_path / "again", RoomConfig(**{**vars(TINY), "num_workers": 1}))
    assert _contents(again) == _contents(tiny_room)


def test_files_fit_together(tiny_room: Path):
    transforms, instances, masks = _read(tiny_room)
    assert [row["id"] for row in instances] == list(range(1, len(instances) + 1))
    assert len({tuple(row["colour"]) for row in instances}) == len(instances)
    assert len(transforms["frames"]) == TINY.num_views
    held_out = transforms["test_filenames"]
    assert held_out == transforms["val_filenames"]
    assert len(held_out) == TINY.num_held_out
    assert sorted(transforms["train_filenames"] + held_out) == [frame["file_path"] for frame in transforms["frames"]]
    pixels = np.zeros(len(instances) + 1, int)
    for frame, mask in zip(transforms["frames"], masks, strict=True):
        picture = _image(tiny_room / frame["file_path"])
        assert picture.shape == (TINY.height, TINY.width, 3)
        assert mask.shape == (TINY.height, TINY.width)
        assert mask.dtype == np.uint16
        pixels += np.bincount(mask.ravel(), minlength=len(pixels))
    assert pixels[1:].tolist() == [row["pixels"] for row in instances]
    assert (pixels[1:] > 0).all()


def test_pictures_are_exposed_and_textured(tiny_room: Path):
    for path in sorted((tiny_room / "images").iterdir()):
        picture = _image(path).astype(float)
        assert 90 < picture.mean() < 215, path.name
        assert picture.std() > 20, path.name
        assert (picture.min(axis=2) >= 254).mean() < 0.25, path.name


def test_boxes_hold_the_voxels_of_their_instance(tiny_room: Path):
    _, instances, _ = _read(tiny_room)
    with np.load(tiny_room / "gt_voxels.npz") as grid:
        ids, low, high = grid["instances"], grid["bbox_min"], grid["bbox_max"]
    assert ids.dtype == np.int32
    assert max(ids.shape) == TINY.voxel_resolution
    edge = (high - low) / ids.shape
    np.testing.assert_allclose(edge, edge[0])
    for row in instances:
        cells = np.argwhere(ids == row["id"])
        assert len(cells) > 0, row["category"]
        centres = low + (cells + 0.5) * edge
        box_low, box_high = np.array(row["aabb"][:3]), np.array(row["aabb"][3:])
        assert (centres > box_low - edge).all()
        assert (centres < box_high + edge).all()
        # and the box is tight
        assert (centres.min(0) < box_low + 2 * edge).all(), row["category"]
        assert (centres.max(0) > box_high - 2 * edge).all(), row["category"]
        x, y, z, *size, yaw = row["obb"]
        offset = centres - (x, y, z)
        turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        assert (np.abs(offset @ turn.T) < np.array(size) / 2 + 1.5 * edge).all(), row["category"]


def test_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = 0
    write = room_module.write_png

    def interrupt(path: Path, image: np.ndarray) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        write(path, image)

    monkeypatch.setattr(room_module, "bake_irradiance", lambda pool, scene, *_: np.ones_like(scene.vertices))
    monkeypatch.setattr(room_module, "write_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_room(tmp_path / "parent" / "room", TINY)
    assert calls == 4
    assert list((tmp_path / "parent").iterdir()) == []


def test_existing_folder_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists already") as error:
        make_room(tmp_path, TINY)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    "values",
    [{"width": 0}, {"num_held_out": 0}, {"num_views": 5, "num_held_out": 5}, {"seed": -1}, {"num_workers": 0}],
)
def test_impossible_configs_are_refused(values: dict[str, Any]):
    with pytest.raises(ValueError, match="must"):
        RoomConfig(**values)
