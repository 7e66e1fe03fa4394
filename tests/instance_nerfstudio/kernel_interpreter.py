"""Triton kernels on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_interpreted(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a test module as a script, its kernels interpreted; the test is skipped without Triton.

    Triton reads the variable when it is imported, so it needs a process that has not imported it yet.
    """
    pytest.importorskip("triton")
    # A script finds the modules of its own folder alone.
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
