"""`nerf-rcnn train`, `eval`, `predict` and `visualize` with a NeRF-RCNN, on toy rooms."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from command_line import refused, run
from toy_rooms import TINY, TINY_HEADS, write_toy_rooms

from rcnn.data import GridDataset, SceneReadingConfig, find_scenes
from rcnn.detecting import find_instances
from rcnn.grids import read_density_grid
from rcnn.instances import read_instances
from rcnn.roi_heads import NeRFRCNN, NeRFRCNNConfig
from rcnn.training import Experiment, OptimizationConfig, RunConfig, train_rcnn
from rcnn.weights import DetectorNotes, save_detector
from rcnn.weights.detector_file import SHIPPED

CONFIG = NeRFRCNNConfig(TINY, TINY_HEADS, ("block", "tower"), resolution=36)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_rooms(tmp_path_factory.mktemp("toy"), train=2, val=2, stepped=True)


@pytest.fixture(scope="module")
def detector(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that knows the rooms: scores of 0.8 and above on what is there, nothing else above 0.1."""
    reading = SceneReadingConfig(cache=rooms / "cache")
    scenes = GridDataset(find_scenes(rooms, "train"), reading, categories=CONFIG.categories, masks=True)
    run = RunConfig(
        tmp_path_factory.mktemp("run") / "run", 70, 2, accelerator="cpu", num_workers=0, validate_every=70, pictures=0
    )
    fast = OptimizationConfig(lr=3e-3, gradient_clip=1.0, warmup=0.1, ema_decay=0.9)
    return train_rcnn(run, Experiment(CONFIG, fast, None), scenes, scenes, {})


def test_one_grid(
    rooms: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = rooms / "val" / "room_0000" / "grid" / "density.npz"
    out = tmp_path / "found.npz"
    run(monkeypatch, "predict", grid, "--output", out, "--detector", detector, "--min-score", 0.5)
    shown = capsys.readouterr().out
    assert "3 objects" in shown
    assert str(out) in shown
    found, _ = read_instances(out)
    assert set(found.names) <= {"block", "tower"}
    truth = np.load(grid.parent / "truth.npz")["instances"]
    pairs = [(mask.numpy(), truth == n) for mask in found.masks.dense() for n in (1, 2, 3)]
    best = [(a & b).sum() / (a | b).sum() for a, b in pairs]
    assert sorted(best)[-3] > 0.5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["found.glb", "found.npz", "found.png"]
    assert cv2.imread(str(tmp_path / "found.png")).std() > 10
    whole = NeRFRCNN.from_pretrained(detector, "cpu")(read_density_grid(grid))
    assert whole.select(whole.scores >= 0.5).masks.counts.tolist() == found.masks.counts.tolist()


def test_scenes_are_scored_and_drawn(
    rooms: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--detector", detector, "--cache", tmp_path / "cache", "--data", rooms)
    run(monkeypatch, "eval", *common, "--split", "val", "--out", tmp_path / "scores.json")
    assert "masks of 2 scenes" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["maskAP50"] > 0.9
    assert scores["boxes"]["objects"] == scores["masks"]["objects"] == 6
    run(monkeypatch, "predict", *common[:4], "--data", rooms / "val", "--output", tmp_path / "found", "--look", "ply")
    files = {file.name for file in (tmp_path / "found").iterdir()}
    assert {"room_0000.npz", "room_0000.png", "room_0000", "room_0001.npz"} <= files
    assert (tmp_path / "found" / "room_0000" / "instances.ply").is_file()
    pictures = tmp_path / "pictures"
    run(monkeypatch, "visualize", *common[:4], "--data", rooms / "val", "--out", pictures, "--limit", 1)
    assert [file.name for file in pictures.iterdir()] == ["room_0000.png"]


def test_a_run_from_the_command_line(rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(
        monkeypatch, "train", "--out", tmp_path / "run", "--data", rooms, "--cache", tmp_path / "cache", "--backbone",
        "compact", "--steps", 1, "--batch-size", 1, "--num-workers", 0, "--accelerator", "cpu", "--class-agnostic",
    )  # fmt: skip
    model = NeRFRCNN.from_pretrained(tmp_path / "run" / "detector.safetensors", "cpu")
    assert model.config.categories == ("block", "tower")
    assert model.config.heads.mask.class_agnostic
    assert sum(weight.numel() for weight in model.parameters()) < 20e6, "40 MB in float16"


def test_grids_of_other_resolutions(rooms: Path, detector: Path) -> None:
    """Finer by 2 it is resampled; in parts it is looked at as it is."""
    model = NeRFRCNN.from_pretrained(detector, "cpu")
    scene = GridDataset(find_scenes(rooms, "train"), SceneReadingConfig(cache=rooms / "cache"), masks=True)[0]
    assert scene.instances is not None
    features = scene.features.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = find_instances(model, features)
    assert found.remark is not None
    assert "72x64x40 voxels was looked at as one of 36x32x20" in found.remark
    sure = found.instances.select(found.instances.scores > 0.5)
    assert sure.masks.shape == (72, 64, 40)
    assert len(sure) == 3
    reach = 2 * model.config.heads.mask.margin + 1  # voxels are half as large as those of the training
    for box, mask in zip(sure.boxes, sure.masks.dense(), strict=True):
        places = mask.nonzero()
        assert (places.amin(0) >= box[:3] - reach).all()
        assert (places.amax(0) + 1 <= box[3:] + reach).all()
    tiled = find_instances(model, scene.features, tile=32).instances
    assert find_instances(model, scene.features).remark is None
    assert tiled.masks.shape == (36, 32, 20)


def test_what_is_wrong_is_one_line(
    rooms: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = rooms / "val" / "room_0000" / "grid" / "density.npz"
    assert "give one density grid, or --data" in refused(monkeypatch, "predict", "--detector", detector)
    assert "must end in .npz" in refused(monkeypatch, "predict", grid, "--output", tmp_path, "--detector", detector)
    assert "--tile must be" in refused(monkeypatch, "predict", grid, "--tile", 3, "--detector", detector)
    assert "--output is missing" in refused(monkeypatch, "predict", "--data", rooms / "val", "--detector", detector)
    missing = refused(monkeypatch, "predict", tmp_path / "none.npz", "--detector", detector)
    assert "none.npz: no such file" in missing
    if not SHIPPED.exists():
        assert "comes without weights" in refused(monkeypatch, "predict", grid)
    wrong = refused(monkeypatch, "train", "--out", tmp_path / "run", "--data", rooms, "--freeze", "rpn")
    assert "give weights with --init" in wrong
    torch.manual_seed(0)
    lamps = NeRFRCNNConfig(TINY, TINY_HEADS, ("lamp",))
    save_detector(tmp_path / "lamps.safetensors", NeRFRCNN(lamps).state_dict(), DetectorNotes(lamps))
    wrong = refused(
        monkeypatch, "eval", "--detector", tmp_path / "lamps.safetensors", "--data", rooms, "--split", "val",
        "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert "was not in training" in wrong
