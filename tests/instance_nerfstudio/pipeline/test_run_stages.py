"""The machinery under stub stages: each is done once, again when something of it changes, and whole or not at all."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from stub_stages import run_all, stub_stages

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline import fingerprints, run_stages as machinery
from instance_nerfstudio.pipeline.run_folder import lock_run_folder
from instance_nerfstudio.pipeline.run_stages import run_stages, stage_states
from instance_nerfstudio.pipeline.stage import Stage, StageContext, StageRecord

ALL = ["radiance", "density", "segment", "match", "report"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("1", "2", "10"):
        (folder / f"{name}.txt").write_text(f"photo {name}")
    return folder


@pytest.fixture
def ran(source: Path, tmp_path: Path) -> Path:
    run_all(source, tmp_path / "run")
    return tmp_path / "run"


def _marks(folder: Path) -> dict[str, int]:
    return {name: (folder / name / "stage.json").stat().st_mtime_ns for name in ALL if (folder / name).is_dir()}


def _ran_again(folder: Path, before: dict[str, int]) -> list[str]:
    return [name for name, mark in _marks(folder).items() if before.get(name) != mark]


def _contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.glob("[!.]*/part_*"))}


def test_all_stages_run_once(source: Path, ran: Path) -> None:
    assert len(_contents(ran)) == 5 * 4
    before = _marks(ran)
    run_all(source, ran)
    assert _ran_again(ran, before) == []
    assert not list(ran.glob(".partial*"))


def _touch(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        os.utime(path, (1, 1))


def _copy_photos(source: Path, folder: Path) -> None:
    shutil.copytree(source, source.with_name("copy"))
    shutil.rmtree(source)
    shutil.move(source.with_name("copy"), source)


def _edit_photo_keeping_size_and_time(source: Path, folder: Path) -> None:
    path = source / "10.txt"
    stat = path.stat()
    path.write_text("photo 1O")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _swap_names(source: Path, folder: Path) -> None:
    (source / "1.txt").rename(source / "x")
    (source / "10.txt").rename(source / "1.txt")
    (source / "x").rename(source / "10.txt")


def _half_a_stage(source: Path, folder: Path) -> None:
    (folder / "density" / "part_3").unlink()


def _cut_file(source: Path, folder: Path) -> None:
    path = folder / "segment" / "part_0"
    path.write_text(path.read_text()[:10])


def _delete(name: str) -> Callable[[Path, Path], None]:
    return lambda source, folder: shutil.rmtree(folder / name)


def _damage_record(source: Path, folder: Path) -> None:
    (folder / "match" / "stage.json").write_text('{"stage": "mat')


def _log(source: Path, folder: Path) -> None:
    (folder / "radiance" / "log").write_text("more")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (_touch, []),
        (_copy_photos, []),
        (_log, []),
        (_edit_photo_keeping_size_and_time, ALL),
        (_swap_names, ALL),
        (lambda source, folder: (source / "new.txt").write_text("photo"), ALL),
        (lambda source, folder: (source / ".hidden").write_text("no photo"), []),
        # What is made again with the same bytes doesn't make the later ones again.
        (_delete("radiance"), ["radiance"]),
        (_delete("report"), ["report"]),
        (_half_a_stage, ["density"]),
        (_cut_file, ["segment"]),
        (_damage_record, ["match"]),
    ],
)  # fmt: skip
def test_what_changes_is_made_again(source: Path, ran: Path, change, again: list[str]) -> None:
    before, wanted = _marks(ran), _contents(ran)
    change(source, ran)
    run_all(source, ran)
    assert _ran_again(ran, before) == again
    if again != ALL:
        assert _contents(ran) == wanted
    before = _marks(ran)
    run_all(source, ran)
    assert _ran_again(ran, before) == []


@pytest.mark.parametrize(
    ("option", "again"),
    [("radiance", ["radiance", "density", "match", "report"]), ("segment", ["segment", "match", "report"]),
     ("report", ["report"])],
)  # fmt: skip
def test_changed_option_makes_this_and_later_stages_again(source: Path, ran: Path, option: str, again) -> None:
    before, wanted = _marks(ran), _contents(ran)
    states = {state.stage.name: state for state in stage_states(stub_stages(source, {option: "other"}), ran)}
    assert [name for name, state in states.items() if state.condition == "stale"] == again
    assert states[option].reason == "--choice changed"
    run_all(source, ran, {option: "other"})
    assert _ran_again(ran, before) == again
    run_all(source, ran)
    assert _contents(ran) == wanted


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are as they are since three seconds."""
    monkeypatch.setattr(fingerprints, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + 3_000_000_000))


