"""Whether an instance field's probabilities can be believed, and the one-parameter repair when they cannot."""

import math

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

TEMPERATURE_RANGE = (0.05, 20.0)
_ROWS_AT_ONCE = 1 << 16
_NEWTON_STEPS = 60
_TOLERANCE = 1e-10


def expected_calibration_error(
    confidence: Float[Tensor, "*samples"], correct: Bool[Tensor, "*samples"], bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, in equally wide bins weighted by their samples (Guo et al. 2017).

    Args:
        confidence: probability of the chosen label, in [0, 1].
        correct: whether that label was right.
        bins: number of bins; bin m holds ((m - 1) / bins, m / bins], the first also 0.

    Returns:
        The error in [0, 1]; NaN without samples.

    Raises:
        ValueError: shapes differ, or a confidence is outside [0, 1] or NaN.
    """
    if confidence.shape != correct.shape:
        raise ValueError(f"shapes differ: confidence {(*confidence.shape,)}, correct {(*correct.shape,)}")
    confidence = confidence.detach().reshape(-1).double()
    if confidence.numel() == 0:
        return math.nan
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):
        raise ValueError("confidence must lie in [0, 1]")
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gap = correct.to(confidence.device).reshape(-1).double() - confidence
    # |accuracy - confidence| of a bin times its share of the samples is the bin's summed gap over all samples.
    return float(torch.bincount(place, weights=gap, minlength=bins).abs().sum() / confidence.numel())


def fit_temperature(logits: Float[Tensor, "samples classes"], labels: Integer[Tensor, "samples"]) -> float:
    """The temperature T that minimises the negative log-likelihood of softmax(logits / T) (Guo et al. 2017, sec. 4.2).

    The likelihood is convex in 1 / T, so Newton's method inside a shrinking bracket always arrives.

    Args:
        logits: finite scores, on any device.
        labels: right class of each row; rows with a negative (unlabelled) label are left out.

    Returns:
        T within `TEMPERATURE_RANGE`; 1.0 when there is nothing to learn from (no rows, or all scores of a row equal).

    Raises:
        ValueError: shapes do not fit, a label is not below the number of classes, or a logit is not finite.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"expected logits (N, K) and labels (N,), got {(*logits.shape,)} and {(*labels.shape,)}")
    labels = labels.to(logits.device).long()
    logits, labels = logits.detach()[labels >= 0], labels[labels >= 0]
    if labels.numel() == 0:
        return 1.0
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"label {int(labels.max())} has no column in logits of {logits.shape[1]} classes")
    if not bool(logits.isfinite().all()):
        raise ValueError("logits must be finite")

    low, high = 1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]
    rises_at_low, falls_at_high = _slope(logits, labels, low)[0] >= 0, _slope(logits, labels, high)[0] <= 0
    if rises_at_low and falls_at_high:
        return 1.0
    if rises_at_low:
        return TEMPERATURE_RANGE[1]
    if falls_at_high:
        return TEMPERATURE_RANGE[0]
    inverse = 1.0
    for _ in range(_NEWTON_STEPS):
        slope, curvature = _slope(logits, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        # Newton may overshoot where the likelihood is nearly flat; halving the bracket (in log T) is always safe.
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - inverse) <= _TOLERANCE * inverse:
            break
        inverse = following
    return 1 / inverse


def _slope(logits: Tensor, labels: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative by 1 / T of the mean negative log-likelihood."""
    slope = torch.zeros((), dtype=torch.float64, device=logits.device)
    curvature = torch.zeros_like(slope)
    for rows, right in zip(logits.split(_ROWS_AT_ONCE), labels.split(_ROWS_AT_ONCE), strict=True):
        # Measured from the right score: the derivative of one row is E[z], and no large numbers cancel.
        scores = rows.double() - rows.double().gather(1, right[:, None])
        probability = torch.softmax(inverse * scores, dim=1)
        mean = (probability * scores).sum(1)
        slope += mean.sum()
        curvature += (probability * (scores - mean[:, None]) ** 2).sum()
    return float(slope) / len(labels), float(curvature) / len(labels)
