"""A unit vector for each class: the feature of the Gaussians assigned to it, and its row in the linear classifier."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_STEPS = 300
# Bounds the time for thousands of classes, whose pairs grow with the square: they get fewer steps.
_PAIRS_TIMES_STEPS = 300 * 1024**2
_STEP_SIZE = 0.5
_MOMENTUM = 0.9
# How sharp the soft maximum is, at the first step and at the last.
_SHARPNESS = (20.0, 200.0)


def class_codes(classes: int, dim: int, seed: int = 0) -> Float[Tensor, "classes dim"]:
    """Unit vectors, one per class, with products of different ones as near to 0 as they get; float32 on the CPU.

    With enough dimensions they are one-hot: blending them and classifying by their products is blending one-hot labels.
    With fewer, the products of a blend with all codes are the weights of the classes plus crosstalk of at most the
    largest product μ of two codes. Of two classes with weights a > b = 1 - a, the heavier one wins whenever
    μ < a / (1 + b).

    The vectors come from some hundred steps that lower a soft maximum of the absolute products. They depend on nothing
    but the arguments, up to rounding, which differs between processors: store them with what was made with them.

    Args:
        classes: how many, background included.
        dim: length of each vector; at least 2 when there are more classes than that.
        seed: of the random vectors at the start.

    Raises:
        ValueError: no classes, or no room for them.
    """
    if classes < 1 or dim < 1 or (dim == 1 and classes > 1):
        raise ValueError(f"{classes} classes don't fit in {dim} dimension(s)")
    if classes <= dim:
        return torch.eye(classes, dim)
    codes = normalize(torch.randn(classes, dim, generator=torch.Generator().manual_seed(seed)), dim=1)
    momentum = torch.zeros_like(codes)
    steps = min(_STEPS, _PAIRS_TIMES_STEPS // classes**2)
    for step in range(steps):
        done = step / steps
        sharpness = _SHARPNESS[0] * (_SHARPNESS[1] / _SHARPNESS[0]) ** done
        products = (codes @ codes.T).fill_diagonal_(0)
        sizes = products.abs()
        weights = ((sizes - sizes.max()) * sharpness).exp_().mul_(products.sign())
        # The mean pull on a code is of length 1 or less, however many codes there are.
        gradient = (weights @ codes) * (classes / weights.abs().sum())
        gradient -= (gradient * codes).sum(dim=1, keepdim=True) * codes
        momentum = _MOMENTUM * momentum + (1 - _MOMENTUM) * gradient
        codes = normalize(codes - _STEP_SIZE * (1 - done) * momentum, dim=1)
    return codes
