"""The moving average of weights and buffers."""

import pytest
import torch
from torch import nn

from rcnn.training.moving_average import AveragedWeights, moving_average_factor


def test_average_by_hand() -> None:
    """Weights 1, 3, 5 after three steps: the first is taken, then 2/11 and 3/12 of the average are kept."""
    model = nn.BatchNorm1d(2)
    average = AveragedWeights(model, 0.9, torch.device("cpu"))
    assert [moving_average_factor(0.9, n) for n in (0, 1, 2, 80, 10**6)] == pytest.approx([0, 2 / 11, 0.25, 0.9, 0.9])
    expected = 0.0
    for step, keep in enumerate((0, 2 / 11, 3 / 12)):
        value = 1.0 + 2 * step
        for tensor in (model.weight.data, model.running_var):
            assert tensor is not None
            tensor.fill_(value)
        assert model.num_batches_tracked is not None
        model.num_batches_tracked.fill_(step)
        average.update_parameters(model)
        expected = keep * expected + (1 - keep) * value
        for name in ("weight", "running_var"):
            torch.testing.assert_close(getattr(average.module, name).data, torch.full((2,), expected))
        assert average.module.num_batches_tracked == step
    assert average.n_averaged == 3
    assert (model.weight == 5).all()
    # What is loaded goes on.
    other = AveragedWeights(nn.BatchNorm1d(2), 0.9, torch.device("cpu"))
    other.load_state_dict(average.state_dict())
    for each in (average, other):
        each.update_parameters(model)
    torch.testing.assert_close(other.module.weight, average.module.weight)
