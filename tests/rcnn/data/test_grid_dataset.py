"""Scenes from the disk as samples and batches, the same in every process, and never held in memory."""

import copy
import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from scene_files import AABB, LOW, NAMES, OBB, SHAPE, grid_of, write_boxes, write_features, write_room
from torch import Tensor
from torch.utils.data import DataLoader

from rcnn.data import (
    LIKE_FIELDS,
    AugmentationConfig,
    BoxKind,
    GridDataset,
    GridSample,
    SampleKey,
    SceneBatch,
    SceneReadingConfig,
    find_scenes,
)
from rcnn.errors import InputError
from rcnn.grids import DensityGrid, GridTruth, write_density_grid
from rcnn.worker_pool import worker_pool

KINDS: dict[BoxKind, np.ndarray] = {"aabb": AABB, "obb": OBB}


@pytest.fixture
def reading(tmp_path: Path) -> SceneReadingConfig:
    return SceneReadingConfig(cache=tmp_path / "cache")


def truth(sample: GridSample) -> tuple[Tensor, Tensor]:
    assert sample.boxes is not None
    assert sample.labels is not None
    return sample.boxes, sample.labels


def same(one: GridSample, two: GridSample) -> bool:
    pairs = zip((one.features, *truth(one)), (two.features, *truth(two)), strict=True)
    return one.name == two.name and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("compress", [True, False])
def test_a_room(tmp_path: Path, reading: SceneReadingConfig, compress: bool):
    grid = write_room(tmp_path / "rooms" / "a", seen=True, compress=compress)
    for kind, boxes in KINDS.items():
        config = SceneReadingConfig(boxes=kind, cache=reading.cache)
        dataset = GridDataset(find_scenes(tmp_path / "rooms", None), config)
        (sample,) = dataset
        assert dataset.categories == ("bed", "chair")
        found, labels = truth(sample)
        assert [dataset.categories[label] for label in labels] == list(NAMES)
        assert (sample.features.dtype, found.dtype) == (torch.float32, torch.float32)
        expected = grid.rgb_alpha()
        np.testing.assert_array_equal(sample.features[:3], expected[:3])
        assert grid.seen is not None
        np.testing.assert_array_equal(sample.features[3], expected[3] * grid.seen)
        torch.testing.assert_close(found, torch.from_numpy(boxes).float())
        assert sample.frame is not None
        world = sample.frame.boxes_to_world(found)
        np.testing.assert_allclose(world[:, :3], LOW + 0.2 * boxes[:, :3], atol=1e-6)
        np.testing.assert_allclose(world[:, 3:6], 0.2 * boxes[:, 3:6] + (LOW if kind == "aabb" else 0), atol=1e-6)
    config = SceneReadingConfig(hide_unseen=False, cache=reading.cache)
    dataset = GridDataset(find_scenes(tmp_path / "rooms", None), config)
    np.testing.assert_array_equal(dataset[0].features, grid.rgb_alpha())
    assert dataset.report() is None


def test_an_object_thinner_than_a_voxel_has_a_box_of_one(tmp_path: Path, reading: SceneReadingConfig):
    rug = np.array([[1.0, 1, 0, 8, 5, 0.25]])
    obb = np.array([[4.5, 3, 0.125, 7, 4, 0.25, 0]])
    write_room(tmp_path / "rooms" / "a", GridTruth(None, np.array([1], np.int32), ("rug",), rug, obb))
    boxes: dict[BoxKind, list[float]] = {"aabb": [1, 1, 0, 8, 5, 1], "obb": [4.5, 3, 0.5, 7, 4, 1, 0]}
    for kind, expected in boxes.items():
        config = SceneReadingConfig(boxes=kind, cache=reading.cache)
        (sample,) = GridDataset(find_scenes(tmp_path / "rooms", None), config)
        torch.testing.assert_close(truth(sample)[0], torch.tensor([expected], dtype=torch.float32))


def test_published_scenes(tmp_path: Path, reading: SceneReadingConfig):
    """3D-FRONT's logarithms; their samples lie on the faces of the box, ours in voxels."""
    write_features(tmp_path / "features" / "s1.npz")
    for folder, boxes in (("aabb", AABB), ("obb", OBB)):
        write_boxes(tmp_path / folder / "s1.npy", boxes)
    np.savez(tmp_path / "3dfront_split.npz", train_scenes=["s1"])
    for kind, boxes in KINDS.items():
        config = SceneReadingConfig("3dfront", kind, cache=reading.cache)
        (sample,) = GridDataset(find_scenes(tmp_path, "train", "3dfront", kind), config)
        with np.load(tmp_path / "features" / "s1.npz") as data:
            values = data["rgbsigma"].astype(np.float16).astype(np.float32)
        np.testing.assert_allclose(sample.features[3], 1 - np.exp(-np.exp(values[..., 3]) / 100), rtol=1e-4)
        scale = (np.array(SHAPE) - 1) / SHAPE
        found, labels = truth(sample)
        np.testing.assert_allclose(found[:, :3], boxes[:, :3] * scale + 0.5, rtol=1e-6)
        assert labels.tolist() == [0, 0]
        assert sample.features.shape == (4, *SHAPE)


