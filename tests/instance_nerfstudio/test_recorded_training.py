"""Recorded iterations are nerfstudio's: the same losses, steps and schedules."""

from functools import partial
from typing import Any

import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer
from nerfstudio.scripts.train import _set_random_seed

from instance_nerfstudio.instance_objective import INSTANCE_LOSSES
from instance_nerfstudio.recorded_training import RecordedTraining, why_not_recorded


def iterate(trainer: Any, train_iteration: Any, iterations: int) -> list[dict[str, float]]:
    """nerfstudio's training loop without its bookkeeping."""
    losses = []
    for step in range(iterations):
        trainer.pipeline.train()
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        loss, loss_dict, metrics = train_iteration(step)
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        losses.append({"loss": float(loss)} | {k: float(v) for k, v in (loss_dict | metrics).items()})
    return losses


def start(make_config: Any, scene: Any, folder: Any, device: str = "cpu", **options: Any) -> Any:
    config = make_config(scene, folder, use_label_regularization=False, instance_start_step=14, **options)
    config.vis = "tensorboard"
    config.machine.device_type = device
    config.set_timestamp()
    _set_random_seed(3)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def test_equals_nerfstudios_iteration(make_config, shared_scene, tmp_path):
    """Also where the proposal networks rest in between, and where instances begin."""
    stock = start(make_config, shared_scene, tmp_path / "stock", proposal_warmup=1, proposal_update_every=3)
    _set_random_seed(4)
    expected = iterate(stock, partial(Trainer.train_iteration, stock), 20)
    ours = start(make_config, shared_scene, tmp_path / "ours", proposal_warmup=1, proposal_update_every=3)
    recorded = RecordedTraining(ours)
    _set_random_seed(4)
    got = iterate(ours, recorded.train_iteration, 20)
    assert "instance_loss" in got[-1]
    assert "instance_loss" not in got[0]
    for ours_now, stock_now in zip(got, expected, strict=True):
        assert ours_now == pytest.approx(stock_now, rel=1e-4, abs=1e-6)
    assert {updated for updated, _ in recorded._steps} == {True, False}
    for name, optimizer in ours.optimizers.optimizers.items():
        theirs = stock.optimizers.optimizers[name].param_groups[0]["lr"]
        assert optimizer.param_groups[0]["lr"] == pytest.approx(theirs)


def test_head_and_field_train_apart(make_config, shared_scene, tmp_path):
    """The losses of the head reach nothing but the head, and the others do not reach it: either may run beside."""
    trainer = start(make_config, shared_scene, tmp_path)
    model = trainer.pipeline.model
    model.instances_active = True
    _, losses, _ = trainer.pipeline.get_train_loss_dict(step=0)
    head = set(trainer.optimizers.parameters["instance_head"])
    for of_head in (True, False):
        torch.stack([x for name, x in losses.items() if (name in INSTANCE_LOSSES) == of_head]).sum().backward()
        reached = {parameter for parameter in model.parameters() if parameter.grad is not None}
        assert reached
        assert reached <= head if of_head else not reached & head
        model.zero_grad(set_to_none=True)


def test_says_what_keeps_it_from_recording(make_config, shared_scene, tmp_path):
    trainer = start(make_config, shared_scene, tmp_path)
    reason = why_not_recorded(trainer)
    assert reason is not None
    assert "on the GPU" in reason  # there is none
    trainer.config.log_gradients = True
    assert why_not_recorded(trainer) == "--log-gradients is on"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_train_like_single_launches(make_config, shared_scene, tmp_path):
    options = {"proposal_warmup": 1, "proposal_update_every": 3}
    stock = start(make_config, shared_scene, tmp_path / "stock", "cuda", **options)
    expected = iterate(stock, partial(Trainer.train_iteration, stock), 150)
    ours = start(make_config, shared_scene, tmp_path / "ours", "cuda", **options)
    got = iterate(ours, ours.train_iteration, 150)
    assert ours._recorded is not None
    recorded = {variant for variant, step in ours._recorded._steps.items() if step.graph is not None}
    assert recorded >= {(True, False), (True, True), (False, True)}  # the fourth comes too seldom to be recorded
    assert not any(step.eager for step in ours._recorded._steps.values())
    # Random numbers are drawn in another order, so only the outcome compares.
    for name in ("rgb_loss", "instance_loss"):
        ours_end, stock_end = (sum(row[name] for row in rows[-20:]) / 20 for rows in (got, expected))
        assert ours_end == pytest.approx(stock_end, rel=0.3)
    for name, optimizer in ours.optimizers.optimizers.items():
        saved = optimizer.state_dict()["param_groups"][0]["lr"]
        assert saved == pytest.approx(stock.optimizers.optimizers[name].param_groups[0]["lr"])
