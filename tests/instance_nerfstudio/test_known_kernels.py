"""Kernels that are known before nerfstudio has loaded: those of a rehearsal, in all that Triton compiles for."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from instance_nerfstudio import compile_ahead as ahead, method_config
from instance_nerfstudio.compile_ahead import rehearsed_launches
from instance_nerfstudio.hash_grids import implementation
from instance_nerfstudio.known_kernels import described, known_launches
from instance_nerfstudio.model_options import instance_nerfacto_model

CUDA = torch.device("cuda", 0)


def test_they_are_those_of_a_rehearsal(closed_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else: python tests/benchmarks/kernel_compile.py --write."""
    monkeypatch.setattr(implementation, "triton_problem", lambda *_: None)
    rehearsed = rehearsed_launches(instance_nerfacto_model(), CUDA)
    assert {launch.variant for launch in known_launches()} == {launch.variant for launch in rehearsed}
    assert described(rehearsed) == described(known_launches())
    assert {aligned for one in described(rehearsed) for _, aligned in filter(_is_tensor, one["arguments"])} == {
        True,
        False,
    }


def test_they_are_the_methods() -> None:
    assert instance_nerfacto_model() == method_config.instance_nerfacto.config.pipeline.model


def test_they_load_without_nerfstudio() -> None:
    code = (
        "import sys, instance_nerfstudio.compile_threads, instance_nerfstudio.known_kernels as known\n"
        "print(len(known.known_launches()) > 0, 'nerfstudio' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["True", "False"], result.stderr


@pytest.mark.parametrize(
    ("options", "chosen", "expected"),
    [({}, "triton", ["known"]), ({"instance_start_step": 7}, "triton", ["known"]),
     ({"hidden_dim": 32}, "triton", ["rehearsed"]), ({}, "tcnn", []), ({"hidden_dim": 32}, "tcnn", [])],
)  # fmt: skip
def test_the_trainer_rehearses_other_options_only(options, chosen, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_done", set())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ahead, "choose_implementation", lambda *_: chosen)
    monkeypatch.setattr(ahead, "rehearsed_launches", lambda *_: ["rehearsed"])
    monkeypatch.setattr(ahead, "known_launches", lambda: ["known"])
    compiled: list[Any] = []
    monkeypatch.setattr(ahead, "compile_in_threads", lambda launches, _: compiled.append(launches))
    ahead.compile_ahead(replace(instance_nerfacto_model(), **options), CUDA)
    assert compiled == [expected]


def _is_tensor(argument: Any) -> bool:
    return isinstance(argument, list)
