"""Whatever ends a run, and wherever: the same command again ends in what an undisturbed run ends in."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stub_stages
from stub_stages import run_all

from instance_nerfstudio.pipeline.run_folder import working_stage

STAGES = ("radiance", "density", "segment", "match", "report")
SECONDS = 0.04
"""Of a file; a stage takes four."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("1", "2", "10"):
        (folder / f"{name}.txt").write_text(f"photo {name}")
    return folder


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_all(source, folder)
    return folder


def _contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.glob("[!.]*/part_*"))}


def _before(stage: str, undisturbed: Path, folder: Path) -> None:
    """A folder in which all before `stage` is done."""
    for name in STAGES[: STAGES.index(stage)]:
        shutil.copytree(undisturbed / name, folder / name)


def _start(source: Path, folder: Path, seconds: float = SECONDS) -> subprocess.Popen:
    command = [sys.executable, stub_stages.__file__, str(source), str(folder), str(seconds)]
    # What a shell starts in the background ignores interrupts, and so would its children.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def _wait_for(stage: str, folder: Path) -> None:
    end = time.monotonic() + 60
    while working_stage(folder) != stage:
        assert time.monotonic() < end, f"{stage} was never reached"
        time.sleep(0.002)


@pytest.mark.parametrize("stage", STAGES)
def test_kill_at_any_moment(stage: str, source: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Four kills in each of five stages; each lands in another place of the stage."""
    moments = random.Random(f"kill {stage}")
    for kill in range(4):
        folder = tmp_path / f"run_{kill}"
        _before(stage, undisturbed, folder)
        process = _start(source, folder)
        _wait_for(stage, folder)
        time.sleep(moments.uniform(0, 4 * SECONDS))
        process.kill()
        process.communicate()
        whole = _contents(folder)
        assert whole.items() <= _contents(undisturbed).items(), "a visible folder is not whole"
        assert len(whole) % stub_stages.FILES == 0
        run_all(source, folder)
        assert _contents(folder) == _contents(undisturbed)
        assert [path.name for path in folder.glob(".partial*")] == []


def test_what_was_done_is_kept(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = _start(source, folder)
    _wait_for("segment", folder)
    while len(list(folder.glob(".partial-segment-*/part_*"))) < 3:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    marks = {name: (folder / name / "stage.json").stat().st_mtime_ns for name in ("radiance", "density")}
    summaries = run_all(source, folder)
    assert {name: (folder / name / "stage.json").stat().st_mtime_ns for name in marks} == marks
    assert summaries["segment"].endswith(("1 files", "2 files"))  # the file that the kill hit, and the last


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_is_one_line_that_says_how_to_go_on(
    number: int, status: int, source: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = _start(source, folder)
    _wait_for("density", folder)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert errors.splitlines() == [
        f"stopped; what is done is kept, go on with: stub_stages.py {source} {folder} {SECONDS}"
    ]
    assert (folder / "radiance" / "stage.json").exists()
    run_all(source, folder)
    assert _contents(folder) == _contents(undisturbed)


def test_two_runs_at_once(source: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = _start(source, folder)
    _wait_for("radiance", folder)
    second = _start(source, folder)
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"error: {folder}: process {first.pid} on ")
    _, errors = first.communicate(timeout=30)
    assert (first.returncode, errors) == (0, "")
    assert _contents(folder) == _contents(undisturbed)


def test_lock_of_a_killed_process_is_free(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = _start(source, folder)
    _wait_for("radiance", folder)
    process.kill()
    process.communicate()
    assert working_stage(folder) is None
    assert os.path.exists(folder / ".lock")
    run_all(source, folder)
