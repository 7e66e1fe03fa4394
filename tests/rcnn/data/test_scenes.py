"""Splits: folders, split files of both kinds, and those that are wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from scene_files import write_boxes, write_features, write_room

from rcnn.data import SceneFiles, find_scenes
from rcnn.errors import InputError
from rcnn.grids.published import Layout, PublishedScene


def error(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        find_scenes(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def published(scene: SceneFiles) -> PublishedScene:
    assert scene.published is not None
    return scene.published


def names(*arguments, **options) -> list[str]:
    return [scene.name for scene in find_scenes(*arguments, **options)]


def test_folders_of_rooms(tmp_path: Path):
    for name in ("train/b", "train/a", "test/c"):
        write_room(tmp_path / name, None)
    (tmp_path / "train" / ".partial" / "grid").mkdir(parents=True)
    (tmp_path / "train" / "pictures").mkdir()
    assert names(tmp_path, "train") == ["a", "b"]
    assert names(tmp_path / "train", None) == ["a", "b"]
    (scene,) = find_scenes(tmp_path, "test")
    assert scene.grid == tmp_path / "test" / "c" / "grid" / "density.npz"
    assert scene.truth is None
    assert names(tmp_path / "test" / "c", None) == ["c"], "a room by itself"
    # A room that was photographed and has no grid yet is not passed over.
    (tmp_path / "test" / "d").mkdir()
    (tmp_path / "test" / "d" / "transforms.json").write_text("{}")
    assert names(tmp_path, "test") == ["c", "d"]
    (tmp_path / "train" / "a" / "grid").rename(tmp_path / "train" / "a" / "voxels")
    assert names(tmp_path / "train", None, grid_folder="voxels") == ["a", "b"]
    assert "needs a folder for each split" in error(tmp_path, "val")
    assert "no scenes" in error(tmp_path / "train" / "pictures", None)
    assert "no such folder" in error(tmp_path / "nowhere", "train")


def test_rooms_listed_in_a_file(tmp_path: Path):
    for name in ("a", "b", "deep/c"):
        write_room(tmp_path / name)
    listed = {"train": ["b", "deep/c"], "val": [], "test": ["gone"]}
    (tmp_path / "dataset_split.json").write_text(json.dumps(listed))
    first, second = find_scenes(tmp_path, "train")
    assert (first.name, second.name) == ("b", "deep/c")
    assert second.truth == tmp_path / "deep" / "c" / "grid" / "truth.npz"
    # That it is not there is found when it is opened, so that it can be skipped.
    assert names(tmp_path, "test") == ["gone"]
    assert "val has no scenes" in error(tmp_path, "val")
    assert "train, val, test" in error(tmp_path, "training")
    np.savez(tmp_path / "other.npz", train_scenes=["a"], val=np.array([]))
    assert names(tmp_path, "train", split_file=tmp_path / "other.npz") == ["a"]
    assert names(tmp_path, None, split_file=tmp_path / "other.npz") == ["a"]
    np.savez(tmp_path / "my_split.npz", train_scenes=["a"])
    assert "name one" in error(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "not valid JSON"),
        ("[]", "object"),
        ('{"train": "a"}', "list of scene names"),
        ('{"train": [1]}', "list of scene names"),
        ('{"train": ["a", "a"]}', "twice"),
        ('{"train": ["../a"]}', "no scene"),
        ('{"train": ["/etc"]}', "no scene"),
        ('{"train": [""]}', "no scene"),
    ],
)
def test_split_files_that_are_wrong(tmp_path: Path, content: str, message: str):
    (tmp_path / "dataset_split.json").write_text(content)
    text = error(tmp_path, "train")
    assert message in text
    assert "dataset_split.json" in text


def test_split_arrays_that_are_wrong(tmp_path: Path):
    path = tmp_path / "a_split.npz"
    np.savez(path, train_scenes=np.array([{"a": 1}], dtype=object))
    assert "pickled" in error(tmp_path, "train")
    np.savez(path, train_scenes=np.array([["a"]]))
    assert "one-dimensional" in error(tmp_path, "train")
    path.write_bytes(path.read_bytes()[:60])
    assert "a_split.npz" in error(tmp_path, "train")


def test_published_layouts(tmp_path: Path):
    write_features(tmp_path / "features" / "s1.npz")
    write_boxes(tmp_path / "obb" / "s1.npy", np.zeros((0, 7)))
    np.savez(tmp_path / "3dfront_split.npz", train_scenes=["s1", "s2"], test_scenes=np.array([], str))
    layouts: tuple[Layout, ...] = ("3dfront", "hypersim", "scannet")
    for layout in layouts:
        first, second = find_scenes(tmp_path, "train", layout, "obb")
        assert (published(first).boxes, published(second).boxes) == (tmp_path / "obb" / "s1.npy", None)
        assert second.grid == tmp_path / "features" / "s2.npz"
        assert published(find_scenes(tmp_path, "train", layout)[0]).boxes is None
    (tmp_path / "3dfront_split.npz").unlink()
    assert names(tmp_path, None, "scannet") == ["s1"]
    assert "_split.npz" in error(tmp_path, "train", "3dfront")
    for folder, name in (("masks", "s1.npy"), ("metadata", "s1.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    (tmp_path / "dataset_split.json").write_text('{"val": ["s1"]}')
    (scene,) = find_scenes(tmp_path, "val", "nerf-rcnn")
    assert published(scene).masks == tmp_path / "masks" / "s1.npy"
    assert scene.truth_file == published(scene).metadata
    table = tmp_path / "val.csv"
    table.write_text(",scene,rgbsigma_path,boxes_path\n0,s1,features/s1.npz,None\n1,s2,features/s2.npz,obb/s1.npy\n")
    assert names(table, None, "general") == ["s1", "s2"]
    assert "one split" in error(table, "train", "general")
    assert "unknown layout" in error(tmp_path, "train", "matterport")
