"""Work shared out over processes, each with a device of its own."""

import os

import pytest

from instance_nerfstudio.device_pool import run_on_devices


def test_every_process_sees_one_gpu_and_every_item_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    results = list(run_on_devices(os.getenv, ["CUDA_VISIBLE_DEVICES"] * 6, ["cuda:1"]))
    assert results == [("CUDA_VISIBLE_DEVICES", "7")] * 6
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    both = run_on_devices(os.getenv, ["CUDA_VISIBLE_DEVICES"] * 6, ["cuda:0", "cuda:2"])
    assert {value for _, value in both} <= {"0", "2"}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_one_failure_does_not_stop_the_others() -> None:
    results = dict(run_on_devices(int, ["1", "x", "3"], ["cpu", "cpu"]))
    assert (results["1"], results["3"]) == (1, 3)
    assert isinstance(results["x"], ValueError)


def test_a_killed_process_is_a_failure_and_not_a_hang() -> None:
    results = run_on_devices(os._exit, [3], ["cpu"])
    assert isinstance(next(results)[1], Exception)
