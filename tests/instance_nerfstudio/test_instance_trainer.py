"""Checkpoints that are whole or absent, runs that end where they were meant to, and what a machine lacks."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from instance_nerfstudio import run_trainer
from instance_nerfstudio.errors import InputError
from instance_nerfstudio.instance_trainer import InstanceTrainer
from instance_nerfstudio.run_trainer import WHOLE_RUN


@pytest.fixture
def saving(trained, tmp_path, monkeypatch) -> InstanceTrainer:
    """The trained trainer, with a copy of its checkpoints to write to."""
    folder = Path(shutil.copytree(trained.checkpoint_dir, tmp_path / "run/nerfstudio_models"))
    monkeypatch.setattr(trained, "checkpoint_dir", folder)
    return trained


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The iterations that trainers go through."""
    done = []
    iterate = InstanceTrainer.train_iteration

    def record(self: InstanceTrainer, step: int) -> Any:
        done.append(step)
        return iterate(self, step)

    monkeypatch.setattr(InstanceTrainer, "train_iteration", record)
    return done


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


OLD, NEW = "nerfstudio_models/step-000000059.ckpt", "nerfstudio_models/step-000000077.ckpt"


def test_save_leaves_the_latest_only(saving):
    run = saving.checkpoint_dir.parent
    saving.save_checkpoint(77)
    assert files(run) == [NEW]
    state = torch.load(run / NEW, weights_only=True)
    assert state["step"] == 77
    assert set(state["optimizers"]) == {"fields", "proposal_networks", "instance_head"}
    assert [path for path in run.iterdir() if path.is_dir()] == [saving.checkpoint_dir]


def test_save_keeps_all_on_demand(saving, monkeypatch):
    monkeypatch.setattr(saving.config, "save_only_latest_checkpoint", False)
    saving.save_checkpoint(77)
    assert files(saving.checkpoint_dir.parent) == [OLD, NEW]


def test_save_over_the_same_step(saving):
    saving.save_checkpoint(59)
    assert files(saving.checkpoint_dir.parent) == [OLD]


def test_first_save_makes_the_folder(saving, monkeypatch, tmp_path):
    monkeypatch.setattr(saving, "checkpoint_dir", tmp_path / "a/b/nerfstudio_models")
    saving.save_checkpoint(77)
    assert files(tmp_path / "a/b") == [NEW]


@pytest.mark.parametrize("step", [59, 77])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_save_keeps_the_old_checkpoint(saving, monkeypatch, step, error):
    run, folder = saving.checkpoint_dir.parent, saving.checkpoint_dir
    before = (run / OLD).read_bytes()
    save = torch.save

    def half(state: Any, path: Path) -> None:
        save(state, path)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(type(error)):
        saving.save_checkpoint(step)
    assert files(run) == [OLD]
    assert (run / OLD).read_bytes() == before
    assert saving.checkpoint_dir == folder


def test_checkpoint_is_calibrated(saving):
    head = saving.pipeline.model.instance_head
    head.temperature.fill_(0.01)
    saving.pipeline.model.instances_active = True
    saving.save_checkpoint(77)
    saved = torch.load(saving.checkpoint_dir.parent / NEW, weights_only=True)["pipeline"]
    assert saved["_model.instance_head.temperature"] == head.temperature > 0.01


def test_untrained_head_is_not_calibrated(saving):
    saving.pipeline.model.instances_active = False
    saving.pipeline.model.instance_head.temperature.fill_(0.01)
    saving.save_checkpoint(77)
    assert saving.pipeline.model.instance_head.temperature == pytest.approx(0.01)


def test_resume_ends_where_the_run_was_meant_to(trained, make_config, train, shared_scene, tmp_path, steps):
    config = make_config(shared_scene, tmp_path)
    config.max_num_iterations, config.load_dir = 64, trained.checkpoint_dir
    trainer = train(config)
    assert steps == [60, 61, 62, 63]
    assert config.max_num_iterations == 64
    assert files(trainer.checkpoint_dir) == ["step-000000063.ckpt"]
    # The optimisers go on: two steps of Adam are counted after the first sixty.
    optimizer = trainer.optimizers.optimizers["fields"]
    assert next(iter(optimizer.state.values()))["step"] == 64


@pytest.mark.parametrize("total", [60, 5])
def test_resume_with_nothing_left_keeps_the_checkpoint(
    trained, make_config, train, shared_scene, tmp_path, steps, total
):
    config = make_config(shared_scene, tmp_path)
    config.max_num_iterations = total
    config.load_checkpoint = trained.checkpoint_dir / "step-000000059.ckpt"
    trainer = train(config)
    assert steps == []
    assert files(trainer.checkpoint_dir) == ["step-000000059.ckpt"]
    written = torch.load(trainer.checkpoint_dir / "step-000000059.ckpt", weights_only=True)
    read = torch.load(config.load_checkpoint, weights_only=True)
    assert written["step"] == read["step"]
    for key, value in read["pipeline"].items():
        assert torch.equal(written["pipeline"][key], value), key


def test_a_new_run_counts_from_zero(make_config, train, shared_scene, tmp_path, steps):
    config = make_config(shared_scene, tmp_path)
    config.max_num_iterations, config.steps_per_save = 3, 2
    trainer = train(config)
    assert steps == [0, 1, 2]
    assert files(trainer.checkpoint_dir) == ["step-000000002.ckpt"]


@pytest.mark.parametrize(("start", "said"), [(3, False), (4, True)])
def test_a_run_that_leaves_instances_little_time_says_so(
    make_config, train, shared_scene, tmp_path, monkeypatch, start: int, said: bool
):
    lines: list[str] = []
    monkeypatch.setattr(run_trainer.CONSOLE, "print", lambda *parts, **_: lines.extend(map(str, parts)))
    config = make_config(shared_scene, tmp_path, instance_start_step=start)
    config.max_num_iterations = 6
    train(config)
    assert any("step 4 of 6 on; --pipeline.model.instance-start-step 1 " in line for line in lines) == said


def test_schedules_end_with_the_run(trained):
    """The learning rate arrives at `lr_final` with the last iteration, whatever the length of the run."""
    config = trained.config
    for name, group in trained.optimizers.optimizers.items():
        assert group.param_groups[0]["lr"] == pytest.approx(config.optimizers[name]["scheduler"].lr_final)
        assert config.optimizers[name]["scheduler"].max_steps == 60


def test_other_schedules_are_left_alone(make_config, shared_scene, tmp_path):
    config = make_config(shared_scene, tmp_path)
    assert config.optimizers["fields"]["scheduler"].max_steps == WHOLE_RUN
    config.optimizers["fields"]["scheduler"].max_steps = 7
    config.optimizers["proposal_networks"]["scheduler"] = None
    config.set_timestamp()
    trainer = config.setup()
    trainer.pipeline = config.pipeline.setup(device="cpu")
    optimizers = trainer.setup_optimizers()
    assert config.optimizers["fields"]["scheduler"].max_steps == 7
    assert config.optimizers["instance_head"]["scheduler"].max_steps == 60
    assert "proposal_networks" not in optimizers.schedulers


def test_machine_without_cuda(make_config, shared_scene, tmp_path, monkeypatch):
    config = make_config(shared_scene, tmp_path)
    config.machine.device_type = "cuda"
    config.set_timestamp()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="instance-nerfacto-cpu") as caught:
        config.setup()
    assert "\n" not in str(caught.value)
    config.machine.device_type = "cpu"
    config.setup()
