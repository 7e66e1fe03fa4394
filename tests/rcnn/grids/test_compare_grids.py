"""`nerf-rcnn grids compare`."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from rcnn import cli
from rcnn.grids import DensityGrid, GridTruth, write_density_grid, write_grid_truth


def _write(folder: Path, density: float, names: tuple[str, ...] = ("a", "b")) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        values = rng.random((24, 20, 16, 4)).astype(np.float32)
        values[..., 3] *= density
        instances = np.zeros((24, 20, 16), np.int32)
        instances[4:10, 4:10, 0:6] = 1
        grid = DensityGrid(
            values, np.zeros(3), np.array([2.4, 2.0, 1.6]), "sigma", seen=rng.random((24, 20, 16)) < 0.99
        )
        box = np.array([[4, 4, 0, 10, 10, 6]], float)
        write_density_grid(folder / name / "grid" / "density.npz", grid)
        truth = GridTruth(instances, np.array([1], np.int32), ("box",), box)
        write_grid_truth(folder / name / "grid" / "truth.npz", truth, grid)
    return folder


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["nerf-rcnn", "grids", "compare", *map(str, arguments), "--num-workers", "1"])
    cli.main()


def test_table_picture_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    thin, thick = _write(tmp_path / "thin", 2.0), _write(tmp_path / "thick", 60.0, ("b", "c", "d"))
    _run(monkeypatch, thin, thick, "--out", tmp_path / "report.png")
    printed = capsys.readouterr().out
    assert "thin (2)" in printed
    assert "thick (3)" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    occupied = [kind["numbers"]["occupancy_0.5"]["mean"] for kind in report["sets"]]
    assert occupied[0] == 0
    assert occupied[1] > 0.8
    assert report["histogram_distance"]["alpha_histograms"]["shown"] > 0.8
    picture = cv2.imread(str(tmp_path / "report.png"))
    assert picture is not None
    assert picture.shape[1] > 1000
    assert picture.std() > 10

    _run(monkeypatch, thin, thin, "--out", tmp_path / "same.json", "--max-grids", 1)
    same = json.loads((tmp_path / "same.json").read_text())
    assert not (tmp_path / "same.png").exists()
    assert [kind["grids"] for kind in same["sets"]] == [1, 1]
    distances = [value for values in same["histogram_distance"].values() for value in values.values()]
    assert max(value for value in distances if value is not None) == 0


def test_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = _write(tmp_path / "one", 2.0)
    with pytest.raises(SystemExit, match=r"report\.txt: must end in \.png or \.json"):
        _run(monkeypatch, one, one, "--out", tmp_path / "report.txt")
    with pytest.raises(SystemExit, match=r"nothing: no such folder"):
        _run(monkeypatch, one, tmp_path / "nothing", "--out", tmp_path / "report.json")
    (one / "a" / "grid" / "truth.npz").unlink()
    with pytest.raises(SystemExit, match=r"density\.npz: has no truth\.npz beside it"):
        _run(monkeypatch, one, one, "--out", tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()
