"""Kernels compiled before they are needed: which, in which variants, and what becomes of failures."""

import importlib
import random
import subprocess
import sys
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from instance_nerfstudio import compile_ahead as ahead, compile_threads, kernel_launch
from instance_nerfstudio.compile_ahead import compile_ahead, expected_launches, rehearsed_launches
from instance_nerfstudio.compile_threads import compile_in_threads
from instance_nerfstudio.hash_grids import implementation
from instance_nerfstudio.instance_trainer import InstanceTrainer
from instance_nerfstudio.kernel_launch import Launch, launch, noted_launches

CUDA = torch.device("cuda", 0)
OPTIONS = {"implementation": "triton", "use_label_regularization": False, "instance_samples_per_ray": 5}

# Runs where no GPU is: Triton takes one for given, and loads nothing.
COMPILES = """
import sys, types
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from instance_nerfstudio.hash_grids.hash_grid_triton import hash_encode
from instance_nerfstudio.kernel_launch import noted_launches

driver.set_active(types.SimpleNamespace(
    get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0, get_current_stream=lambda _: 0))
compiled = []
knobs.compilation.listener = lambda **told: compiled.append(told["cache_hit"])

def warm_up(device, points, table):
    with noted_launches() as launches, torch.no_grad():
        x = torch.zeros(points, 3, device=device)
        hash_encode(torch.zeros(table, 2, device=device), x, torch.ones(2, device=device))
    (launch,) = launches
    return launch.kernel.warmup(*launch.arguments, grid=(1,), **launch.constants)

assert b"ELF" in warm_up("meta", 32, 64).asm["cubin"]
warm_up("meta", 7, 64)
warm_up("meta", 1, 64)
assert compiled == [False], compiled
warm_up("meta", 32, 128)
assert compiled == [False, False], compiled
print("compiled")
"""


ENDS = """
import contextlib, sys, time
import torch
from instance_nerfstudio import compile_threads
from instance_nerfstudio.kernel_launch import Launch

compile_threads.core_count = lambda: 1
torch.cuda.device = lambda _: contextlib.nullcontext()

class Kernel:
    def warmup(self, number, grid):
        print("compiling", flush=True)
        time.sleep(1)

compile_threads.compile_in_threads([Launch(Kernel(), (1.5,), {}) for _ in range(100)], None)
sys.exit(3)
"""


class Kernel:
    """Stands in for a Triton kernel; keeps the events in order."""

    def __init__(self, events: list[str], compiling: Any = None) -> None:
        self.events, self.compiling = events, compiling

    def warmup(self, *_: Any, **__: Any) -> Any:
        if self.compiling is not None:
            self.compiling()
        self.events.append("compiled")
        return {(1, 1, 1): None}

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *_, **__: self.events.append("launched")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_done", set())
    monkeypatch.setattr(kernel_launch, "_awaited", {})
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "device", lambda _: torch.inference_mode(False))


