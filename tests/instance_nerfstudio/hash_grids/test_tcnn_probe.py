"""The smoke test of tiny-cuda-nn, run on modules that only look like it."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from instance_nerfstudio.hash_grids import tcnn_probe
from instance_nerfstudio.hash_grids.tcnn_probe import answers_path, run_smoke_test, tcnn_problem

WORKS = """
import torch
class _Linear(torch.nn.Module):
    def __init__(self, n_input_dims, n_output_dims, network_config, encoding_config=None):
        super().__init__()
        assert encoding_config is None or encoding_config["otype"] == "HashGrid"
        self.params = torch.nn.Parameter(torch.ones(n_input_dims, n_output_dims))
    def forward(self, x):
        return x @ self.params
NetworkWithInputEncoding = Network = _Linear
"""
RAISES = "raise OSError('first line\\nlibcudart.so.99: cannot open')"
HANGS = "import time; time.sleep(60)"
CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
NOT_FINITE = WORKS.replace("x @ self.params", "x @ self.params / 0")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def fake_tcnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a `tinycudann` of this content on the path, for this process and its children, and an empty cache."""
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA Test")

    def install(content: str) -> Path:
        path = tmp_path / "packages" / "tinycudann.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        importlib.invalidate_caches()
        return path

    return install


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (WORKS, None),
        (RAISES, "libcudart.so.99: cannot open"),
        (CRASHES, "it died of signal 11"),
        (NOT_FINITE, "RuntimeError: a result is not finite"),
    ],
)
def test_answers_of_the_smoke_test(fake_tcnn, content, expected):
    fake_tcnn(content)
    answer = run_smoke_test(CPU, timeout=60)
    if expected is None:
        assert answer is None
    else:
        assert answer is not None
        assert expected in answer


def test_a_hanging_module_is_given_up(fake_tcnn):
    fake_tcnn(HANGS)
    assert run_smoke_test(CPU, timeout=1) == "no answer within 1 s"


@pytest.fixture
def smoke_tests(monkeypatch) -> list[torch.device]:
    """Devices on which smoke tests ran; each finds a crash."""
    runs: list[torch.device] = []

    def run(device: torch.device, timeout: float) -> str:
        runs.append(device)
        return "it died of signal 11"

    monkeypatch.setattr(tcnn_probe, "run_smoke_test", run)
    return runs


def test_the_answer_is_remembered_per_build(fake_tcnn, smoke_tests):
    fake_tcnn(WORKS)
    problem = tcnn_problem(CUDA)
    assert problem is not None
    assert "it died of signal 11" in problem
    assert str(answers_path()) in problem
    assert tcnn_problem(CUDA) == problem
    assert len(smoke_tests) == 1
    (key,) = json.loads(answers_path().read_text())
    assert torch.__version__ in key
    assert "NVIDIA Test" in key

    answers_path().write_text(json.dumps({key: None}))
    assert tcnn_problem(CUDA) is None
    assert len(smoke_tests) == 1
    fake_tcnn(WORKS + "# built again\n").touch()
    assert tcnn_problem(CUDA) is not None
    assert len(smoke_tests) == 2


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "\x00\xff"])
def test_a_damaged_memory_is_ignored(fake_tcnn, smoke_tests, content):
    fake_tcnn(WORKS)
    answers_path().parent.mkdir(parents=True)
    answers_path().write_text(content, encoding="latin-1")
    assert tcnn_problem(CUDA) is not None
    assert list(json.loads(answers_path().read_text()).values()) == ["it died of signal 11"]
    assert len(smoke_tests) == 1


def test_no_place_for_a_memory(fake_tcnn, smoke_tests):
    fake_tcnn(WORKS)
    answers_path().parent.parent.write_text("a file where the folder should be")
    assert tcnn_problem(CUDA) is not None
    assert tcnn_problem(CUDA) is not None
    assert len(smoke_tests) == 2


def test_nothing_is_run_without_tcnn_or_cuda(fake_tcnn, smoke_tests):
    assert tcnn_problem(CUDA) == "tiny-cuda-nn is not installed"
    fake_tcnn(WORKS)
    assert tcnn_problem(CPU) == "tiny-cuda-nn needs a CUDA device"
    assert not smoke_tests
