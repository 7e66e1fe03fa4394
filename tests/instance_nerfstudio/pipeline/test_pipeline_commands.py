"""`instance-nerf run`, `status` and the stages' commands, without the stages' work."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instance_nerfstudio import cli
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.pipeline import run_scene as run_scene_module
from instance_nerfstudio.pipeline.executors import local_processes
from instance_nerfstudio.pipeline.failures import Terminated
from instance_nerfstudio.pipeline.options import MatchOptions, SceneOptions
from instance_nerfstudio.pipeline.run_folder import lock_run_folder
from instance_nerfstudio.pipeline.scene_files import scene_files
from instance_nerfstudio.pipeline.scene_stages import scene_stages
from instance_nerfstudio.pipeline.stage import StageRecord


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["/bin/instance-nerf", *map(str, arguments)])
        cli.main()

    return run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SceneOptions, Path, str | None]]:
    """What would have been run."""
    made: list[tuple[SceneOptions, Path, str | None]] = []

    def run_scene(options: SceneOptions, folder: Path, console: Any = None, only: str | None = None) -> dict:
        made.append((options, folder, only))
        return {}

    monkeypatch.setattr(run_scene_module, "run_scene", run_scene)
    return made


def test_one_scene_runs_in_this_process(scene: Path, tmp_path: Path, command, calls, capsys) -> None:
    chosen = "--matcher seed --source folder --masks m --instances i.npz --refine-rounds 2 --format png coco"
    command("run", "--data", scene, "--out", tmp_path / "out", *chosen.split(), "--min-score", "0.4")
    ((options, folder, only),) = calls
    assert (folder, only) == (tmp_path / "out" / "scene", None)
    assert options.data == scene
    assert options.match == MatchOptions("seed")
    assert (options.segment.source, options.segment.masks, options.segment.flatten.min_score) == (
        "folder", Path("m"), 0.4,
    )  # fmt: skip
    assert options.detect.instances == Path("i.npz")
    assert options.export.format == ("png", "coco")
    assert options.refine.refine_rounds == 2
    assert "report.html" in capsys.readouterr().out


def test_options_survive_their_file(scene: Path, tmp_path: Path, command, calls) -> None:
    command("run", "--data", scene, "--masks", tmp_path / "m", "--format", "coco", "--keyframe-every", "4")
    options = calls[0][0]
    options.save(tmp_path)
    assert SceneOptions.of_folder(tmp_path) == options
    content = json.loads((tmp_path / "options.json").read_text())
    del content["report"], content["segment"]["tracking"]["points_per_side"]  # of an earlier version
    (tmp_path / "options.json").write_text(json.dumps(content))
    assert SceneOptions.of_folder(tmp_path) == options
    content["match"]["unheard_of"] = 1
    (tmp_path / "options.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"options\.json: holds options of another version"):
        SceneOptions.of_folder(tmp_path)


def test_stage_command_has_the_options_of_its_run(scene: Path, tmp_path: Path, command, calls) -> None:
    run = tmp_path / "run"
    command("run", "--data", scene, "--matcher", "hungarian", "--min-area", "0.01", "--resolution", "99")
    run.mkdir()
    calls[0][0].save(run)
    command("segment", run, "--min-score", "0.7")
    command("match", run)
    segment, match = calls[1:]
    assert (segment[1], segment[2]) == (run, "segment")
    assert (segment[0].segment.flatten.min_score, segment[0].segment.flatten.min_area) == (0.7, 0.01)
    assert (segment[0].match.matcher, segment[0].density.resolution) == ("hungarian", 99)
    assert match[0] == calls[0][0]
    command("density", tmp_path / "new", "--data", scene, "--resolution", "50")
    assert calls[3] == (SceneOptions(scene, density=type(segment[0].density)(50)), tmp_path / "new", "density")
    with pytest.raises(SystemExit) as stopped:
        command("density", tmp_path / "nothing")
    assert str(stopped.value.code).startswith(f"error: {tmp_path / 'nothing'}: is no run folder; name its scene")


def test_several_scenes_go_to_the_executor(write_scene, tmp_path: Path, command, monkeypatch, capsys) -> None:
    scenes = [write_scene(tmp_path / name) for name in ("a", "b", "c")]
    monkeypatch.setattr(local_processes, "visible_gpus", lambda: ["1", "4"])
    seen = {}

    def run_locally(jobs: list, devices: list[str], started: Callable) -> Any:
        seen.update(devices=devices, options=[SceneOptions.from_json(job.options, "x").data for job in jobs])
        for job in jobs:
            started(job, devices[0])
            yield job, f"{job.name}: no photos" if job.name == "b" else None

    monkeypatch.setattr(local_processes, "run_locally", run_locally)
    with pytest.raises(SystemExit) as stopped:
        command("run", "--data", *scenes, "--out", tmp_path / "out")
    assert stopped.value.code == "error: 1 scene(s) failed; correct them and give the same command again"
    assert seen == {"devices": ["1", "4"], "options": scenes}
    printed = capsys.readouterr().out.replace("\n", "")
    assert "error: b: no photos" in printed
    assert "2 of 3 scenes done" in printed


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/room", "b/room"), "has the name of"),
        (("a/room", "nothing"), "transforms.json: no such file"),
        ((), "--data is missing"),
    ],
)
def test_scenes_that_cannot_run_are_one_line(write_scene, tmp_path: Path, command, names, message: str) -> None:
    scenes = [write_scene(tmp_path / name) if name.endswith("room") else tmp_path / name for name in names]
    with pytest.raises(SystemExit) as stopped:
        command("run", "--data", *scenes, "--out", tmp_path / "out")
    assert str(stopped.value.code).startswith("error: ")
    assert message in str(stopped.value.code)
    assert "\n" not in str(stopped.value.code)


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_interrupt_says_how_to_go_on(scene: Path, command, monkeypatch, capsys, error, status: int) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(run_scene_module, "run_scene", stop)
    with pytest.raises(SystemExit) as stopped:
        command("run", "--data", scene, "--out", "a b")
    assert stopped.value.code == status
    assert capsys.readouterr().err == (
        f"stopped; what is done is kept, go on with: instance-nerf run --data {scene} --out 'a b'\n"
    )


def test_status_shows_every_stage(scene: Path, tmp_path: Path, command, capsys) -> None:
    run = tmp_path / "out" / "scene"
    options = SceneOptions(scene)
    run.mkdir(parents=True)
    options.save(run)
    (run / "density").mkdir()
    (run / ".partial-radiance-0123").mkdir()
    record = StageRecord("segment", "old", {}, {}, {}, 2.5, False, "", {}, {}, [])
    (run / "segment").mkdir()
    record.write(run / "segment")
    with lock_run_folder(run) as lock:
        lock.tell("detect")
        command("status", tmp_path / "out", "--json")
    (rows,) = json.loads(capsys.readouterr().out).values()
    assert [row["stage"] for row in rows] == [stage.name for stage in scene_stages(options)]
    assert {row["stage"]: row["state"] for row in rows} == {
        "radiance": "missing", "density": "damaged", "detect": "running", "segment": "stale", "project": "missing",
        "match": "missing", "train": "missing", "export": "missing", "report": "missing",
    }  # fmt: skip
    assert rows[0]["note"] == "interrupted"
    assert rows[3]["seconds"] == 2.5
    command("status", run)
    table = capsys.readouterr().out
    assert "its record is gone or damaged" in table
    with pytest.raises(SystemExit) as stopped:
        command("status", tmp_path / "nothing")
    assert "is no run folder and holds none" in str(stopped.value.code)


def test_photos_alone_are_inputs(scene: Path) -> None:
    (scene / "images_2").mkdir()
    (scene / "images_2" / "1.png").write_bytes(b"smaller")
    (scene / "outputs").mkdir()
    (scene / "outputs" / "1.png").write_bytes(b"foreign")
    assert list(scene_files(scene).files()) == [
        *(f"images/{i}.png" for i in range(6)), "images_2/1.png", "transforms.json",
    ]  # fmt: skip
    assert scene_files(scene / "transforms.json").files() == scene_files(scene).files()


def test_help_loads_neither_torch_nor_nerfstudio() -> None:
    script = """
import sys
sys.argv = ["instance-nerf", "run", "--help"]
from instance_nerfstudio import cli
try:
    cli.main()
except SystemExit:
    print("loaded:", [name for name in ("torch", "nerfstudio", "cv2", "scipy") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "loaded: []"
