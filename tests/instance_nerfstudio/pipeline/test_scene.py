"""The real stages on a scene of two spheres, with a small field and an oracle's segments."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.masks.instance_masks import read_instance_mask, write_instance_mask
from instance_nerfstudio.masks.instances_json import read_instances_json
from instance_nerfstudio.pipeline.options import SceneOptions
from instance_nerfstudio.pipeline.run_scene import run_scene
from instance_nerfstudio.pipeline.stage import StageRecord
from instance_nerfstudio.pipeline.status import scene_status

QUIET = Console(quiet=True)
STAGES = ("radiance", "density", "detect", "segment", "project", "match", "train", "refine-1", "export", "report")


def _record(run: Path, stage: str) -> StageRecord:
    record = StageRecord.read(run / stage)
    assert record is not None
    return record


def _main_id(ids: np.ndarray) -> int:
    found, counts = np.unique(ids, return_counts=True)
    return int(found[counts.argmax()])


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(whole_run, tmp_path / "run")


def test_every_sphere_has_one_id_in_all_views(spheres: SceneOptions, whole_run: Path) -> None:
    names: dict[int, set[int]] = {1: set(), 300: set()}
    for path in (whole_run / "match" / "instance_masks").glob("*.png"):
        truth = read_instance_mask(spheres.data / "instance_masks" / path.name)
        matched = read_instance_mask(path)
        for sphere, ids in names.items():
            if (truth == sphere).sum() > 20:
                ids.add(_main_id(matched[truth == sphere]))
    assert names == {1: {1}, 300: {2}}
    infos = read_instances_json(whole_run / "match" / "instances.json")
    assert [info.category for info in infos] == ["ball", "globe"]


def test_field_renders_what_was_matched(whole_run: Path) -> None:
    assert _record(whole_run, "train").result["agreement"] > 0.6
    assert [info.id for info in read_instances_json(whole_run / "export" / "instances.json")] == [1, 2]  # not 1 and 300
    assert _record(whole_run, "export").result["truth"]["pq_scene"] > 0.6
    exported = sorted(path.name for path in (whole_run / "export" / "instance_masks").glob("*.png"))
    assert exported == ["22.png", "23.png"]


def test_skipped_frame_is_told_and_not_trained_on(whole_run: Path) -> None:
    record = _record(whole_run, "segment")
    assert record.result["skipped"] == ["3.png"]
    assert record.warnings == ["1 of 24 photos have no segments from folder, they teach colour alone: 3.png"]
    masks = {path.stem for path in (whole_run / "match" / "instance_masks").glob("*.png")}
    assert masks == {str(view) for view in range(22)} - {"3"}  # 22 and 23 are held out


def test_report_shows_everything(whole_run: Path) -> None:
    text = (whole_run / "report" / "report.html").read_text()
    assert text.count("data:image/jpeg;base64,") == 2 * 3 + 6 * 3  # only held-out views are exported
    assert all(f"<td>{name}" in text for name in STAGES[:-1])
    assert "they teach colour alone: 3.png" in text
    assert "ball" in text
    assert "globe" in text


def test_status_of_a_finished_run(whole_run: Path) -> None:
    rows = scene_status(whole_run)
    assert [row.stage for row in rows] == list(STAGES)
    assert {row.condition for row in rows} == {"done"}
    assert not list(whole_run.glob(".partial*"))


def test_only_what_depends_on_a_change_runs_again(spheres: SceneOptions, run: Path, small_method: None) -> None:
    """Also of a run folder and a scene that were moved; without a detector, for consensus finds the spheres alone."""
    scene = Path(shutil.copytree(spheres.data, run.parent / "elsewhere"))
    moved = replace(spheres, data=scene)
    before = {name: (run / name / "stage.json").stat().st_mtime_ns for name in STAGES}

    def again() -> list[str]:
        return [name for name in STAGES if (run / name / "stage.json").stat().st_mtime_ns != before[name]]

    run_scene(moved, run, QUIET)
    assert again() == []
    none = replace(spheres.detect, detect="none", instances=None)
    run_scene(replace(moved, detect=none, match=replace(spheres.match, matcher="consensus")), run, QUIET)
    assert again() == ["detect", "project", "match", "train", "refine-1", "export", "report"]
    assert _record(run, "match").result["new"] >= 2
    assert _record(run, "export").result["truth"]["pq_scene"] > 0.5


def test_interrupted_training_goes_on_from_its_checkpoint(
    spheres: SceneOptions, small_method: None, tmp_path: Path, monkeypatch
) -> None:
    from instance_nerfstudio.instance_trainer import InstanceTrainer

    options = replace(spheres, radiance=replace(spheres.radiance, radiance_iterations=50))
    run, real = tmp_path / "run", InstanceTrainer.save_checkpoint

    def save(self: InstanceTrainer, step: int) -> None:
        real(self, step)
        if step == 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(InstanceTrainer, "save_checkpoint", save)
        with pytest.raises(KeyboardInterrupt):
            run_scene(options, run, QUIET, only="radiance")
    row = scene_status(run)[0]
    assert (row.condition, row.note) == ("missing", "interrupted")
    steps: list[int] = []
    monkeypatch.setattr(InstanceTrainer, "save_checkpoint", lambda self, step: (steps.append(step), real(self, step)))
    record = run_scene(options, run, QUIET, only="radiance")["radiance"]
    assert steps == [30, 40, 49]
    assert record.resumed
    assert [path.name for path in run.glob("radiance/*/run/nerfstudio_models/*")] == ["step-000000049.ckpt"]
    assert ".partial" not in (run / "radiance" / record.result["config"]).read_text()


def test_given_field_is_taken(spheres: SceneOptions, whole_run: Path, tmp_path: Path) -> None:
    trained = whole_run / "radiance" / "instance-nerfacto-cpu" / "run"
    given = Path(shutil.copytree(trained, tmp_path / "given" / "instance-nerfacto-cpu" / "run"))
    taken = replace(spheres, radiance=replace(spheres.radiance, radiance=given, method="auto"))
    run = tmp_path / "run"
    record = run_scene(taken, run, QUIET, only="radiance")["radiance"]
    assert record.result["method"] == "instance-nerfacto-cpu"
    assert record.result["config"] == str(given / "config.yml")
    record = run_scene(taken, run, QUIET, only="density")["density"]
    assert record.result["resolution"] == [24, 24, 16]
    (checkpoint,) = given.glob("nerfstudio_models/*.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes() + b"trained on")
    run_scene(taken, run, QUIET, only="radiance")
    assert scene_status(run)[1].condition == "stale"


def test_field_that_is_not_there_is_one_line(spheres: SceneOptions, tmp_path: Path) -> None:
    missing = replace(spheres, radiance=replace(spheres.radiance, radiance=tmp_path))
    with pytest.raises(InputError, match=r"config\.yml: no such file; .*--radiance"):
        run_scene(missing, tmp_path / "run", QUIET, only="radiance")


def test_nothing_found_is_one_line(spheres: SceneOptions, tmp_path: Path) -> None:
    for path in (spheres.data / "instance_masks").glob("*.png"):
        write_instance_mask(tmp_path / "empty" / path.name, np.zeros((24, 32), np.int32))
    empty = replace(spheres, segment=replace(spheres.segment, masks=tmp_path / "empty"))
    with pytest.raises(InputError, match=r"scene: folder found no segment in any of 24 photos; .*--source"):
        run_scene(empty, tmp_path / "run", QUIET, only="segment")


def test_matcher_without_3d_instances_is_one_line(spheres: SceneOptions, run: Path) -> None:
    none = replace(spheres, detect=replace(spheres.detect, detect="none", instances=None))
    with pytest.raises(InputError, match=r"--matcher hungarian: matches to 3D instances, and `detect` gave none"):
        run_scene(none, run, QUIET)


def test_missing_detector_is_one_line(spheres: SceneOptions, run: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rcnn.weights.SHIPPED", tmp_path / "rooms.safetensors")
    shipped = replace(spheres, detect=replace(spheres.detect, instances=None))
    with pytest.raises(InputError, match=r"--detector FILE, 3D instances with --instances FILE, .* --detect none"):
        run_scene(shipped, run, QUIET, only="detect")


def test_scene_that_is_none_leaves_no_folder(spheres: SceneOptions, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"transforms\.json: no such file"):
        run_scene(replace(spheres, data=tmp_path / "nothing"), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()
