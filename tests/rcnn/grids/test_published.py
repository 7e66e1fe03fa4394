"""The published data sets' layouts, made small with the axes and conventions that their scripts have."""

import json
from pathlib import Path

import numpy as np
import pytest

from rcnn.errors import InputError
from rcnn.grids import DensityGrid
from rcnn.grids.grid_file import mapped_grid
from rcnn.grids.published import (
    PublishedScene,
    listed_scenes,
    read_published_boxes,
    read_published_grid,
    read_published_truth,
    write_published_grid,
)

SHAPE = (6, 4, 5)
LOW, HIGH = np.array([0.0, 1.0, 2.0]), np.array([5.0, 4.0, 6.0])


def _values() -> np.ndarray:
    return np.random.default_rng(0).random((*SHAPE, 4), dtype=np.float32)


def _features(path: Path, **changes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"rgbsigma": _values(), "resolution": np.array(SHAPE), "bbox_min": LOW, "bbox_max": HIGH} | changes
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(("layout", "kind"), [("3dfront", "log"), ("hypersim", "alpha"), ("scannet", "sigma")])
def test_each_data_set_has_its_density(tmp_path: Path, layout, kind):
    grid = read_published_grid(_features(tmp_path / "a.npz"), layout)
    assert (grid.density_kind, grid.origin, grid.resolution) == (kind, "nodes", SHAPE)
    density = _values()[..., 3]
    expected = {
        "log": 1 - np.exp(-np.exp(density) / 100),
        "sigma": 1 - np.exp(-density / 100),
        "alpha": density,
    }
    np.testing.assert_allclose(grid.alpha(), expected[kind], rtol=1e-4, atol=1e-6)


def test_general_grids_need_a_kind(tmp_path: Path):
    path = _features(tmp_path / "a.npz")
    for layout in ("general", "nerf-rcnn"):
        with pytest.raises(InputError, match="--density-kind"):
            read_published_grid(path, layout)
        assert read_published_grid(path, layout, "alpha").density_kind == "alpha"


def test_flat_extraction_in_instant_ngp_axes(tmp_path: Path):
    """ngp's axes are the world's y, z and x, and x runs fastest."""
    ngp = _values().transpose(1, 2, 0, 3)
    flat = ngp.transpose(2, 1, 0, 3).reshape(-1, 4)
    order = [1, 2, 0]
    path = _features(
        tmp_path / "a.npz", rgbsigma=flat, resolution=np.array(ngp.shape[:3]), bbox_min=LOW[order], bbox_max=HIGH[order]
    )
    grid = read_published_grid(path, "3dfront")
    np.testing.assert_array_equal(grid.rgbsigma, _values())
    np.testing.assert_array_equal([grid.bbox_min, grid.bbox_max], [LOW, HIGH])
    half = _features(tmp_path / "b.npz", resolution=np.array(ngp.shape[:3]), bbox_min=LOW[order], bbox_max=HIGH[order])
    np.testing.assert_array_equal(read_published_grid(half, "3dfront").bbox_min, LOW)
    with pytest.raises(InputError, match="resolution"):
        read_published_grid(_features(tmp_path / "c.npz", resolution=np.array([9, 9, 9])), "3dfront")


def test_boxes_are_in_the_units_of_the_grid(tmp_path: Path):
    grid = read_published_grid(_features(tmp_path / "a.npz"), "3dfront")
    world = np.array([1.0, 1.5, 2.0, 3.0, 3.5, 5.0])
    scale = np.array(SHAPE) / (HIGH - LOW)  # the rule of their preprocessing
    np.save(tmp_path / "boxes.npy", np.concatenate([(world[:3] - LOW) * scale, (world[3:] - LOW) * scale])[None])
    boxes = read_published_boxes(tmp_path / "boxes.npy", grid)
    np.testing.assert_allclose(grid.voxels_to_world(boxes.reshape(2, 3)).ravel(), world)
    np.save(tmp_path / "obb.npy", np.array([[3.0, 2, 2, 2, 1, 1, np.pi / 2]]))
    truth = read_published_truth(PublishedScene("a", tmp_path / "a.npz", tmp_path / "obb.npy"), grid)
    assert truth.instances is None
    np.testing.assert_allclose(truth.aabb[0, 3:] - truth.aabb[0, :3], [5 / 6, 3 / 2, 4 / 5])
    np.save(tmp_path / "bad.npy", np.zeros((3, 5)))
    for name in ("bad.npy", "gone.npy"):
        with pytest.raises(InputError, match=name):
            read_published_boxes(tmp_path / name, grid)


