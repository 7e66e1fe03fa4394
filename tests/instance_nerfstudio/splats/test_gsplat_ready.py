"""What is missing for gsplat, found before anything starts."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from instance_nerfstudio.errors import InputError
from instance_nerfstudio.splats import gsplat_ready
from instance_nerfstudio.splats.gsplat_ready import require_gsplat, why_gsplat_cannot_run

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """`machine(programs, ...)`: a machine with a CUDA device, a toolkit, a fresh build folder and these programs."""

    def build(
        programs: str = "nvcc ninja c++", *, cuda: bool = True, toolkit: bool = True, wheel: bool = False
    ) -> None:
        package, home, tools = tmp_path / "gsplat", tmp_path / "cuda", tmp_path / "bin"
        for folder in (package, home / "include", tools):
            folder.mkdir(parents=True, exist_ok=True)
        for program in programs.split():
            (tools / program).touch(mode=0o755)
        if toolkit:
            (home / "include" / "cuda_runtime.h").touch()
        if wheel:
            (package / "csrc.so").touch()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(gsplat_ready, "find_spec", lambda name: ModuleSpec(name, None, origin=str(package / "x")))
        monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(home))
        monkeypatch.setenv("PATH", str(tools))
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))

    return build


def test_nothing_is_missing(machine: Machine) -> None:
    machine()
    assert why_gsplat_cannot_run() is None
    require_gsplat()


def test_no_device(machine: Machine) -> None:
    machine(cuda=False)
    with pytest.raises(InputError, match=r"^instance-splatfacto needs a CUDA device, and torch .*; use a machine"):
        require_gsplat()


def test_no_gsplat(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setattr(gsplat_ready, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^instance-splatfacto needs gsplat; pip install"):
        require_gsplat()


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        ("ninja c++", "needs nvcc .*PATH has none; install the CUDA toolkit"),
        ("nvcc c++", "needs ninja .*PATH has none; activate the environment"),
        ("nvcc ninja", r"needs a C\+\+ compiler .*there is no c\+\+; install g\+\+"),
    ],
)
def test_no_program(machine: Machine, programs: str, message: str) -> None:
    machine(programs)
    with pytest.raises(InputError, match=message) as error:
        require_gsplat()
    assert "\n" not in str(error.value)
    why = why_gsplat_cannot_run()
    assert why is not None
    assert why.startswith("gsplat needs ")
    assert why.removeprefix("gsplat ") in str(error.value)


def test_compilers_of_other_names(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("nvcc ninja ccache")
    monkeypatch.setenv("CXX", "ccache g++-14")
    assert why_gsplat_cannot_run() is None
    monkeypatch.setenv("CXX", "g++-14")
    assert "there is no g++-14" in str(why_gsplat_cannot_run())


def test_toolkit_elsewhere(machine: Machine) -> None:
    machine(toolkit=False)
    with pytest.raises(InputError, match=r"CUDA_HOME \(.*cuda\) has no include/cuda_runtime.h; set CUDA_HOME"):
        require_gsplat()


def test_kernels_compiled_before_need_no_compiler(machine: Machine, tmp_path: Path) -> None:
    machine("nvcc ninja", toolkit=False)
    built = tmp_path / "extensions" / "gsplat_cuda" / "gsplat_cuda.so"
    built.parent.mkdir(parents=True)
    built.touch()
    assert why_gsplat_cannot_run() is None
    shutil.rmtree(built.parent)
    assert why_gsplat_cannot_run() is not None


def test_wheel_with_kernels_needs_a_device_alone(machine: Machine) -> None:
    machine("", toolkit=False, wheel=True)
    assert why_gsplat_cannot_run() is None


def test_folder_that_cannot_be_made(machine: Machine, tmp_path: Path) -> None:
    machine()
    (tmp_path / "extensions").touch()
    with pytest.raises(InputError, match=r"needs a folder for its kernels .*; set TORCH_EXTENSIONS_DIR"):
        require_gsplat()


def test_asking_prints_nothing_and_leaves_gsplat_alone() -> None:
    code = (
        "import sys; from instance_nerfstudio.splats.gsplat_ready import why_gsplat_cannot_run; "
        "why_gsplat_cannot_run(); sys.exit('gsplat' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
