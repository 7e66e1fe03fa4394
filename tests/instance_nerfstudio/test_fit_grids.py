"""`instance-nerf fit-grids`: a tiny room trained for real, and the bookkeeping of many rooms with training faked."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nerfstudio.plugins.types import MethodSpecification
from rich.progress import Progress

from instance_nerfstudio import cli, fit_grids_command, method_config
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.export.density_field import DensitySamplingConfig
from instance_nerfstudio.fit_grids import GRID_ENTRIES, GridFitConfig, default_fit, fit_room, is_fitted, read_table
from instance_nerfstudio.fit_grids_command import find_rooms, fit_grids
from rcnn.grids import read_density_grid, read_grid_truth

TINY = GridFitConfig(
    iterations=60,
    rays_per_batch=256,
    learning_rate=5e-2,
    learning_rate_final=1e-2,
    small_field=True,
    grid=DensitySamplingConfig(resolution=16, depth_size=32),
)
BOX = [[-1.2, -1.2, -0.8], [1.2, 1.2, 0.8]]


@pytest.fixture
def room(scene: Path, edit_transforms: Any) -> Path:
    """The spheres' scene with the files that a room has."""
    edit_transforms(scene, lambda meta: meta.update(room_bbox=BOX))
    ids = np.zeros((24, 24, 16), np.int32)
    ids[4:12, 8:16, 4:12] = 300
    np.savez_compressed(scene / "gt_voxels.npz", instances=ids, bbox_min=BOX[0], bbox_max=BOX[1])
    row = {"id": 300, "category": "ball", "score": 1.0, "aabb": [-0.8, -0.4, -0.4, 0.0, 0.4, 0.4]}
    (scene / "instances.json").write_text(json.dumps({"instances": [row]}))
    return scene


