"""Training runs: they learn, stop and go on, and give the same result on any number of processes."""

import json
import multiprocessing
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from toy_rooms import TINY, write_toy_rooms

from rcnn.data import GridDataset, SceneReadingConfig, find_scenes
from rcnn.errors import InputError
from rcnn.rpn import AnchorHeadConfig
from rcnn.training import Experiment, OptimizationConfig, RPNModule, RunConfig, grid_data, train_rpn
from rcnn.weights import load_detector

# Weights move from the first step on, so that what is lost or repeated shows.
FAST = OptimizationConfig(lr=3e-3, gradient_clip=1.0, warmup=0.1, ema_decay=0.9)
RUN = RunConfig(Path("unset"), steps=60, batch_size=2, accelerator="cpu", num_workers=0, validate_every=30)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_rooms(tmp_path_factory.mktemp("toy"), train=2, val=2)


def _data(rooms: Path, split: str, augmentation: bool = False) -> GridDataset:
    reading = SceneReadingConfig(cache=rooms / "cache")
    experiment = Experiment()
    return GridDataset(find_scenes(rooms, split), reading, experiment.augmentation if augmentation else None)


def _train(rooms: Path, run: RunConfig, experiment: Experiment | None = None) -> Path:
    experiment = experiment or Experiment(TINY, FAST)
    # The validation rooms are those of training: what is asked is whether it can learn them.
    return train_rpn(run, experiment, _data(rooms, "train", run.seed > 0), _data(rooms, "val"), {"folder": "toy"})


@pytest.mark.parametrize("anchors", [False, True])
def test_two_rooms_are_learnt_to_the_last_object(rooms: Path, tmp_path: Path, anchors: bool):
    model = replace(TINY, head=AnchorHeadConfig(convs=1)) if anchors else TINY
    path = _train(rooms, replace(RUN, out=tmp_path / "run", steps=150 if anchors else 60), Experiment(model, FAST))
    _, notes = load_detector(path)
    assert notes.metrics["AP50"] == pytest.approx(1.0)
    assert notes.metrics["R50"] == 1.0
    assert notes.data["scenes"] == 2
    assert notes.training["step"] > 0
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def _killed(rooms: Path, run: RunConfig, step: int) -> None:
    """Runs in a process of its own, which ends without any farewell."""
    learn = RPNModule.training_step

    def step_or_die(self: RPNModule, *arguments: object) -> torch.Tensor:
        if self.global_step == step:
            os._exit(9)
        return learn(self, *arguments)  # type: ignore[arg-type]

    RPNModule.training_step = step_or_die  # type: ignore[method-assign]
    torch.set_num_threads(1)
    _train(rooms, run)


def test_a_killed_run_goes_on_to_the_same_result(rooms: Path, tmp_path: Path):
    torch.set_num_threads(1)
    run = replace(RUN, out=tmp_path / "run", steps=12, validate_every=6, checkpoint_every=5, seed=1)
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(rooms, run, 8))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert (run.out / "checkpoints" / "last.ckpt").is_file()
    assert not (run.out / "detector.safetensors").exists()
    path = _train(rooms, run)
    whole = _train(rooms, replace(run, out=tmp_path / "whole"))
    for folder in (path.parent, whole.parent):
        assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 10
    a, b = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (path.parent, whole.parent)
    )
    for part in ("state_dict", "current_model_state"):
        for name, weight in a[part].items():
            torch.testing.assert_close(weight, b[part][name], rtol=0, atol=0)
    before = path.stat().st_mtime_ns
    assert _train(rooms, run) == path
    assert path.stat().st_mtime_ns == before, "a finished run is left alone"


def _killed_at_the_end(rooms: Path, run: RunConfig) -> None:
    RPNModule.compute_scores = lambda self: os._exit(9)  # type: ignore[method-assign]
    torch.set_num_threads(1)
    _train(rooms, run)


def test_a_run_that_is_killed_in_its_last_validation_goes_on(rooms: Path, tmp_path: Path):
    torch.set_num_threads(1)
    run = replace(RUN, out=tmp_path / "run", steps=4, validate_every=4, checkpoint_every=2, seed=1)
    process = multiprocessing.get_context("spawn").Process(target=_killed_at_the_end, args=(rooms, run))
    process.start()
    process.join()
    assert process.exitcode == 9
    found, expected = (load_file(_train(rooms, r)) for r in (run, replace(run, out=tmp_path / "whole")))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)


def test_an_interrupt_before_the_first_step_says_so_in_one_line(rooms: Path, tmp_path: Path, monkeypatch):
    class Interrupted(DataLoader):
        def __iter__(self) -> Any:  # where worker processes are started
            raise KeyboardInterrupt

    monkeypatch.setattr(grid_data, "DataLoader", Interrupted)
    with pytest.raises(SystemExit, match="stopped at step 0"):
        _train(rooms, replace(RUN, out=tmp_path / "run"))


def test_processes_that_load_scenes_change_nothing(rooms: Path, tmp_path: Path):
    torch.set_num_threads(1)
    run = replace(RUN, steps=4, validate_every=4, seed=1)
    one, other = (
        load_file(_train(rooms, replace(run, out=tmp_path / str(workers), num_workers=workers))) for workers in (0, 2)
    )
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-6)


def _shared(rank: int, port: int, rooms: Path, run: RunConfig) -> None:
    """What torchrun tells its processes."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), GROUP_RANK="0", TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    torch.set_num_threads(1)
    _train(rooms, run)


def test_two_processes_give_the_result_of_one(rooms: Path, tmp_path: Path):
    run = replace(RUN, out=tmp_path / "two", steps=8, validate_every=4, seed=1, devices=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_shared, args=(rank, port, rooms, run)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    _train(rooms, replace(run, out=tmp_path / "one", devices=1))
    one, two = (load_file(tmp_path / name / "detector.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        # They have moved by 0.02; Adam makes much of the rounding of gradients near 0.
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-3)
    metrics = [json.loads((tmp_path / name / "detector.json").read_text())["metrics"] for name in ("one", "two")]
    assert metrics[0]["scenes"] == metrics[1]["scenes"] == 2
    assert metrics[0]["R50"] == pytest.approx(metrics[1]["R50"])


def test_other_runs_and_options_are_refused(rooms: Path, tmp_path: Path):
    run = replace(RUN, out=tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files and no run; choose another --out"):
        _train(rooms, run)
    (tmp_path / "run" / "notes.txt").unlink()
    (tmp_path / "run" / "experiment.json").write_text(json.dumps({"seed": 5}))
    with pytest.raises(InputError, match=r"holds a run with another model, optimization, .*choose another --out"):
        _train(rooms, run)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        _train(rooms, replace(run, out=tmp_path / "file"))
    (tmp_path / "run" / "experiment.json").unlink()
    _train(rooms, replace(run, steps=1, validate_every=1, checkpoint_every=1))
    (tmp_path / "run" / "detector.safetensors").unlink()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.with_name("best.ckpt").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"last\.ckpt: is damaged; delete it") as error:
        _train(rooms, replace(run, steps=1, validate_every=1, checkpoint_every=1))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "detector.safetensors").exists()
    with pytest.raises(InputError, match="--steps must be at least 1"):
        replace(run, steps=0)
