"""Pieces of the demo; the whole of it is run by CI as users run it."""

import gc
import subprocess
import sys
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import torch
from PIL import Image

from instance_nerfstudio import cli, compile_process, compile_threads, demo
from instance_nerfstudio.beside import beside
from instance_nerfstudio.contact_sheet import write_contact_sheet
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.kernel_launch import Launch
from instance_nerfstudio.known_kernels import described, known_launches
from instance_nerfstudio.masks.instances_json import InstanceInfo
from instance_nerfstudio.model_options import instance_nerfacto_model
from instance_nerfstudio.resident_pixels import ResidentPixels
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
        assert demo.demo_room(cuda).width == width
        assert (preset.config.method_name, preset.export_cameras) == (method, cameras)
        assert preset.instance_start_step < preset.iterations


def test_work_beside_hands_over_its_result_or_its_error() -> None:
    assert beside(lambda: 3).result() == 3
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1 // 0).result()


def test_a_gpu_that_does_not_wake_is_left_to_training(monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(demo.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(demo.torch, "ones", fail)
    demo._wake_gpu()


def test_a_tiny_photo_goes_the_way_of_photos(monkeypatch) -> None:
    sampled = []
    sample = ResidentPixels.sample
    monkeypatch.setattr(ResidentPixels, "sample", lambda *args: sampled.append(sample(*args)))
    demo._read_tiny_photo(torch.device("cpu"))
    ((rays, batch),) = sampled
    assert len(rays) == 8
    assert batch["image"].shape == (8, 3)
    assert batch["instances"].shape == (8, 1)


def test_loading_collects_no_garbage_and_leaves_the_collector_on(monkeypatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(demo, "_wake_gpu", lambda: seen.append(gc.isenabled()))
    assert demo._prepare().iterations > 0
    assert seen == [False]
    assert gc.isenabled()


def test_kernels_compile_in_a_process_where_there_is_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(compile_process.shutil, "which", lambda _: None)
    assert compile_process.start_compiling() is None
    monkeypatch.setattr(compile_process.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compile_process, "core_count", lambda: 2)
    assert compile_process.start_compiling() is None
    monkeypatch.setattr(compile_process, "core_count", lambda: 8)
    monkeypatch.setattr(compile_process, "find_spec", lambda name: name)  # tiny-cuda-nn is there
    assert compile_process.start_compiling() is None
    monkeypatch.setattr(compile_process, "find_spec", lambda name: None)
    process = compile_process.start_compiling()
    assert process is not None
    assert process.daemon
    process.join(120)
    assert process.exitcode == 0


def test_the_process_waits_until_all_is_compiled(monkeypatch) -> None:
    asked: list[Launch] = []
    kernels: list[Future[None]] = [Future(), Future()]
    kernels[0].set_exception(ValueError("a kernel that can't be compiled"))

    def compile_two(launches: list[Launch], device: torch.device) -> list[Future[None]]:
        assert device == torch.device("cuda", 0)
        asked.extend(launches)
        Timer(0.3, lambda: kernels[1].set_result(None)).start()
        return kernels

    pytest.importorskip("triton")
    monkeypatch.setattr(compile_threads, "compile_in_threads", compile_two)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(compile_process.signal, "signal", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    compile_process._compile()
    assert kernels[1].done()
    assert described(asked) == described(known_launches())
    assert demo.demo_preset().config.pipeline.model == instance_nerfacto_model()  # else it compiles something else


def test_the_compiler_of_torch_is_not_loaded_with_nerfstudio() -> None:
    code = (
        "from instance_nerfstudio.compat import put_off_compilation; put_off_compilation()\n"
        "import sys, torch, nerfstudio.models.splatfacto as splatfacto\n"
        "print('torch._inductor.compile_fx' in sys.modules)\n"
        "torch.compile = lambda **_: lambda function: lambda *inputs: ('compiled', function(*inputs).shape)\n"
        "print(splatfacto.get_viewmat(torch.eye(4)[None, :3]), splatfacto.get_viewmat.__name__)"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines() == ["False", "('compiled', torch.Size([1, 4, 4])) get_viewmat"], result.stderr


def test_what_takes_seconds_loads_beside_other_work() -> None:
    # The room is begun before torch loads; the GPU wakes while nerfstudio does; kernels compile while its trainer does.
    code = "import sys, instance_nerfstudio.demo_room; print('torch' in sys.modules)\n"
    code += "import instance_nerfstudio.demo; print('nerfstudio' in sys.modules)\n"
    if find_spec("triton") is not None:
        code += "import instance_nerfstudio.hash_grids.hash_grid_triton; print('nerfstudio' in sys.modules)\n"
    code += "import instance_nerfstudio.model_options; print('nerfstudio.engine.trainer' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert set(result.stdout.split()) == {"False"}, result.stderr


def test_command_reports_an_error_in_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise InputError("room: no place")

    monkeypatch.setattr(demo, "run_demo", fail)
    monkeypatch.setattr("sys.argv", ["instance-nerf", "demo", "--output-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == "error: room: no place"
