"""What goes to TensorBoard in every step, and what does not."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.writer import EventName, TensorboardWriter

from instance_nerfstudio.fused_adam import FusedAdamConfig
from instance_nerfstudio.quiet_logs import QuietOptimizers, QuietTensorboardWriter, quiet_event_writers


class Board:
    """Stands in for TensorBoard's own writer."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, int]] = []

    def add_scalar(self, name: str, _: float, step: int) -> None:
        self.scalars.append((name, step))


def test_times_are_written_every_so_many_steps_and_scores_always(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    loud = object.__new__(TensorboardWriter)
    loud.tb_writer = board  # type: ignore[assignment]
    other: Any = object()
    monkeypatch.setattr(writer, "EVENT_WRITERS", [other, loud])
    quiet_event_writers(10)
    assert writer.EVENT_WRITERS[0] is other
    quiet = writer.EVENT_WRITERS[1]
    assert isinstance(quiet, QuietTensorboardWriter)
    for step in range(21):
        quiet.write_scalar(EventName.ITER_TRAIN_TIME.value, 0.1, step)
        quiet.write_scalar("Eval Loss", 0.1, step)
    assert [step for name, step in board.scalars if name != "Eval Loss"] == [0, 10, 20]
    assert [step for name, step in board.scalars if name == "Eval Loss"] == list(range(21))


def test_learning_rates_fall_in_every_step_and_are_logged_in_some(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, int, float]] = []
    monkeypatch.setattr(writer, "put_scalar", lambda name, scalar, step: logged.append((name, step, scalar)))
    scheduler = ExponentialDecaySchedulerConfig(lr_final=1e-4, max_steps=20)
    config = {"field": {"optimizer": AdamOptimizerConfig(lr=1e-2), "scheduler": scheduler}}
    optimizers = QuietOptimizers(config, {"field": [torch.nn.Parameter(torch.zeros(2))]}, steps_per_log=5)
    rates = []
    for step in range(11):
        optimizers.optimizers["field"].step()
        optimizers.scheduler_step_all(step)
        rates.append(optimizers.optimizers["field"].param_groups[0]["lr"])
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert logged == [("learning_rate/field", step, pytest.approx(rates[step])) for step in (0, 5, 10)]


def test_without_logs_nothing_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(writer, "put_scalar", lambda name, **_: logged.append(name))
    scheduler = ExponentialDecaySchedulerConfig(lr_final=1e-4, max_steps=20)
    config = {"field": {"optimizer": AdamOptimizerConfig(lr=1e-2), "scheduler": scheduler}}
    optimizers = QuietOptimizers(config, {"field": [torch.nn.Parameter(torch.zeros(2))]}, steps_per_log=0)
    optimizers.optimizers["field"].step()
    optimizers.scheduler_step_all(0)
    assert logged == []


def test_fused_adam_is_adam() -> None:
    after = []
    for config in (AdamOptimizerConfig(lr=0.1, eps=1e-15), FusedAdamConfig(lr=0.1, eps=1e-15)):
        weights = torch.nn.Parameter(torch.arange(4.0))
        optimizer = config.setup([weights])
        for _ in range(3):
            optimizer.zero_grad()
            weights.square().sum().backward()
            optimizer.step()
        after.append(weights.detach())
    assert torch.equal(*after)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fused_adam_is_adam_on_a_gpu() -> None:
    after = []
    for config in (AdamOptimizerConfig(lr=0.1, eps=1e-15), FusedAdamConfig(lr=0.1, eps=1e-15)):
        weights = torch.nn.Parameter(torch.arange(4.0, device="cuda"))
        optimizer = config.setup([weights])
        assert bool(optimizer.defaults["fused"]) == isinstance(config, FusedAdamConfig)
        for _ in range(3):
            optimizer.zero_grad()
            weights.square().sum().backward()
            optimizer.step()
        after.append(weights.detach())
    torch.testing.assert_close(*after)
