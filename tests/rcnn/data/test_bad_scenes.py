"""What is wrong with a scene is said in one line that names the file, or the scene is left out and reported."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scene_files import AABB, HIGH, LOW, NAMES, OBB, SHAPE, write_boxes, write_features, write_room

from rcnn.data import BoxKind, GridDataset, SceneReadingConfig, find_scenes
from rcnn.errors import InputError
from rcnn.grids import DensityGrid, GridTruth, write_density_grid
from rcnn.grids.npz import read_npz, write_npz

GRID, TRUTH = Path("grid/density.npz"), Path("grid/truth.npz")


def change(file: Path, **arrays) -> None:
    write_npz(file, read_npz(file) | arrays)


def bomb(file: Path) -> None:
    """As many zeros as the header says, 20 MB, which are next to nothing in the file."""
    write_npz(file, {"rgbsigma": np.zeros((250, 100, 100, 4), np.float16)})
    assert file.stat().st_size < 100_000


def lie(file: Path) -> None:
    """The directory of the archive says that the grid has 5 GB."""
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        size = archive.infolist()[0].file_size
    place = data.rindex(b"PK\x01\x02")
    while data.rfind(b"PK\x01\x02", 0, place) >= 0:
        place = data.rfind(b"PK\x01\x02", 0, place)
    assert int.from_bytes(data[place + 24 : place + 28], "little") == size
    data[place + 24 : place + 28] = (4_000_000_000).to_bytes(4, "little")
    file.write_bytes(data)


def nan_values(compress: bool, shape: tuple[int, int, int]) -> Callable[[Path], None]:
    def make(room: Path) -> None:
        values = np.zeros((*shape, 4), np.float16)
        values[-1, -1, -1, 0] = np.nan
        arrays = read_npz(room / GRID) | {
            "rgbsigma": values,
            "resolution": np.array(shape),
            "bbox_max": LOW + 0.2 * np.array(shape),
        }
        write_npz(room / GRID, arrays, compress)

    return make


def truth(**arrays) -> Callable[[Path], None]:
    return lambda room: change(room / TRUTH, **arrays)


def grid(**arrays) -> Callable[[Path], None]:
    return lambda room: change(room / GRID, **arrays)


def world(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([LOW + 0.2 * boxes[:, :3], LOW + 0.2 * boxes[:, 3:]], 1)


FLAT, FAR, NAN = (AABB.copy() for _ in range(3))
FLAT[1, 4] = FLAT[1, 1]
FAR[1, [0, 3]] += 20
NAN[0, 0] = np.nan

CASES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no grid": (lambda room: (room / GRID).unlink(), "density.npz", "no such file"),
    "no truth": (lambda room: (room / TRUTH).unlink(), "density.npz", "no truth"),
    "no archive": (lambda room: (room / GRID).write_bytes(b"PK"), "density.npz", "not a readable"),
    "cut off": (lambda room: (room / GRID).write_bytes((room / GRID).read_bytes()[:-40]), "density.npz", "readable"),
    "bomb": (lambda room: bomb(room / GRID), "density.npz", "unpacks to 0.02 GB"),
    "lying directory": (lambda room: lie(room / GRID), "density.npz", "unpacks to 4 GB"),
    "other keys": (lambda room: write_npz(room / GRID, {"grid": np.zeros(3)}), "density.npz", "rgbsigma is missing"),
    "rank": (grid(rgbsigma=np.zeros((4, 4, 4))), "density.npz", "must be (W, L, H, 4)"),
    "rank of a number": (grid(format_version=np.array([1, 1])), "density.npz", "no density grid"),
    "rank of the box": (grid(bbox_min=np.zeros((2, 3))), "density.npz", "3 numbers"),
    "strings": (grid(bbox_min=np.array(["a", "b", "c"])), "density.npz", "density.npz"),
    "nan": (nan_values(True, SHAPE), "density.npz", "not numbers"),
    "nan in a mapped file": (nan_values(False, (64, 64, 33)), "density.npz", "not numbers"),
    "nan in the box": (grid(bbox_min=np.array([np.nan, 0, 0])), "density.npz", "bbox_min"),
    "another kind": (grid(density_kind=np.array("fog")), "density.npz", "unknown kind"),
    "truth of another grid": (truth(bbox_min=LOW + 1), "truth.npz", "another box"),
    "truth without keys": (lambda room: write_npz(room / TRUTH, {"a": np.zeros(1)}), "truth.npz", "no truth"),
    "rank of boxes": (truth(aabb=np.zeros((2, 2, 3))), "truth.npz", "truth.npz"),
    "too few boxes": (truth(aabb=world(AABB)[:1]), "truth.npz", "truth.npz"),
    "a nan box": (truth(aabb=world(NAN)), "truth.npz", "box 1 of 2 has numbers that are not finite"),
    "a flat box": (truth(aabb=world(FLAT)), "truth.npz", "box 2 of 2 has no volume"),
    "a box outside": (truth(aabb=world(FAR)), "truth.npz", "box 2 of 2 (25 2 1 29 5 7 voxels) lies outside"),
    "truth that is a bomb": (lambda room: bomb(room / TRUTH), "truth.npz", "unpacks to 0.02 GB"),
}


@pytest.mark.parametrize("case", CASES)
def test_rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str):
    damage, file, message = CASES[case]
    for name in ("bad", "good"):
        write_room(tmp_path / "rooms" / name)
    if "bomb" in case:
        monkeypatch.setattr("rcnn.data.scene_reading.MAX_GRID_BYTES", 10 << 20)
    damage(tmp_path / "rooms" / "bad")
    reading = SceneReadingConfig(cache=tmp_path / "cache")
    scenes = find_scenes(tmp_path / "rooms", None)
    with pytest.raises(InputError) as caught:
        GridDataset(scenes, reading)
    text = str(caught.value)
    assert "\n" not in text
    assert f"bad/grid/{file}" in text
    assert message in text
    dataset = GridDataset(scenes, reading, skip_bad=True)
    assert [dataset[index].name for index in range(len(dataset))] == ["good"]
    assert dataset.skipped == {"bad": text}
    report = dataset.report()
    assert report is not None
    assert report.startswith("1 of 2 scenes")
    assert text in report
    with pytest.raises(InputError, match="none of 1 scenes"):
        GridDataset(scenes[:1], reading, skip_bad=True)


def test_objects_are_not_unpickled(tmp_path: Path):
    write_room(tmp_path / "rooms" / "a")
    scenes = find_scenes(tmp_path / "rooms", None)
    for file in (GRID, TRUTH):
        path = tmp_path / "rooms" / "a" / file
        kept = path.read_bytes()
        np.savez(path, rgbsigma=np.array([{}], object), aabb=np.array([{}], object))
        with pytest.raises(InputError, match=rf"{file.name}.*pickled"):
            GridDataset(scenes, SceneReadingConfig(cache=tmp_path / "cache"))
        path.write_bytes(kept)


def test_kinds_of_boxes_do_not_mix(tmp_path: Path):
    """A room without OBBs; files with the other number of columns; a table with both."""
    cache = tmp_path / "cache"
    write_room(tmp_path / "rooms" / "a", GridTruth(None, np.array([1, 2], np.int32), NAMES, AABB))
    with pytest.raises(InputError, match=r"truth\.npz: holds AABBs alone.*--boxes aabb"):
        GridDataset(find_scenes(tmp_path / "rooms", None), SceneReadingConfig(boxes="obb", cache=cache))
    for name in ("s1", "s2"):
        write_features(tmp_path / "features" / f"{name}.npz")
    table = tmp_path / "all.csv"
    table.write_text(",scene,rgbsigma_path,boxes_path\n0,s1,features/s1.npz,one.npy\n1,s2,features/s2.npz,two.npy\n")
    write_boxes(tmp_path / "one.npy", AABB)
    write_boxes(tmp_path / "two.npy", OBB)
    scenes = find_scenes(table, None, "general")
    cases: tuple[tuple[BoxKind, str], ...] = (("aabb", "two"), ("obb", "one"))
    for kind, bad in cases:
        config = SceneReadingConfig("general", kind, "alpha", cache=cache)
        with pytest.raises(InputError, match=rf"{bad}\.npy: holds .*--boxes"):
            GridDataset(scenes, config)
        assert list(GridDataset(scenes, config, skip_bad=True).skipped) == ["s2" if bad == "two" else "s1"]


@pytest.mark.parametrize("content", ["wrong rank", "objects", "cut off", "huge", "outside"])
def test_published_boxes(tmp_path: Path, content: str):
    write_features(tmp_path / "features" / "s1.npz")
    np.savez(tmp_path / "a_split.npz", train_scenes=["s1"])
    path = write_boxes(tmp_path / "aabb" / "s1.npy", AABB)
    if content == "wrong rank":
        np.save(path, AABB[0])
    elif content == "objects":
        np.save(path, np.array([{}], object), allow_pickle=True)
    elif content == "cut off":
        path.write_bytes(path.read_bytes()[:-8])
    elif content == "huge":
        with path.open("wb") as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 50, 6)}
            np.lib.format.write_array_header_1_0(file, header)
    else:
        np.save(path, AABB + 100)
    scenes = find_scenes(tmp_path, "train", "hypersim")
    with pytest.raises(InputError, match=r"s1\.npy") as caught:
        GridDataset(scenes, SceneReadingConfig("hypersim", cache=tmp_path / "cache"))
    assert "\n" not in str(caught.value)


def test_metadata_that_is_wrong(tmp_path: Path):
    write_features(tmp_path / "features" / "s1.npz")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "dataset_split.json").write_text('{"val": ["s1"]}')
    box = [*LOW, *HIGH]
    for content in ({}, {"scene_bbox": box, "instances": ["a"]}, {"scene_bbox": box, "instances": [[1]]}):
        (tmp_path / "metadata" / "s1.json").write_text(json.dumps(content))
        config = SceneReadingConfig("nerf-rcnn", density_kind="alpha", cache=tmp_path / "cache")
        with pytest.raises(InputError, match=r"s1\.json"):
            GridDataset(find_scenes(tmp_path, "val", "nerf-rcnn"), config)


def test_boxes_partly_outside_are_cut(tmp_path: Path):
    aabb = np.array([[-1.0, 1, 1, 4, 3, 20]])
    obb = np.array([[0.5, 2, 8, 6, 2, 4, 0.3]])
    write_room(tmp_path / "rooms" / "a", GridTruth(None, np.array([1], np.int32), ("bed",), aabb, obb))
    cases: dict[BoxKind, list[float]] = {"aabb": [0, 1, 1, 4, 3, 8], "obb": [0.5, 2, 7, 6, 2, 2, 0.3]}
    for kind, expected in cases.items():
        config = SceneReadingConfig(boxes=kind, cache=tmp_path / "cache")
        boxes = GridDataset(find_scenes(tmp_path / "rooms", None), config)[0].boxes
        assert boxes is not None
        np.testing.assert_allclose(boxes[0], expected, atol=1e-5)


def test_a_cache_that_cannot_be_written(tmp_path: Path):
    write_room(tmp_path / "rooms" / "a")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="choose another --cache"):
        GridDataset(find_scenes(tmp_path / "rooms", None), SceneReadingConfig(cache=tmp_path / "cache"))


def test_a_scene_that_vanishes_during_training(tmp_path: Path):
    write_room(tmp_path / "rooms" / "a")
    dataset = GridDataset(find_scenes(tmp_path / "rooms", None), SceneReadingConfig(cache=tmp_path / "cache"))
    shutil.rmtree(tmp_path / "rooms" / "a")
    with pytest.raises(InputError, match="no such file"):
        dataset[0]


def test_a_good_file_is_read_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Uncompressed grids have no copy that proves them free of NaN, but a mark."""
    values = np.zeros((64, 64, 33, 4), np.float16)
    high = LOW + 0.2 * np.array(values.shape[:3])
    path = tmp_path / "rooms" / "a" / GRID
    write_density_grid(path, DensityGrid(values, LOW, high, "sigma"), compress=False)
    scenes, reading = find_scenes(tmp_path / "rooms", None), SceneReadingConfig(cache=tmp_path / "cache")
    GridDataset(scenes, reading, needs_truth=False)
    (mark,) = (tmp_path / "cache").rglob("*/*")
    assert mark.parent.name == "checked"
    monkeypatch.setattr("rcnn.data.scene_reading.np.isnan", lambda values: 1 / 0)
    GridDataset(scenes, reading, needs_truth=False)
    mark.unlink()
    with pytest.raises(ZeroDivisionError):
        GridDataset(scenes, reading, needs_truth=False)
