"""A recorded training step does what it does unrecorded, and its optimizer saves what it always saved."""

from copy import deepcopy

import pytest
import torch

from instance_nerfstudio.cuda_graph import RecordedStep, make_recordable


class Regression:
    """Fits random points, drawn anew in every step, with a decaying learning rate."""

    def __init__(self, device: str, recordable: bool = True) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.Linear(4, 1).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.9**step)
        self.loss = torch.zeros((), device=device)
        if recordable:
            make_recordable(self.optimizer, torch.device(device))

    def step(self) -> None:
        points = torch.rand(64, 4, device=self.loss.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss = (self.net(points)[:, 0] - points.sum(-1)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def train(self, step, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            step()
            self.scheduler.step()
            losses.append(float(self.loss))
        return losses


def test_every_call_is_one_step_on_the_cpu():
    plain, recorded = Regression("cpu"), Regression("cpu")
    torch.manual_seed(1)
    expected = plain.train(plain.step, 10)
    torch.manual_seed(1)
    assert recorded.train(RecordedStep(recorded.step, torch.device("cpu")), 10) == expected
    assert not make_recordable(recorded.optimizer, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_recorded_steps_are_the_unrecorded_ones():
    plain, recorded = Regression("cuda", recordable=False), Regression("cuda")
    torch.manual_seed(1)
    expected = plain.train(plain.step, 30)
    torch.manual_seed(1)
    step = RecordedStep(recorded.step, torch.device("cuda"))
    assert recorded.train(step, 30) == pytest.approx(expected, rel=1e-3)
    assert step.graph is not None
    assert float(recorded.optimizer.param_groups[0]["lr"]) == pytest.approx(0.1 * 0.9**30)

    saved, usual = recorded.optimizer.state_dict(), plain.optimizer.state_dict()
    assert saved["param_groups"] == [pytest.approx(group) for group in usual["param_groups"]]
    resumed = Regression("cuda")
    resumed.optimizer.load_state_dict(deepcopy(usual))
    assert isinstance(resumed.optimizer.param_groups[0]["lr"], torch.Tensor)
    resumed.train(RecordedStep(resumed.step, torch.device("cuda")), 10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_that_waits_for_the_host_runs_unrecorded(monkeypatch):
    said = []
    monkeypatch.setattr("instance_nerfstudio.cuda_graph.CONSOLE.print", said.append)
    regression = Regression("cuda")

    def step() -> None:
        regression.step()
        float(regression.loss)

    recorded = RecordedStep(step, torch.device("cuda"))
    losses = regression.train(recorded, 10)
    assert recorded.graph is None
    assert losses[-1] < losses[0]
    assert len(said) == 1
    assert "can't be recorded" in said[0]
