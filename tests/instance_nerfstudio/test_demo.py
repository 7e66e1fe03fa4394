"""Pieces of the demo; the whole of it is run by CI as users run it."""

import gc
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instance_nerfstudio import cli, compile_ahead, demo
from instance_nerfstudio.beside import beside
from instance_nerfstudio.contact_sheet import write_contact_sheet
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.hash_grids import implementation
from instance_nerfstudio.masks.instances_json import InstanceInfo
from rcnn.instance_palette import colour_instances_uint8

SCORES = {"psnr": 30.0, "instance_miou": 0.9, "pq": 0.8, "pq_scene": 0.85}


def test_contact_sheet_has_a_row_per_view_and_a_legend(tmp_path: Path) -> None:
    photo, rendered, truth, predicted, error = ((10, 20, 30), (40, 50, 60), (70, 80, 90), (100, 110, 120), (255, 0, 0))
    for view in range(2):
        for name, colours in (("img", (photo, rendered)), ("instances", (truth, predicted, error))):
            picture = np.concatenate([np.full((24, 32, 3), colour, dtype=np.uint8) for colour in colours], axis=1)
            Image.fromarray(picture).save(tmp_path / f"eval_{name}_{view:04d}.png")
    infos = [InstanceInfo(id=5, category="sofa"), InstanceInfo(id=300, category="lamp")]
    write_contact_sheet(tmp_path / "sheet.png", tmp_path, infos, SCORES)

    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    middle = [(i * 2 + 1) * sheet.shape[1] // 10 for i in range(5)]
    for y in (76 + 120, 76 + 240 + 6 + 120):  # the middle of either row
        assert [tuple(sheet[y, x]) for x in middle] == [photo, rendered, truth, predicted, error]
    below = {tuple(colour) for colour in sheet[76 + 2 * 246 :].reshape(-1, 3)}
    assert {tuple(colour_instances_uint8(np.array(info.id))) for info in infos} <= below
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("keep")
    with pytest.raises(InputError, match=r"taken: can't be created .*--output-dir"):
        demo.run_demo(tmp_path / "taken")


def test_presets_fit_the_machine(monkeypatch) -> None:
    for cuda, width, method, cameras in (
        (True, 320, "instance-nerfacto", "all"),
        (False, 160, "instance-nerfacto-cpu", "eval"),
    ):
        monkeypatch.setattr(demo.torch.cuda, "is_available", lambda cuda=cuda: cuda)
        preset = demo.demo_preset()
        assert demo.demo_room().width == width
        assert (preset.config.method_name, preset.export_cameras) == (method, cameras)
        assert preset.instance_start_step < preset.iterations


def test_work_beside_hands_over_its_result_or_its_error() -> None:
    assert beside(lambda: 3).result() == 3
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1 // 0).result()


def test_on_a_gpu_kernels_begin_to_compile_while_the_room_is_built(monkeypatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(demo.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(demo, "_wake_gpu", lambda: done.append("awake"))
    monkeypatch.setattr(compile_ahead, "compile_ahead", lambda *options: done.extend([*options, gc.isenabled()]))
    preset = demo._prepare()
    assert done == ["awake", preset.config.pipeline.model, torch.device("cuda"), False]  # else it compiles anew
    assert gc.isenabled()


def test_a_gpu_that_does_not_wake_is_left_to_training(monkeypatch) -> None:
    def fail(_: torch.device) -> None:
        raise OSError("no C compiler")

    monkeypatch.setattr(implementation, "triton_problem", fail)
    monkeypatch.setattr(demo.torch, "ones", lambda *_, **__: torch.eye(2))
    demo._wake_gpu()


def test_what_takes_seconds_loads_beside_other_work() -> None:
    # The room is built, and the GPU wakes, while nerfstudio loads; kernels compile while its trainer does.
    code = "import sys, instance_nerfstudio.demo; print('nerfstudio' in sys.modules)\n"
    if find_spec("triton") is not None:
        code += "import instance_nerfstudio.hash_grids.hash_grid_triton; print('nerfstudio' in sys.modules)\n"
    code += "import instance_nerfstudio.model_options; print('nerfstudio.engine.trainer' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert set(result.stdout.split()) == {"False"}, result.stderr


def test_command_reports_an_error_in_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    def fail(_: Path) -> None:
        raise InputError("room: no place")

    monkeypatch.setattr(demo, "run_demo", fail)
    monkeypatch.setattr("sys.argv", ["instance-nerf", "demo", "--output-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == "error: room: no place"
