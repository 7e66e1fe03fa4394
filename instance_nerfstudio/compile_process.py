"""The kernels of `instance-nerf demo`, compiled in a process of its own while everything else loads.

Python runs one thread at a time: beside threads that compile, nerfstudio takes twice as long to load. Here nothing
heavy is imported before that process has started.
"""

import os
import shutil
import signal
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

from rcnn.worker_pool import core_count

_FEWEST_CORES = 4
"""With fewer it would only be in the way."""


def start_compiling() -> BaseProcess | None:
    """Starts to compile what training `instance-nerfacto` launches, into Triton's cache on disk.

    Returns:
        The process, which ends with this one; None without an NVIDIA driver, or with few cores.
    """
    if shutil.which("nvidia-smi") is None or core_count() < _FEWEST_CORES:
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
            from instance_nerfstudio.compile_ahead import compile_ahead
            from instance_nerfstudio.model_options import instance_nerfacto_model

            for kernel in compile_ahead(instance_nerfacto_model(), torch.device("cuda")):
                kernel.exception()