def test_a_room_gets_its_grid_and_truth(
    room: Path, tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = MethodSpecification(make_config(room, tmp_path), "smaller still")
    monkeypatch.setattr(method_config, "instance_nerfacto_cpu", small)
    with Progress(disable=True) as progress:
        folder = fit_room(room, TINY, "cpu", progress)
        assert not progress.task_ids
    assert sorted(path.name for path in folder.iterdir()) == sorted(GRID_ENTRIES)
    grid = read_density_grid(folder / "density.npz")
    assert grid.resolution == (16, 16, 11)
    np.testing.assert_allclose(grid.bbox_min, BOX[0])
    truth = read_grid_truth(folder / "truth.npz", grid)
    assert truth.categories == ("ball",)
    np.testing.assert_allclose(grid.voxels_to_world(truth.aabb.reshape(2, 3)).ravel(), [-0.8, -0.4, -0.4, 0, 0.4, 0.4])
    assert truth.instances is not None
    filled = np.argwhere(truth.instances == 300)
    np.testing.assert_allclose(grid.voxels_to_world(filled.min(0)), [-0.8, -0.4, -0.4], atol=0.1)
    note = json.loads((folder / "fit.json").read_text())
    assert note["psnr"] > 10
    assert note["resolution"] == "16x16x11"
    assert note["seconds"] >= note["train_seconds"] > 0
    assert note["occupancy"] == pytest.approx((grid.alpha() > 0.1).mean(), abs=1e-3)
    assert grid.seen is not None
    assert note["seen"] == pytest.approx(grid.seen.mean(), abs=1e-4)
    assert sorted(path.name for path in room.iterdir() if path.name.startswith(".")) == []

    assert is_fitted(room, TINY)
    with pytest.raises(InputError, match="iterations 60, not 61"):
        is_fitted(room, replace(TINY, iterations=61))


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """Three rooms to find, and things that are none."""
    for name in ("rooms/a", "rooms/b", "rooms/c", "rooms/.half"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "transforms.json").write_text("{}")
    (tmp_path / "rooms" / "notes").mkdir()
    return tmp_path / "rooms"


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training is replaced; returns the names of rooms as they are fitted. `b` fails until it holds a file `mended`."""
    names: list[str] = []

    def fit(room: Path, config: GridFitConfig, device_type: str, progress: Any, overwrite: bool) -> Path:
        names.append(room.name)
        if room.name == "b" and not (room / "mended").exists():
            raise InputError(f"{room}: is broken; mend it")
        (room / "grid").mkdir(exist_ok=True)
        from instance_nerfstudio.fit_grids import _plain

        note = {"psnr": 30.5, "seconds": 2.0, "occupancy": 0.05, "config": _plain(config)}
        (room / "grid" / "fit.json").write_text(json.dumps(note))
        return room / "grid"

    monkeypatch.setattr(fit_grids_command, "fit_room", fit)
    return names


def test_failures_are_named_and_the_rest_goes_on_and_is_not_done_again(rooms: Path, fitted: list[str]) -> None:
    failures = fit_grids([rooms], TINY, ["cpu"])
    assert fitted == ["a", "b", "c"]
    assert len(failures) == 1
    assert "b: is broken" in failures[0]
    with (rooms / "grids.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [Path(row["room"]).name for row in table] == ["a", "c"]
    assert table[0]["psnr"] == "30.5"

    (rooms / "b" / "mended").touch()
    assert fit_grids([rooms], TINY, ["cpu"]) == []
    assert fitted == ["a", "b", "c", "b"]
    assert len(read_table(rooms / "grids.csv")) == 3
    assert fit_grids([rooms / "c"], TINY, ["cpu"], rooms / "grids.csv", overwrite=True) == []
    assert fitted[-1:] == ["c"]
    assert len(read_table(rooms / "grids.csv")) == 3
    with pytest.raises(InputError, match="other options"):
        fit_grids([rooms], replace(TINY, margin=0.5), ["cpu"])


def test_user_errors_come_before_any_training(rooms: Path, fitted: list[str], tmp_path: Path) -> None:
    for paths, devices, message in (
        ([], ["cpu"], "no rooms given"),
        ([tmp_path / "gone"], ["cpu"], "no such folder"),
        ([rooms / "notes"], ["cpu"], "holds no room"),
        ([rooms], ["cuda:99"], "--devices cuda:99"),
        ([rooms], ["tpu?"], "--devices"),
    ):
        with pytest.raises(InputError, match=message):
            fit_grids(paths, TINY, devices)
    (rooms / "grids.csv").write_text("mine,all mine\n1,2\n")
    with pytest.raises(InputError, match="--table"):
        fit_grids([rooms], TINY, ["cpu"])
    (rooms / "grids.csv").unlink()
    (rooms / "c" / "grid").mkdir()
    (rooms / "c" / "grid" / "mine.txt").touch()
    with pytest.raises(InputError, match="move it away"):
        fit_grids([rooms], TINY, ["cpu"])
    assert fitted == []


def test_rooms_are_found_once(rooms: Path) -> None:
    assert [room.name for room in find_rooms([rooms, rooms / "b"])] == ["a", "b", "c"]


def test_several_devices_share_the_rooms(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(function: Any, items: list[Path], devices: list[str]) -> Any:
        assert devices == ["cpu", "cpu"]
        for room in items:
            yield room, InputError(f"{room}: no") if room.name == "a" else RuntimeError("out\nof memory")

    monkeypatch.setattr(fit_grids_command, "run_on_devices", run)
    first, *others = fit_grids([rooms], TINY, ["cpu", "cpu"])
    assert first == f"{rooms / 'a'}: no"
    assert others == [f"{rooms / name}: could not be fitted (RuntimeError: out)" for name in "bc"]


def test_command_line(rooms: Path, fitted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["instance-nerf", "fit-grids", str(rooms), "--devices", "cpu", "--resolution", "32"]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert "1 room(s) failed" in str(stop.value.code)
    note = json.loads((rooms / "a" / "grid" / "fit.json").read_text())
    assert note["config"]["grid"]["resolution"] == 32
    assert note["config"]["iterations"] == default_fit().iterations
    monkeypatch.setattr(sys, "argv", ["instance-nerf", "fit-grids", str(rooms), "--resolution", "1"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert "--resolution 1" in str(stop.value.code)