def test_a_table_of_scenes_needs_the_density_kind(tmp_path: Path, reading: SceneReadingConfig):
    write_features(tmp_path / "s1.npz", rgbsigma=np.full((*SHAPE, 4), 128, np.uint8))
    (tmp_path / "all.csv").write_text(",scene,rgbsigma_path,boxes_path\n0,s1,s1.npz,None\n")
    scenes = find_scenes(tmp_path / "all.csv", None, "general")
    with pytest.raises(InputError, match=r"s1\.npz.*--density-kind"):
        GridDataset(scenes, SceneReadingConfig("general", cache=reading.cache))
    stated = SceneReadingConfig("general", density_kind="alpha", cache=reading.cache)
    with pytest.raises(InputError, match="no truth"):
        GridDataset(scenes, stated)
    dataset = GridDataset(scenes, stated, AugmentationConfig(), needs_truth=False)
    assert dataset[0].boxes is dataset[0].labels is None
    torch.testing.assert_close(dataset[0].features, torch.full((4, *SHAPE), 128 / 255))
    with pytest.raises(ValueError, match="ground truth"):
        SceneBatch.collate([dataset[0]]).truth()


def test_no_objects_is_not_no_truth(tmp_path: Path, reading: SceneReadingConfig):
    none = GridTruth(None, np.zeros(0, np.int32), (), np.zeros((0, 6)))
    write_room(tmp_path / "rooms" / "a", none)
    write_room(tmp_path / "rooms" / "b")
    for kind, example in KINDS.items():
        columns = example.shape[1]
        config = SceneReadingConfig(boxes=kind, cache=reading.cache)
        dataset = GridDataset(find_scenes(tmp_path / "rooms", None), config, LIKE_FIELDS)
        assert [tuple(part.shape) for part in truth(dataset[0])] == [(0, columns), (0,)]
        boxes, _ = SceneBatch.collate([dataset[0], dataset[1]]).truth()
        assert [part.shape[1] for part in boxes] == [columns] * 2


def test_batches_are_padded(tmp_path: Path, reading: SceneReadingConfig):
    write_room(tmp_path / "rooms" / "a")
    write_room(tmp_path / "rooms" / "b", shape=(9, 8, 8))
    dataset = GridDataset(find_scenes(tmp_path / "rooms", None), reading)
    batch = SceneBatch.collate([dataset[0], dataset[1]])
    assert batch.names == ("a", "b")
    assert batch.grids.features.shape == (2, 4, 10, 8, 8)
    assert batch.grids.extents == (SHAPE, (9, 8, 8))
    assert torch.equal(batch.grids.features[0, :, :10, :6], dataset[0].features)
    boxes, labels = batch.to("cpu").truth()
    assert torch.equal(boxes[1], truth(dataset[1])[0])
    assert torch.equal(labels[1], truth(dataset[1])[1])


def _loaded(dataset: GridDataset, workers: int, batches: list[list[SampleKey]]) -> list[GridSample]:
    context = "spawn" if workers else None
    loader = DataLoader(
        dataset, batch_sampler=batches, collate_fn=tuple, num_workers=workers, multiprocessing_context=context
    )
    # As in torch's workers: sums over more threads may be rounded in another way.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    samples = [sample for batch in loader for sample in batch]
    torch.set_num_threads(threads)
    return samples


def test_augmentation_depends_on_seed_epoch_and_scene_alone(tmp_path: Path, reading: SceneReadingConfig):
    """Not on the number of workers, and not on what was loaded before, as after a resume."""
    for name in "abc":
        write_room(tmp_path / "rooms" / name, seed=ord(name))
    config = AugmentationConfig(aabb_turn_scale_probability=1, density_probability=1, floater_probability=1)
    dataset = GridDataset(find_scenes(tmp_path / "rooms", None), reading, config, seed=5)
    order = [[SampleKey(epoch, 2), SampleKey(epoch, 0)] for epoch in range(3)]
    samples = [_loaded(dataset, workers, order) for workers in (0, 2)]
    assert [sample.name for sample in samples[0]] == ["c", "a"] * 3
    assert all(same(one, two) for one, two in zip(*samples, strict=True))
    resumed = _loaded(dataset, 0, order[2:])
    assert all(same(one, two) for one, two in zip(resumed, samples[0][4:], strict=True))
    first, second = samples[0][1], samples[0][3]
    assert first.features.shape != second.features.shape or not torch.equal(first.features, second.features)
    assert first.frame is None
    assert same(dataset[0], dataset[SampleKey(0, 0)])
    other = copy.copy(dataset)
    other.seed = 6
    assert not same(other[SampleKey(1, 0)], second)


