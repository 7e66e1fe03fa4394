"""Losses of the instance field against torch's own and against values by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from instance_nerfstudio.losses import instance_cross_entropy, label_regularization


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_cross_entropy_is_torchs_on_labelled_rays(dtype):
    logits = torch.randn(20, 5, requires_grad=True)
    targets = torch.randint(-1, 5, (20,), dtype=dtype)
    targets[:2] = torch.tensor([-1, 4], dtype=dtype)
    loss = instance_cross_entropy(logits, targets)
    labelled = targets >= 0
    torch.testing.assert_close(loss, F.cross_entropy(logits[labelled], targets[labelled].long()))
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[~labelled] == 0).all()
    assert (logits.grad[labelled] != 0).any(-1).all()


def test_cross_entropy_without_a_labelled_ray():
    logits = torch.randn(4, 3, requires_grad=True)
    loss = instance_cross_entropy(logits, torch.full((4,), -1))
    assert loss == 0
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_cross_entropy_of_an_empty_batch():
    assert instance_cross_entropy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int32)) == 0


def test_regularization_by_hand():
    # Two logits per pixel. Downwards both steps are (0, 4): mean square 8. To the right (2, 0): mean square 2.
    logits = torch.tensor([[[[0.0, 0.0], [2.0, 0.0]], [[0.0, 4.0], [2.0, 4.0]]]])
    assert label_regularization(logits, torch.ones(1, 2, 2), 0.03).item() == pytest.approx(8 + 2)


def test_regularization_weighs_by_relative_depth():
    # One row of three pixels with steps 1 and 2; the first crosses a depth step of exactly `depth_edge`.
    logits = torch.tensor([0.0, 1.0, 3.0]).view(1, 1, 3, 1)
    depth = torch.tensor([2.0, 2.2, 2.2]).view(1, 1, 3)
    expected = (1 * math.exp(-1) + 4) / (math.exp(-1) + 1)
    assert label_regularization(logits, depth, 0.1).item() == pytest.approx(expected, rel=1e-5)
    # The nearer of the two is the measure, so the order does not matter.
    turned = label_regularization(logits.flip(2), depth.flip(2), 0.1)
    assert turned.item() == pytest.approx(expected, rel=1e-5)


def test_regularization_lets_labels_change_at_a_silhouette():
    logits = torch.zeros(2, 8, 8, 3)
    logits[:, :, 3:] = 5.0
    flat = torch.full((2, 8, 8), 1.5)
    silhouette = flat.clone()
    silhouette[:, :, 3:] = 2.0
    assert label_regularization(logits, flat, 0.03).item() == pytest.approx(25 / 7)
    assert label_regularization(logits, silhouette, 0.03).item() < 1e-6
    # A step elsewhere is no excuse.
    elsewhere = flat.clone()
    elsewhere[:, :, 6:] = 2.0
    assert label_regularization(logits, elsewhere, 0.03).item() == pytest.approx(25 / 6)


def test_regularization_of_equal_logits_is_zero():
    assert label_regularization(torch.full((1, 4, 4, 2), 3.0), torch.rand(1, 4, 4) + 1, 0.03) == 0


def test_regularization_does_not_compare_patches():
    logits = torch.zeros(2, 4, 4, 1)
    logits[1] = 9.0
    assert label_regularization(logits, torch.ones(2, 4, 4), 0.03) == 0


def test_regularization_knows_no_unit_of_depth():
    logits, depth = torch.randn(3, 8, 8, 4), 1 + 0.1 * torch.rand(3, 8, 8)
    torch.testing.assert_close(
        label_regularization(logits, depth, 0.03), label_regularization(logits, 1000 * depth, 0.03)
    )


def test_regularization_gives_depth_no_gradient():
    logits, depth = torch.randn(1, 4, 4, 2, requires_grad=True), torch.rand(1, 4, 4, requires_grad=True)
    label_regularization(logits, depth, 0.5).backward()
    assert depth.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_regularization_survives_depths_of_zero_and_edges_everywhere():
    logits = torch.randn(1, 4, 4, 2, requires_grad=True)
    for depth in (torch.zeros(1, 4, 4), torch.arange(16.0).view(1, 4, 4)):
        loss = label_regularization(logits, depth, 0.01)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()
