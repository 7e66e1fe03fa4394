"""Whether tiny-cuda-nn works: tried once in a process of its own, since a bad build crashes or hangs the one it is in.

`python -m instance_nerfstudio.hash_grids.tcnn_probe` is that process; its exit status is the answer.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from rcnn.errors import InputError
from rcnn.safe_files import read_json, write_atomically

TIMEOUT = 120.0
"""Seconds after which the smoke test counts as failed; it takes about ten, most of them imports."""


def tcnn_problem(device: torch.device) -> str | None:
    """Why tiny-cuda-nn can't be used on `device`, as part of a sentence; None if it can.

    The smoke test's answer is remembered per tiny-cuda-nn build, torch version and GPU in `answers_path()`.
    """
    if find_spec("tinycudann") is None:
        return "tiny-cuda-nn is not installed"
    if device.type != "cuda":
        return "tiny-cuda-nn needs a CUDA device"
    key = f"tiny-cuda-nn {_tcnn_build()}, torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    answers = _read_answers()
    if key not in answers:
        answers[key] = run_smoke_test(device, TIMEOUT)
        with suppress(OSError):  # no place for it: the next process asks again
            write_atomically(answers_path(), json.dumps(answers, indent=1).encode())
    return answers[key] and f"tiny-cuda-nn's smoke test failed: {answers[key]} (remembered in {answers_path()})"


def answers_path() -> Path:
    """File of remembered answers in the user's cache folder; deleting it asks anew."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "instance-nerf", "tcnn_smoke_test.json")


def run_smoke_test(device: torch.device, timeout: float) -> str | None:
    """Trains a tiny tiny-cuda-nn network for one step in a child process. None if that works, else what happened."""
    command = [sys.executable, "-P", "-m", "instance_nerfstudio.hash_grids.tcnn_probe", str(device)]
    paths = os.pathsep.join(path for path in sys.path if path)  # the child finds what this process finds
    try:
        result = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout:.0f} s"
    if result.returncode < 0:
        return f"it died of signal {-result.returncode}"
    if result.returncode > 0:
        return (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1][:200]
    return None


def _tcnn_build() -> str:
    """Version and build time: a build from another commit, or for another toolchain, often has the same version."""
    try:
        number = version("tinycudann")
    except PackageNotFoundError:
        number = "of unknown version"
    spec = find_spec("tinycudann")
    try:
        return f"{number} of {os.stat(spec.origin).st_mtime_ns}" if spec and spec.origin else number
    except OSError:
        return number


def _read_answers() -> dict[str, str | None]:
    """Remembered answers; none if the file is missing or damaged."""
    try:
        answers = read_json(answers_path())
    except InputError:
        return {}
    return {key: value for key, value in answers.items() if value is None or isinstance(value, str)}


def _smoke_test(device: str) -> None:
    """The parts that nerfacto uses, forward and backward, at its widths.

    Raises:
        RuntimeError: a result is not finite. tiny-cuda-nn raises, crashes or hangs in its own ways.
    """
    import tinycudann as tcnn  # type: ignore[import-not-found]

    grid = {
        "otype": "HashGrid",
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 15,
        "base_resolution": 16,
        "per_level_scale": 1.38,
    }
    mlp = {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": 64,
        "n_hidden_layers": 1,
    }
    field = tcnn.NetworkWithInputEncoding(n_input_dims=3, n_output_dims=16, encoding_config=grid, network_config=mlp)
    head = tcnn.Network(n_input_dims=16, n_output_dims=3, network_config=mlp)
    field, head = field.to(device), head.to(device)
    out = head(field(torch.rand(4096, 3, device=device)))
    out.float().square().mean().backward()
    results = [out, *(parameter.grad for module in (field, head) for parameter in module.parameters())]
    if not all(result is not None and bool(result.isfinite().all()) for result in results):
        raise RuntimeError("a result is not finite")


if __name__ == "__main__":
    _smoke_test(sys.argv[1])