@pytest.fixture
def triton_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are built for Triton wherever they are."""
    pytest.importorskip("triton")
    monkeypatch.setattr(implementation, "triton_problem", lambda _: None)


def noted(kernel: Any, *numbers: int) -> Launch:
    with noted_launches() as launches:
        launch(kernel, (1,), torch.empty(4, device="meta"), *numbers, block=16)
    return launches[0]


def random_states() -> str:
    numbers: Any = np.random.get_state()  # noqa: NPY002
    return repr((torch.get_rng_state().tolist(), random.getstate(), numbers[1].tolist()))


def test_on_the_meta_device_nothing_runs() -> None:
    events: list[str] = []
    launch(Kernel(events), (1,), torch.empty(4, device="meta"))
    with noted_launches() as launches:
        launch(Kernel(events), (1,), torch.empty(4, device="meta"), 3, block=16)
        launch(Kernel(events), (1,), torch.empty(4), 3, block=16)
    assert events == ["launched"]
    assert [(noted.arguments[1:], noted.constants) for noted in launches] == [((3,), {"block": 16})]


def test_variants_are_what_triton_compiles_for() -> None:
    kernel, base = Kernel([]), torch.empty(64, device="meta")
    first = Launch(kernel, (base, 32), {"block": 16}).variant
    assert Launch(kernel, (torch.empty(3, 8), 160), {"block": 16}).variant == first
    others = [
        Launch(Kernel([]), (base, 32), {"block": 16}),
        Launch(kernel, (base.half(), 32), {"block": 16}),
        Launch(kernel, (base[1:], 32), {"block": 16}),
        Launch(kernel, (base, 1), {"block": 16}),
        Launch(kernel, (base, 7), {"block": 16}),
        Launch(kernel, (base, 2**31), {"block": 16}),
        Launch(kernel, (base, 1.0), {"block": 16}),
        Launch(kernel, (base, 32), {"block": 32}),
    ]
    assert len({first, *(other.variant for other in others)}) == 1 + len(others)


def test_each_variant_is_compiled_once_and_its_launches_wait_for_it() -> None:
    events: list[str] = []
    ready = Event()
    slow, quick = Kernel(events, lambda: ready.wait(20)), Kernel([])
    compile_in_threads([noted(slow, 32), noted(quick, 32), noted(slow, 64)], CUDA)
    launch(quick, (1,), torch.empty(4), 32, block=16)
    assert quick.events == ["compiled", "launched"]
    launch(slow, (1,), torch.empty(4), 33, block=16)  # another variant
    assert events == ["launched"]
    waiting = Thread(target=launch, args=(slow, (1,), torch.empty(4), 48), kwargs={"block": 16})
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    ready.set()
    waiting.join(20)
    assert events == ["launched", "compiled", "launched"]
    assert kernel_launch._awaited == {}


def test_a_kernel_that_does_not_compile_is_left_to_its_launch() -> None:
    def fail() -> None:
        raise RuntimeError("no compiler")

    broken, sound = Kernel([], fail), Kernel([])
    compile_in_threads([noted(broken, 32), noted(sound, 32)], CUDA)
    for kernel in (broken, sound):
        launch(kernel, (1,), torch.empty(4), 32, block=16)
    assert broken.events == ["launched"]
    assert sound.events == ["compiled", "launched"]


def test_a_process_that_ends_compiles_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_threads, "main_thread", lambda: SimpleNamespace(is_alive=lambda: False))
    kernel = Kernel([])
    compile_threads._compile(noted(kernel, 32), CUDA)
    assert kernel.events == []


def test_without_threads_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    kernel = Kernel([])
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", fail)
        compile_in_threads([noted(kernel, 32), noted(kernel, 1)], CUDA)
    launch(kernel, (1,), torch.empty(4), 32, block=16)
    assert kernel.events == ["launched"]


def test_a_process_that_ends_early_waits_for_no_more_than_is_begun() -> None:
    result = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=90)
    assert result.returncode == 3, result.stderr
    assert 1 <= result.stdout.count("compiling") <= 3


def test_nothing_is_compiled_without_a_gpu_nor_twice(make_config, shared_scene, tmp_path, monkeypatch) -> None:
    config = make_config(shared_scene, tmp_path, **OPTIONS).pipeline.model
    rehearsed: list[Any] = []
    monkeypatch.setattr(ahead, "expected_launches", lambda *options: rehearsed.append(options) or [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    compile_ahead(config, torch.device("cpu"))
    compile_ahead(config, CUDA)
    assert rehearsed == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    compile_ahead(config, CUDA)
    compile_ahead(replace(config, instance_start_step=7), CUDA)
    assert rehearsed == [(config, CUDA)]
    compile_ahead(replace(config, hidden_dim=24), CUDA)
    assert len(rehearsed) == 2


def test_a_rehearsal_that_fails_is_forgotten(make_config, shared_scene, tmp_path, monkeypatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("unforeseen option")

    monkeypatch.setattr(ahead, "_throwaway_model", fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ahead, "choose_implementation", lambda *_: "triton")
    compile_ahead(make_config(shared_scene, tmp_path).pipeline.model, CUDA)


def test_other_implementations_have_no_kernels(make_config, shared_scene, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ahead, "choose_implementation", lambda *_: "tcnn")
    assert expected_launches(make_config(shared_scene, tmp_path).pipeline.model, CUDA) == []


def test_the_trainer_compiles_before_it_reads_photos(make_config, shared_scene, tmp_path, monkeypatch) -> None:
    config = make_config(shared_scene, tmp_path)
    calls: list[Any] = []
    monkeypatch.setattr(
        "instance_nerfstudio.instance_trainer.compile_ahead", lambda *options: calls.append(("compile", *options))
    )
    monkeypatch.setattr("nerfstudio.engine.trainer.Trainer.setup", lambda *_: calls.append("photos"))
    config.set_timestamp()
    InstanceTrainer(config).setup()
    assert calls == [("compile", config.pipeline.model, torch.device("cpu")), "photos"]


@pytest.mark.parametrize("options", [{}, {"predict_normals": True}, {"instance_samples_per_ray": 0}])
def test_rehearsed_launches_are_those_of_training_and_rendering(
    make_pipeline, triton_everywhere, monkeypatch, options
) -> None:
    pipeline = make_pipeline(**{**OPTIONS, **options})
    state, options_before = random_states(), repr(pipeline.model.config)
    rehearsed = {launch.variant for launch in rehearsed_launches(pipeline.model.config, CUDA)}
    assert (random_states(), repr(pipeline.model.config)) == (state, options_before)

    # On a CPU, launches are noted too, and what kernels would write stays zero.
    real: set[Any] = set()
    folder = "instance_nerfstudio."
    for module in ("hash_grids.hash_grid_triton", "fused_mlp_triton", "fused_proposals_triton", "drawn_samples_triton"):
        monkeypatch.setattr(
            importlib.import_module(folder + module),
            "launch",
            lambda kernel, _, *given, **constants: real.add(Launch(kernel, given, constants).variant),
        )
    for module in ("hash_grids.hash_grid", "fused_mlp", "fused_proposals", "instance_outputs"):
        monkeypatch.setattr(importlib.import_module(folder + module), "takes_kernels", lambda _: True)
    monkeypatch.setattr(torch, "empty", torch.zeros)
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
    pipeline.model.instances_active = True
    for step in (0, 10):
        pipeline.model.proposal_sampler._step = step
        _, losses, _ = pipeline.get_train_loss_dict(step)
        torch.stack(list(losses.values())).sum().backward()
    camera, _ = pipeline.datamanager.next_eval_image(0)
    pipeline.model.render(camera)
    assert len(rehearsed) > 8
    assert rehearsed == real


def test_a_noted_launch_compiles_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run([sys.executable, "-c", COMPILES], env=environment, capture_output=True, text=True)
    assert "compiled" in result.stdout, result.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_gpu_nothing_is_left_to_compile(make_config, train, shared_scene, tmp_path, monkeypatch) -> None:
    from triton import knobs

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    compiled: list[str] = []
    monkeypatch.setattr(
        knobs.compilation, "listener", lambda **told: told["cache_hit"] or compiled.append(str(told["src"].fn))
    )
    # Sizes of its own, so that no other test has compiled for them.
    config = make_config(shared_scene, tmp_path, **OPTIONS, hidden_dim=24, log2_hashmap_size=11)
    config.machine.device_type = "cuda"
    implementation.choose_implementation("triton", "cuda:0")
    compiled.clear()
    compile_ahead(config.pipeline.model, CUDA)
    pending: list[Future[None]] = list(kernel_launch._awaited.values())
    wait(pending)
    assert [future.exception() for future in pending] == [None] * len(pending)
    assert len(compiled) > 3
    compiled.clear()
    pipeline = train(config).pipeline
    camera, _ = pipeline.datamanager.next_eval_image(0)
    pipeline.model.render(camera)
    assert compiled == []
