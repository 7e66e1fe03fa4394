"""Whether gsplat can run here, asked before anything starts.

gsplat comes as Python code alone: its first use compiles its kernels, for minutes, and what is missing shows only then,
as an attribute of None.
"""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch

from instance_nerfstudio.errors import InputError

_EXTENSION = "gsplat_cuda"


def why_gsplat_cannot_run() -> str | None:
    """What gsplat needs and does not have here, in one line; None where nothing is missing.

    Compiles nothing and does not import gsplat.
    """
    problem = _problem()
    return problem and f"gsplat needs {problem[0]}"


def require_gsplat() -> None:
    """Returns where gsplat can run.

    Raises:
        InputError: what is missing and what to do.
    """
    if problem := _problem():
        raise InputError("instance-splatfacto needs {}; {}".format(*problem))


def _problem() -> tuple[str, str] | None:
    """What is missing, and what to do."""
    if not torch.cuda.is_available():
        why = "finds none" if torch.version.cuda else "is a build without CUDA"
        return f"a CUDA device, and torch {torch.__version__} {why}", "use a machine with an NVIDIA GPU"
    package = find_spec("gsplat")
    if package is None or package.origin is None:
        return "gsplat", "pip install gsplat==1.4.0"
    folder = Path(package.origin).parent
    if any(folder.glob("csrc*.so")) or any(folder.glob("csrc*.pyd")):
        return None  # a wheel with kernels
    # gsplat looks for nvcc in PATH, and torch for ninja, even where the kernels were compiled before.
    if shutil.which("nvcc") is None:
        return (
            "nvcc to compile gsplat's kernels, and PATH has none",
            f"install the CUDA toolkit {torch.version.cuda} and put its bin folder into PATH",
        )
    if shutil.which("ninja") is None:
        return "ninja to compile gsplat's kernels, and PATH has none", "activate the environment, or pip install ninja"
    # Imported here: without a CUDA device, its import warns.
    from torch.utils.cpp_extension import CUDA_HOME, _get_build_directory, get_cxx_compiler

    try:
        build_folder = Path(_get_build_directory(_EXTENSION, verbose=False))
    except OSError as error:
        return f"a folder for its kernels ({error})", "set TORCH_EXTENSIONS_DIR to a folder that can be written to"
    if any((build_folder / f"{_EXTENSION}{ending}").exists() for ending in (".so", ".lib")):
        return None
    if not os.access(build_folder.parent, os.W_OK):
        return (
            f"to write its kernels into {build_folder.parent}, which is read-only",
            "set TORCH_EXTENSIONS_DIR to a folder that can be written to",
        )
    # torch guesses CUDA_HOME from where nvcc is, wrongly where that is a script or a link outside the toolkit.
    headers = ("include/cuda_runtime.h", "targets/*/include/cuda_runtime.h")
    if CUDA_HOME is None or not any(header for pattern in headers for header in Path(CUDA_HOME).glob(pattern)):
        return (
            f"the CUDA toolkit to compile gsplat's kernels, and CUDA_HOME ({CUDA_HOME}) has no include/cuda_runtime.h",
            "set CUDA_HOME to the toolkit's folder",
        )
    compiler = get_cxx_compiler()
    if shutil.which(compiler.partition(" ")[0]) is None:  # "ccache g++" is fine
        return (
            f"a C++ compiler to compile gsplat's kernels, and there is no {compiler}",
            "install g++, or set CXX to the compiler",
        )
    return None