def test_labels_go_with_their_boxes(tmp_path: Path, reading: SceneReadingConfig):
    """Twice as large, the first object of the room leaves the grid."""
    write_room(tmp_path / "rooms" / "a")
    config = AugmentationConfig(0, 0, 0, 1, max_turn=0, scale_range=(2, 2), min_visible=0.3)
    dataset = GridDataset(find_scenes(tmp_path / "rooms", None), reading, config)
    boxes, labels = truth(dataset[0])
    assert boxes.tolist() == [[5, 1, 0, 10, 6, 8]]
    assert [dataset.categories[label] for label in labels] == ["bed"]


def test_categories_are_those_of_training(tmp_path: Path, reading: SceneReadingConfig):
    write_room(tmp_path / "rooms" / "a")
    scenes = find_scenes(tmp_path / "rooms", None)
    dataset = GridDataset(scenes, reading, categories=("table", "chair", "bed"))
    assert truth(dataset[0])[1].tolist() == [1, 2]
    with pytest.raises(InputError, match=r"truth\.npz: category 'bed' was not in training"):
        GridDataset(scenes, reading, categories=("chair",))


def _peak_growth(pickled: bytes) -> float:
    """MB by which reading all scenes of a data set several times raises the peak memory."""
    dataset = pickle.loads(pickled)
    dataset[0]
    before = _peak()
    for index in [*range(len(dataset))] * 2:
        dataset[index]
    return _peak() - before


def _peak() -> float:
    """MB of this process; getrusage would count what its parent was when it began."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_grids_stay_on_the_disk(tmp_path: Path, reading: SceneReadingConfig):
    """Twenty grids of 13 MB as floats cost what it takes to make one, whose temporaries come and go."""
    shape = (64, 112, 112)
    values = np.broadcast_to(np.arange(shape[2], dtype=np.float16)[:, None] / shape[2], (*shape, 4))
    grid = DensityGrid(values, np.zeros(3), 0.1 * np.array(shape), "alpha")
    for number in range(20):
        path = tmp_path / "rooms" / f"{number:02}" / "grid" / "density.npz"
        if number < 2:
            write_density_grid(path, grid, compress=number == 0)
        else:
            path.parent.mkdir(parents=True)
            path.hardlink_to(tmp_path / "rooms" / f"0{number % 2}" / "grid" / "density.npz")
    dataset = GridDataset(find_scenes(tmp_path / "rooms", None), reading, needs_truth=False)
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 100_000
    with worker_pool(1) as pool:
        assert pool.submit(_peak_growth, pickled).result() < 120, "of 257"


def test_progress_is_shown(tmp_path: Path, reading: SceneReadingConfig):
    for name in "ab":
        write_room(tmp_path / "rooms" / name)
    with Progress(console=Console(file=io.StringIO())) as progress:
        GridDataset(find_scenes(tmp_path / "rooms", None), reading, progress=progress)
    assert [(task.completed, task.total) for task in progress.tasks] == [(2, 2)]


def test_metadata_of_nerf_rcnn(tmp_path: Path, reading: SceneReadingConfig):
    write_features(tmp_path / "features" / "s1.npz")
    (tmp_path / "metadata").mkdir()
    row = {"id": 4, "aabb": [-0.5, 0.2, 0.2, 0.5, 0.8, 1.0], "obb": [0, 0.5, 0.6, 1, 0.6, 0.8, 0], "nyu40_class": "bed"}
    content = {"scene_bbox": [*LOW, *(LOW + 0.2 * np.array(SHAPE))], "instances": [row]}
    (tmp_path / "metadata" / "s1.json").write_text(json.dumps(content))
    (tmp_path / "dataset_split.json").write_text('{"test": ["s1"]}')
    config = SceneReadingConfig("nerf-rcnn", density_kind="alpha", cache=reading.cache)
    dataset = GridDataset(find_scenes(tmp_path, "test", "nerf-rcnn"), config)
    assert dataset.categories == ("bed",)
    assert truth(dataset[0])[0].shape == (1, 6)


def test_a_grid_that_changed_is_read_anew(tmp_path: Path, reading: SceneReadingConfig):
    write_room(tmp_path / "rooms" / "a")
    scenes = find_scenes(tmp_path / "rooms", None)
    before = GridDataset(scenes, reading)[0]
    write_room(tmp_path / "rooms" / "a", seed=1)
    after = GridDataset(scenes, reading)[0]
    np.testing.assert_array_equal(after.features, grid_of(seed=1).rgb_alpha())
    assert not torch.equal(before.features, after.features)
