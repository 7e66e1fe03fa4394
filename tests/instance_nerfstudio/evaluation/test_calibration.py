"""Calibration error and temperature scaling against hand-computed and brute-force values."""

import math

import pytest
import torch
from torchmetrics.classification import BinaryCalibrationError

from instance_nerfstudio.evaluation.calibration import TEMPERATURE_RANGE, expected_calibration_error, fit_temperature


def _nll(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    return float(torch.nn.functional.cross_entropy(logits.double() / temperature, labels))


def _sampled(scale: float, samples: int = 4000, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels drawn from softmax(logits), and the logits times `scale`: the right temperature is `scale`."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(samples, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return logits * scale, labels


def test_error_by_hand():
    confidence = torch.tensor([0.95, 0.85, 0.3, 0.3])
    correct = torch.tensor([True, False, True, False])
    # Two bins: (0, 0.5] holds confidence 0.3, accuracy 0.5; (0.5, 1] holds confidence 0.9, accuracy 0.5.
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.5 * 0.2 + 0.5 * 0.4)


def test_bins_include_their_upper_edge():
    # Both samples are in (0, 0.5]: their gaps, -0.5 and 0.7, cancel in part.
    confidence = torch.tensor([0.5, 0.3])
    assert expected_calibration_error(confidence, torch.tensor([False, True]), bins=2) == pytest.approx(0.1)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_error_agrees_with_torchmetrics(bins):
    generator = torch.Generator().manual_seed(bins)
    confidence = torch.rand(20, 50, generator=generator)
    correct = torch.rand(20, 50, generator=generator) < confidence**2
    oracle = BinaryCalibrationError(n_bins=bins, norm="l1")(confidence.flatten(), correct.flatten().int())
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(float(oracle), abs=1e-6)
    assert expected_calibration_error(confidence, correct, bins) > 0.1


def test_error_at_the_ends():
    assert expected_calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == 0
    assert expected_calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([True, False])) == 1
    assert math.isnan(expected_calibration_error(torch.zeros(0), torch.zeros(0, dtype=torch.bool)))


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_error_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError, match="0, 1"):
        expected_calibration_error(torch.tensor([0.5, bad]), torch.tensor([True, True]))
    with pytest.raises(ValueError, match="shapes"):
        expected_calibration_error(torch.tensor([0.5, 0.5]), torch.tensor([True]))


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0, 9.0])
def test_temperature_recovers_the_scale(scale):
    logits, labels = _sampled(scale)
    assert fit_temperature(logits, labels) == pytest.approx(scale, rel=0.06)


@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_temperature_is_the_minimum(scale):
    logits, labels = _sampled(scale, samples=300)
    best = fit_temperature(logits, labels)
    at_best = _nll(logits, labels, best)
    assert all(_nll(logits, labels, best * factor) > at_best for factor in (0.9, 0.999, 1.001, 1.1))


def test_temperature_in_float32_and_of_shifted_logits():
    logits, labels = _sampled(3.0, samples=500)
    best = fit_temperature(logits.double(), labels)
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=1e-5)
    shifted = logits.double() + 1e3 * torch.rand(len(logits), 1).double()
    assert fit_temperature(shifted, labels) == pytest.approx(best, rel=1e-6)


def test_temperature_of_many_rows_equals_that_of_few():
    # More rows than are worked on at once.
    logits, labels = _sampled(2.0, samples=1000, classes=3)
    best = fit_temperature(logits, labels)
    assert fit_temperature(logits.repeat(70, 1), labels.repeat(70)) == pytest.approx(best, rel=1e-8)


def test_temperature_stays_in_its_range():
    right = 10 * torch.eye(3).repeat(5, 1)
    labels = torch.arange(3).repeat(5)
    assert fit_temperature(right, labels) == TEMPERATURE_RANGE[0]
    assert fit_temperature(-right, labels) == TEMPERATURE_RANGE[1]


def test_temperature_without_evidence():
    assert fit_temperature(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)) == 1.0
    assert fit_temperature(torch.randn(5, 4), torch.full((5,), -1)) == 1.0
    assert fit_temperature(torch.full((5, 4), 3.0), torch.zeros(5, dtype=torch.long)) == 1.0
    assert fit_temperature(torch.randn(5, 1), torch.zeros(5, dtype=torch.long)) == 1.0


def test_temperature_leaves_unlabelled_rows_out():
    logits, labels = _sampled(4.0, samples=400)
    noise = 30 * torch.randn(400, logits.shape[1])
    both = fit_temperature(torch.cat([logits, noise]), torch.cat([labels, torch.full((400,), -1)]))
    assert both == pytest.approx(fit_temperature(logits, labels), rel=1e-8)


def test_temperature_needs_no_gradient():
    logits, labels = _sampled(2.0, samples=50)
    logits.requires_grad_()
    assert isinstance(fit_temperature(logits, labels), float)
    assert logits.grad is None


def test_temperature_refuses_bad_input():
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(torch.tensor([[0.0, math.inf]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="label 2"):
        fit_temperature(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(ValueError, match="expected logits"):
        fit_temperature(torch.zeros(3, 2), torch.tensor([0]))
