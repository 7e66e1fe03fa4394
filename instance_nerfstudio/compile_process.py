"""The kernels of `instance-nerf demo`, compiled in a process of its own while everything else loads.

Python runs one thread at a time: beside threads that compile, nerfstudio takes twice as long to load. Here nothing
heavy is imported before that process has started, and the process loads torch and Triton only.
"""

import os
import shutil
import signal
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

from rcnn.worker_pool import core_count

_FEWEST_CORES = 4
"""With fewer it would only be in the way."""


def start_compiling() -> BaseProcess | None:
    """Starts to compile what training `instance-nerfacto` launches, into Triton's cache on disk.

    Returns:
        The process, which ends with this one; None without an NVIDIA driver, with few cores, or where tiny-cuda-nn
        may do the work.
    """
    if shutil.which("nvidia-smi") is None or core_count() < _FEWEST_CORES or find_spec("tinycudann") is not None:
        return None
    process = get_context("spawn").Process(target=_compile, name="compile", daemon=True)
    process.start()
    return process


def _compile() -> None:
    """Runs in the process. What fails here is compiled, or told, where it is launched."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches this process too, which has nothing to say
    warnings.filterwarnings("ignore")
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere), suppress(Exception):
        import torch

        if torch.cuda.is_available():
            from instance_nerfstudio.compile_threads import compile_in_threads
            from instance_nerfstudio.known_kernels import known_launches

            for kernel in compile_in_threads(known_launches(), torch.device("cuda", torch.cuda.current_device())):
                kernel.exception()
