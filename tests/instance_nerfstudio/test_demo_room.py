"""The demo's room in a process of its own."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from instance_nerfstudio import demo, demo_room
from instance_nerfstudio.beside import beside
from instance_nerfstudio.demo_room import RoomBuild, likely_demo_room
from instance_nerfstudio.errors import InputError
from rcnn.rooms import RoomConfig, make_room
from rcnn.rooms.cameras import CameraConfig
from rcnn.rooms.irradiance import IrradianceConfig

TINY = RoomConfig(
    width=32, height=24, num_views=5, num_held_out=1, samples_per_pixel=1, voxel_resolution=24, num_workers=1,
    light=IrradianceConfig(sky_strata=2, light_strata=1, bounces=1, smoothing=1),
)  # fmt: skip
LARGE = replace(TINY, width=640, height=480, num_views=40, samples_per_pixel=16)


def build_demo_room(folder: Path, config: RoomConfig, progress: Progress) -> Path:
    return RoomBuild(folder, config).finish(progress)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_room_is_that_of_make_room_and_progress_ends_at_one(tmp_path: Path) -> None:
    progress = Progress(disable=True)
    room = build_demo_room(tmp_path / "room", TINY, progress)
    assert progress.tasks[0].completed == pytest.approx(1)
    built, expected = files(room), files(make_room(tmp_path / "expected", TINY))
    assert built.pop("room_config.json")
    assert built == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "room"]


def test_room_is_built_once_and_again_when_the_preset_changes(tmp_path: Path) -> None:
    small, large = TINY, replace(TINY, width=40)
    widths = []
    for config, begun in ((small, 1), (small, 0), (large, 1)):
        progress = Progress(disable=True)
        room = build_demo_room(tmp_path / "room", config, progress)
        assert len(progress.tasks) == begun
        widths.append(json.loads((room / "transforms.json").read_text())["w"])
    assert widths == [32, 32, 40]
    assert [path.name for path in tmp_path.iterdir()] == ["room"]


def test_an_earlier_room_stays_until_the_next_is_complete(tmp_path: Path) -> None:
    room = build_demo_room(tmp_path / "room", TINY, Progress(disable=True))
    before = files(room)
    building = RoomBuild(room, LARGE)
    at_work(tmp_path)
    building.stop()
    building.stop()  # as often as one likes
    assert files(room) == before
    assert [path.name for path in tmp_path.iterdir()] == ["room"]


def test_the_likely_room_is_that_of_the_machine(monkeypatch) -> None:
    for driver in ("/usr/bin/nvidia-smi", None):
        monkeypatch.setattr(demo_room.shutil, "which", lambda _, driver=driver: driver)
        assert likely_demo_room() == demo_room.demo_room(driver is not None)


def test_a_room_with_a_damaged_note_is_built_anew(tmp_path: Path) -> None:
    room = build_demo_room(tmp_path / "room", TINY, Progress(disable=True))
    before = files(room)
    (room / "room_config.json").write_bytes(b'{"\xff')
    assert files(build_demo_room(tmp_path / "room", TINY, Progress(disable=True))) == before


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="room"):
        build_demo_room(tmp_path / "room", RoomConfig(), Progress(disable=True))
    assert (tmp_path / "room" / "mine.txt").read_text() == "keep"


def test_what_is_wrong_with_a_room_is_an_error_of_one_line(tmp_path: Path) -> None:
    cameras = CameraConfig(min_instances=10**6)
    with pytest.raises(InputError) as raised:
        build_demo_room(tmp_path / "room", replace(TINY, cameras=cameras), Progress(disable=True))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("keep")
    with pytest.raises(InputError, match=r"taken: can't hold the room \(.+\); choose another --output-dir"):
        build_demo_room(tmp_path / "taken" / "room", TINY, Progress(disable=True))


def at_work(folder: Path) -> tuple[int, list[str]]:
    """The process that builds a room, and those that work for it, once it is at work."""
    deadline = time.monotonic() + 60
    while not list(folder.glob(".*/images")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (child,) = (child for child in multiprocessing.active_children() if child.name.startswith("SpawnProcess"))
    assert child.pid is not None
    return child.pid, Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()


def assert_all_end(processes: list[str]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_room_whose_process_dies_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    building = beside(lambda: build_demo_room(tmp_path / "room", LARGE, Progress(disable=True)))
    child, workers = at_work(tmp_path)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(InputError, match="died"):
        building.result(60)
    assert not (tmp_path / "room").exists()
    assert_all_end(workers)  # whoever worked for it ends with it
    build_demo_room(tmp_path / "room", TINY, Progress(disable=True))
    assert [path.name for path in tmp_path.iterdir()] == ["room"]  # what was left is gone


@pytest.mark.parametrize("grace", [5.0, 0.0])
def test_interrupted_demo_ends_the_process_of_its_room(tmp_path: Path, monkeypatch, grace: float) -> None:
    seen: list[str] = []

    class Interrupted(Progress):
        def update(self, *_: Any, **__: Any) -> None:
            child, workers = at_work(tmp_path)
            seen.extend([str(child), *workers])
            raise KeyboardInterrupt

    monkeypatch.setattr(demo_room, "_GRACE", grace)  # without any, it is killed
    with pytest.raises(KeyboardInterrupt):
        build_demo_room(tmp_path / "room", LARGE, Interrupted(disable=True))
    assert_all_end(seen)
    assert not (tmp_path / "room").exists()


@pytest.mark.parametrize("begun", [None, TINY, LARGE])
def test_a_room_that_does_not_suit_the_machine_is_given_up(
    tmp_path: Path, monkeypatch, begun: RoomConfig | None
) -> None:
    monkeypatch.setattr(demo, "demo_room", lambda cuda: TINY)
    building = None if begun is None else RoomBuild(tmp_path / "room", begun)
    seen = []
    if begun == LARGE:
        child, workers = at_work(tmp_path)
        seen = [str(child), *workers]
    room = demo._room(tmp_path / "room", building, Progress(disable=True))
    assert json.loads((room / "transforms.json").read_text())["w"] == TINY.width
    assert [path.name for path in tmp_path.iterdir()] == ["room"]
    assert_all_end(seen)