def test_csv_files(tmp_path: Path):
    table = tmp_path / "all.csv"
    table.write_text(",scene,rgbsigma_path,boxes_path\n0,s1,features/s1.npz,obb/s1.npy\n1,s2,features/s2.npz,None\n")
    first, second = listed_scenes(table)
    assert first.grid == tmp_path / "features" / "s1.npz"
    assert first.boxes == tmp_path / "obb" / "s1.npy"
    assert second.boxes is None
    table.write_text("scene,path\ns1,features/s1.npz\n")
    with pytest.raises(InputError, match="needs the columns"):
        listed_scenes(table)
    with pytest.raises(InputError, match="cannot be read"):
        listed_scenes(tmp_path / "none.csv")


def test_nerf_rcnn_masks_and_metadata(tmp_path: Path):
    _features(tmp_path / "features" / "s1.npz")
    for folder in ("masks", "metadata"):
        (tmp_path / folder).mkdir()
    ids = np.zeros(SHAPE, np.uint8)
    ids[1:3, 1:2, 0:2] = 4
    np.save(tmp_path / "masks" / "s1.npy", ids)
    row = {"id": 4, "aabb": [1.0, 1.5, 2.0, 3.0, 3.5, 5.0], "obb": [2.0, 2.5, 3.5, 2, 2, 3, 0], "nyu40_class": "bed"}
    (tmp_path / "metadata" / "s1.json").write_text(json.dumps({"scene_bbox": [*LOW, *HIGH], "instances": [row]}))
    files = (tmp_path / folder / f"s1.{ending}" for folder, ending in (("masks", "npy"), ("metadata", "json")))
    scene = PublishedScene("s1", tmp_path / "features" / "s1.npz", None, *files)
    grid = read_published_grid(scene.grid, "nerf-rcnn", "alpha")
    truth = read_published_truth(scene, grid)
    assert truth.categories == ("bed",)
    assert truth.instances is not None
    np.testing.assert_array_equal(truth.instances, ids)
    assert truth.instances.dtype == np.int32
    np.testing.assert_allclose(grid.voxels_to_world(truth.aabb.reshape(2, 3)).ravel(), row["aabb"])
    np.save(tmp_path / "masks" / "s1.npy", ids[1:])
    with pytest.raises(InputError, match=r"s1\.json"):
        read_published_truth(scene, grid)


def test_our_grids_in_the_published_layout(tmp_path: Path):
    values = _values() * [1, 1, 1, 20]
    seen = np.random.default_rng(1).random(SHAPE) < 0.5
    high = LOW + 0.5 * np.array(SHAPE)
    grid = DensityGrid(values.astype(np.float32), LOW, high, "sigma", seen=seen)
    write_published_grid(tmp_path / "a.npz", grid)
    read = read_published_grid(tmp_path / "a.npz", "general")
    np.testing.assert_allclose(read.alpha(), np.where(seen, grid.alpha(), 0), atol=1e-6)
    np.testing.assert_allclose(read.as_cells().bbox_min, grid.bbox_min)
    np.testing.assert_allclose(read.as_cells().bbox_max, grid.bbox_max)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        assert data["rgbsigma"].dtype == np.float32
        assert {"rgbsigma", "resolution", "bbox_min", "bbox_max", "scale", "offset"} <= set(data.files)
        np.testing.assert_allclose(data["rgbsigma"][..., :3], values[..., :3], atol=1e-6)


def test_uncompressed_published_grids_are_mapped_where_they_are(tmp_path: Path):
    values = np.random.default_rng(0).random((80, 50, 40, 4), dtype=np.float32)
    path = _features(tmp_path / "a.npz", rgbsigma=values, resolution=np.array(values.shape[:3]))
    grid = mapped_grid(path, tmp_path / "cache", lambda file: read_published_grid(file, "hypersim"))
    assert isinstance(grid.rgbsigma, np.memmap)
    assert not (tmp_path / "cache").exists()
    np.savez_compressed(path, **dict(np.load(path)))
    copied = mapped_grid(path, tmp_path / "cache", lambda file: read_published_grid(file, "scannet"))
    assert isinstance(copied.rgbsigma, np.memmap)
    assert (copied.density_kind, copied.alpha_distance, copied.origin) == ("sigma", 0.01, "nodes")
