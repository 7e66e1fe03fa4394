"""`nerf-rcnn rooms voxelize` and `measure-look`: what they write, resuming, repeating, and errors in one line."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from box_room import BOARD, CUBE, write_box_room

from rcnn import cli
from rcnn.errors import InputError
from rcnn.grids import read_density_grid, read_grid_truth
from rcnn.rooms.radiance_look import CLEAN, read_look
from rcnn.rooms.voxelize import VoxelizeConfig, voxelize_rooms


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rooms")
    for seed in range(2):
        write_box_room(folder / f"room_{seed:04d}", seed)
    return folder


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["nerf-rcnn", *map(str, arguments)])
    cli.main()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_grids_line_up_with_their_truth(rooms: Path, tmp_path: Path):
    folders = voxelize_rooms(rooms, tmp_path, VoxelizeConfig(40, look=CLEAN), 1)
    assert [folder.name for folder in folders] == ["room_0000", "room_0001"]
    grid = read_density_grid(folders[0] / "grid" / "density.npz")
    truth = read_grid_truth(folders[0] / "grid" / "truth.npz", grid)
    assert truth.categories == ("cabinet", "shelf")
    assert np.allclose(truth.aabb[0], CUBE.ravel() / 0.05)
    assert truth.instances is not None
    solid = grid.alpha() > 0.5
    for box, name in ((CUBE, "cube"), (BOARD, "board")):
        low, high = np.floor(box[0] / 0.05 + 0.01).astype(int), np.ceil(box[1] / 0.05 - 0.01).astype(int)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        wide = tuple(slice(a - 2, b + 2) if a > 1 else slice(0, b + 2) for a, b in zip(low, high, strict=True))
        share, least = (solid & (truth.instances > 0))[window].mean(), 0.2 if name == "cube" else 0.9
        assert share > least, f"{name}: surfaces are solid"
        outside = solid[wide].sum() - solid[window].sum() - (solid[wide][..., :2].sum() if low[2] == 0 else 0)
        assert outside < 0.7 * solid[window].sum(), f"{name}: less is solid around its box, of twice its size or more"


def test_interruptions_and_processes_do_not_change_a_byte(
    rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    _run(monkeypatch, "rooms", "voxelize", rooms, "--out", tmp_path / "whole", "--resolution", 40, "--num-workers", 2)
    assert "2 grids in" in capsys.readouterr().out
    whole = _contents(tmp_path / "whole")
    names = {"density.npz", "truth.npz", "slices.png", "voxelize.json"}
    assert set(whole) == {f"room_000{k}/grid/{name}" for k in (0, 1) for name in names}
    assert whole["room_0000/grid/density.npz"] != whole["room_0001/grid/density.npz"]
    note = json.loads(whole["room_0000/grid/voxelize.json"])
    assert note["instances"] == 2
    assert note["config"]["resolution"] == 40

    shutil.copytree(tmp_path / "whole" / "room_0000", tmp_path / "parts" / "room_0000")
    (tmp_path / "parts" / "room_0001" / ".grid-killed").mkdir(parents=True)
    before = (tmp_path / "parts" / "room_0000" / "grid" / "density.npz").stat().st_mtime_ns
    voxelize_rooms(rooms, tmp_path / "parts", VoxelizeConfig(40), 1)
    assert (tmp_path / "parts" / "room_0000" / "grid" / "density.npz").stat().st_mtime_ns == before, "kept"
    assert _contents(tmp_path / "parts") == whole
    assert not (tmp_path / "parts" / "room_0001" / ".grid-killed").exists()
    with pytest.raises(InputError, match=r"was made with another seed; give the same options"):
        voxelize_rooms(rooms, tmp_path / "parts", VoxelizeConfig(40, seed=1), 1)


def test_a_damaged_room_leaves_no_half_grid(rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = shutil.copytree(rooms / "room_0001", tmp_path / "rooms" / "room_0001")
    (broken / "gt_voxels.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(SystemExit, match=r"error: .*gt_voxels\.npz: not a readable \.npz file") as caught:
        _run(monkeypatch, "rooms", "voxelize", tmp_path / "rooms", "--out", tmp_path / "out", "--resolution", 20)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--resolution", 300], "--resolution 300: must lie between 2 and 256"),
        (["--num-workers", 0], "--num-workers must be at least 1"),
        (["--clean", "--look", "x.json"], "--look and --clean exclude each other"),
        (["--look", "x.json"], r"x\.json: cannot be read"),
    ],
)
def test_options_are_checked(
    rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], match: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=match):
        _run(monkeypatch, "rooms", "voxelize", rooms, "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_places_are_checked(rooms: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no room; make rooms"):
        voxelize_rooms(tmp_path, tmp_path / "out", VoxelizeConfig(20))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: is a file; choose another --out"):
        voxelize_rooms(rooms, tmp_path / "file", VoxelizeConfig(20))
    (tmp_path / "out" / "room_0000" / "grid").mkdir(parents=True)
    with pytest.raises(InputError, match=r"was not written by rooms voxelize"):
        voxelize_rooms(rooms, tmp_path / "out", VoxelizeConfig(20))


def test_the_look_of_grids_in_rooms_is_measured(rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = shutil.copytree(rooms, tmp_path / "rooms")
    with pytest.raises(SystemExit, match=r"holds no grid/density\.npz; make grids with"):
        _run(monkeypatch, "rooms", "measure-look", own, "--out", tmp_path / "look.json")
    _run(monkeypatch, "rooms", "voxelize", own, "--out", own, "--resolution", 80, "--num-workers", 1)
    _run(monkeypatch, "rooms", "measure-look", own, "--out", tmp_path / "look.json", "--source", "a test",
         "--num-workers", 1)  # fmt: skip
    look = read_look(tmp_path / "look.json")
    assert look.source == "a test"
    assert look.voxel_edge == pytest.approx(2.0 / 80)
    voxelize_rooms(rooms, tmp_path / "out", VoxelizeConfig(40, look=look), 1)
    shutil.rmtree(own / "room_0000" / "depth")
    with pytest.raises(SystemExit, match=r"depth/0000\.png: cannot be read"):
        _run(monkeypatch, "rooms", "measure-look", own / "room_0000", "--out", tmp_path / "again.json")
    assert not (tmp_path / "again.json").exists()