def test_settled_files_are_not_read_again(source: Path, ran: Path, later: None, monkeypatch) -> None:
    run_all(source, ran)
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **kw: (opened.append(self), real(self, *args, **kw))[1])
    run_all(source, ran)
    assert [path for path in opened if path.parent == source or path.name.startswith("part_")] == []


def test_an_edit_that_keeps_size_and_time_is_found_in_a_settled_file(source: Path, tmp_path: Path, later: None) -> None:
    folder = tmp_path / "run"
    run_all(source, folder)
    before = _marks(folder)
    _edit_photo_keeping_size_and_time(source, folder)
    run_all(source, folder)
    assert _ran_again(folder, before) == ALL


def test_single_stage_needs_those_before(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InputError, match=r"radiance: is missing .*match reads it; run `instance-nerf radiance"):
        run_all(source, folder, only="match")
    for name in ("radiance", "density", "segment", "match"):
        assert list(run_all(source, folder, only=name))[-1] == name
    assert not (folder / "report").exists()
    run_all(source, folder, {"radiance": "other"}, only="radiance")
    with pytest.raises(InputError, match=r"density: is stale \(radiance changed\)"):
        run_all(source, folder, {"radiance": "other"}, only="match")


def test_second_run_says_so_and_leaves(source: Path, tmp_path: Path) -> None:
    with (
        lock_run_folder(tmp_path / "run"),
        pytest.raises(InputError, match=rf"run: process {os.getpid()} on .* is at work there"),
    ):
        run_all(source, tmp_path / "run")
    run_all(source, tmp_path / "run")


@pytest.mark.parametrize("place", ["work", "record", "rename"])
def test_full_disk_is_one_line_and_the_rerun_goes_on(source: Path, tmp_path: Path, monkeypatch, place: str) -> None:
    folder, full = tmp_path / "run", OSError(errno.ENOSPC, "No space left on device")
    run_all(source, tmp_path / "wanted")
    stages = stub_stages(source, {})
    with monkeypatch.context() as patch:

        def fail(*_: object) -> dict:
            raise full

        if place == "work":
            spoilt = Stage("match", lambda context: fail(context), ("density", "segment"))
            patch.setattr("stub_stages.stub_stages", lambda *_: [*stages[:3], spoilt])
        elif place == "record":
            patch.setattr(StageRecord, "write", fail)
        else:
            patch.setattr(machinery, "replace_folder", fail)
        with pytest.raises(InputError, match=r"run: no space left on the device; make room and give the same command"):
            run_all(source, folder)
    run_all(source, folder)
    assert _contents(folder) == _contents(tmp_path / "wanted")


def test_failed_stage_leaves_the_old_outputs(source: Path, ran: Path) -> None:
    before = _contents(ran)

    def fail(context: StageContext) -> dict:
        (context.work / "part_0").write_text("half")
        raise InputError("segment: no segments")

    stages = [Stage("radiance", fail, options={"choice": 2})]
    with lock_run_folder(ran) as lock, pytest.raises(InputError, match="no segments"):
        run_stages(stages, ran, lock, Console(quiet=True))
    assert _contents(ran) == before
    (state,) = stage_states(stages, ran)
    assert (state.condition, state.interrupted) == ("stale", True)


def test_finished_but_not_renamed_stage_is_taken(source: Path, ran: Path) -> None:
    fingerprint = json.loads((ran / "match" / "stage.json").read_text())["fingerprint"]
    mark = (ran / "match" / "part_0").stat().st_ino
    (ran / "match").rename(ran / f".partial-match-{fingerprint[:16]}")
    run_all(source, ran)
    assert (ran / "match" / "part_0").stat().st_ino == mark


def test_record_says_what_went_in(ran: Path) -> None:
    record = StageRecord.read(ran / "match")
    assert record is not None
    assert set(record.inputs) == {"version of the stage", "--choice", "density", "segment"}
    assert set(record.outputs) == {f"part_{i}" for i in range(4)}
    assert record.versions["instance-nerf"]
    assert record.result == {"summary": "4 files"}
    assert record.seconds >= 0
