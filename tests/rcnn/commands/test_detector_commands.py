"""`nerf-rcnn train-rpn`, `eval` and `predict` on toy rooms."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from command_line import refused, run
from toy_rooms import EDGE, TINY, write_toy_rooms

from rcnn.rpn import NeRFRPN
from rcnn.weights import DetectorNotes, load_detector, save_detector


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_rooms(tmp_path_factory.mktemp("toy"), train=2, val=2)


def _detector(path: Path, rotated: bool = False) -> Path:
    torch.manual_seed(0)
    config = replace(TINY, rotated=rotated)
    save_detector(path, NeRFRPN(config).state_dict(), DetectorNotes(config))
    return path


def test_a_run_trains_evaluates_and_predicts(
    rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    cache = ("--cache", tmp_path / "cache")
    run(
        monkeypatch, "train-rpn", "--out", tmp_path / "run", "--data", rooms, *cache, "--backbone", "resnet18",
        "--head", "anchor", "--steps", 1, "--batch-size", 1, "--num-workers", 0, "--accelerator", "cpu",
    )  # fmt: skip
    detector = tmp_path / "run" / "detector.safetensors"
    assert str(detector) in capsys.readouterr().out
    _, notes = load_detector(detector)
    assert notes.data["folders"] == [str(rooms)]

    # A small one, to be quick; its boxes mean nothing, but they must be written as they are found.
    small = _detector(tmp_path / "small.safetensors")
    run(
        monkeypatch,
        "eval",
        "--detector",
        small,
        "--data",
        rooms,
        *cache,
        "--split",
        "val",
        "--out",
        tmp_path / "scores.json",
    )
    assert "block" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["scenes"], scores["objects"]) == (2, 6)
    assert set(scores["classes"]) == {"block", "tower"}

    run(
        monkeypatch,
        "predict",
        "--detector",
        small,
        "--out",
        tmp_path / "found",
        "--data",
        rooms / "val",
        *cache,
        "--top",
        7,
    )
    with np.load(tmp_path / "found" / "room_0000.npz", allow_pickle=False) as found:
        assert found["boxes"].shape == (7, 6)
        assert found["boxes"].dtype == np.float32
        assert (np.diff(found["scores"]) <= 0).all()
        np.testing.assert_allclose(found["bbox_max"], EDGE * found["resolution"])
        assert (found["boxes"][:, :3] >= found["bbox_min"] - 1e-5).all()
        assert (found["boxes"][:, 3:] <= found["bbox_max"] + 1e-5).all(), "world units"
        assert (found["boxes"][:, 3:] > found["boxes"][:, :3]).all()

    for more in ((), ("--detector", small, "--min-score", 0, "--in-3d", "glb")):
        pictures = tmp_path / f"pictures_{len(more)}"
        run(monkeypatch, "visualize", "--out", pictures, "--data", rooms / "val", *cache, "--limit", 1, *more)
        files = sorted(file.name for file in pictures.iterdir())
        assert files == ["room_0000.glb", "room_0000.png"][(not more) :]
        assert cv2.imread(str(pictures / "room_0000.png")).std() > 10


def test_what_is_wrong_is_one_line(rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small, cache = _detector(tmp_path / "small.safetensors"), ("--cache", tmp_path / "cache")
    with_small = ("--detector", small, *cache, "--data")
    wrong = refused(monkeypatch, "eval", "--detector", tmp_path / "none.safetensors", "--data", rooms, *cache)
    assert "none.json: cannot be read" in wrong
    wrong = refused(monkeypatch, "eval", *with_small, rooms, "--split", "test")
    assert "needs a folder for each split" in wrong
    wrong = refused(monkeypatch, "eval", *with_small, rooms / "nowhere")
    assert "no such folder" in wrong
    assert "--device abacus" in refused(
        monkeypatch, "predict", "--detector", small, "--out", tmp_path, "--data", rooms, "--device", "abacus"
    )
    if not torch.cuda.is_available():
        wrong = refused(monkeypatch, "eval", *with_small, rooms, "--split", "val", "--device", "cuda")
        assert "--device cuda: is no device of this machine" in wrong
    grid = rooms / "bad" / "room_0000" / "grid" / "density.npz"
    grid.parent.mkdir(parents=True)
    grid.write_bytes((rooms / "val" / "room_0000" / "grid" / "density.npz").read_bytes()[:999])
    wrong = refused(monkeypatch, "predict", *with_small, rooms / "bad", "--out", tmp_path / "found")
    assert "not a readable .npz file" in wrong
    assert not (tmp_path / "found").exists()


def test_bad_scenes_can_be_skipped(
    rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    small = _detector(tmp_path / "small.safetensors", rotated=True)
    root = write_toy_rooms(tmp_path / "rooms", train=0, val=2)
    (root / "val" / "room_0001" / "grid" / "truth.npz").write_bytes(b"nothing")
    arguments = ("eval", "--detector", small, "--data", root, "--cache", tmp_path / "cache", "--split", "val")
    assert "room_0001" in refused(monkeypatch, *arguments)
    run(monkeypatch, *arguments, "--skip-bad", "--out", tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["scenes"] == 1
    assert "1 of 2 scenes were skipped" in capsys.readouterr().err
