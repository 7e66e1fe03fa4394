"""`nerf-rcnn rooms make`: resumes, repeats, and says what is wrong in one line."""

import errno
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rcnn import cli
from rcnn.errors import InputError
from rcnn.rooms import generate, make
from rcnn.rooms.assets import shipped_pack
from rcnn.rooms.generate import GeneratedRoomConfig
from rcnn.rooms.irradiance import IrradianceConfig
from rcnn.rooms.make import make_rooms

TINY = GeneratedRoomConfig(
    width=48, height=36, num_views=4, num_held_out=1, voxel_resolution=40, light=IrradianceConfig(1, 1, 1, 1),
    min_training_views=1,
)  # fmt: skip


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_any_number_of_processes_and_interruptions_give_the_same_bytes(tmp_path: Path):
    whole = make_rooms(tmp_path / "whole", "val", 2, 1, config=TINY, num_workers=2)
    assert [room.name for room in whole] == ["room_0000", "room_0001"]
    make_rooms(tmp_path / "parts", "val", 1, 1, config=TINY, num_workers=1)
    before = (tmp_path / "parts" / "room_0000" / "transforms.json").stat().st_mtime_ns
    leftover = tmp_path / "parts" / ".room_0001-killed"
    leftover.mkdir()
    make_rooms(tmp_path / "parts", "val", 2, 1, config=TINY, num_workers=1)
    assert (tmp_path / "parts" / "room_0000" / "transforms.json").stat().st_mtime_ns == before, "kept"
    assert not leftover.exists()
    assert _contents(tmp_path / "parts") == _contents(tmp_path / "whole")
    note = json.loads((tmp_path / "whole" / "dataset.json").read_text())
    assert (note["split"], note["seed"]) == ("val", 1)
    listed = {name for models in note["models"].values() for name in models}
    assert listed == {info.model_id for info in shipped_pack().models if info.split == "val"}
    for room in whole:
        for row in json.loads((room / "instances.json").read_text())["instances"]:
            if row["library"] == "parametric":
                low, high = note["parametric_models"]["numbers"]
                assert low <= int(row["asset"].rsplit("-", 1)[1]) <= high
            else:
                assert row["asset"] in listed
    with pytest.raises(InputError, match=r"holds rooms with another seed; choose another --out"):
        make_rooms(tmp_path / "whole", "val", 2, 2, config=TINY)
    with pytest.raises(InputError, match=r"another split, models, parametric_models"):
        make_rooms(tmp_path / "whole", "test", 2, 1, config=TINY)


def _half_a_room(then: Callable[[], None], dataset: Any, folder: Path) -> None:
    """A room that is given up when some of its files are written. Runs in a worker, which it spoils."""

    def write(folder: Path, *_: object) -> None:
        (folder / "transforms.json").write_text("{}")
        then()

    generate._stage, generate._write = lambda *_: None, write  # type: ignore[assignment]
    make._build_room(dataset, folder)


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _die() -> None:
    os._exit(9)


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(make, "_build_room", partial(_half_a_room, _disk_full))
    with pytest.raises(InputError, match="Rooms: the disk is full; make room and run again") as error:
        make_rooms(tmp_path / "rooms", "train", 2, 0, config=TINY, num_workers=2)
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "rooms").iterdir()] == ["dataset.json"]


def test_rooms_of_a_process_that_died_are_not_picked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(make, "_build_room", partial(_half_a_room, _die))
    with pytest.raises(InputError, match="a process died"):
        make_rooms(tmp_path / "rooms", "train", 2, 0, config=TINY, num_workers=2)
    assert list((tmp_path / "rooms").glob("room_*")) == []
    assert not (tmp_path / "rooms" / "contact_sheet.jpg").exists()


def test_bad_options_and_packs_are_refused_before_work_begins(tmp_path: Path):
    damaged = tmp_path / "damaged.pack"
    damaged.write_bytes(shipped_pack().path.read_bytes()[:5000])
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign" / "room_0000").mkdir(parents=True)
    for arguments, message in (
        ({"pack": tmp_path / "none.pack"}, "none.pack: cannot read the furniture pack"),
        ({"pack": damaged}, "damaged.pack: malformed furniture pack"),
        ({"count": 0}, "--count must be at least 1"),
        ({"seed": -1}, "--seed at least 0"),
        ({"kind": "attic"}, "--kind must be one of bedroom"),
        ({"split": "all"}, "--split must be one of train"),
        ({"num_workers": 0}, "--num-workers"),
        ({"out": tmp_path / "file"}, "file: is a file"),
        ({"out": tmp_path / "foreign"}, "no dataset.json"),
    ):
        wanted = {"out": tmp_path / "out", "split": "train", "count": 1, "seed": 0, "config": TINY, **arguments}
        with pytest.raises(ValueError, match=message) as error:
            make_rooms(**wanted)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(make.PACKAGES, "embreex_that_is_missing", "embreex")
    monkeypatch.setattr(
        "sys.argv", ["nerf-rcnn", "rooms", "make", "--out", str(tmp_path), "--split", "train", "--count", "1"]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == "error: making rooms needs embreex: pip install embreex"
    assert list(tmp_path.iterdir()) == []
