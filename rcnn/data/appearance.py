"""Changes of what a grid looks like that leave its boxes alone: what radiance fields of the same room differ in.

Grids are `[4, X, Y, Z]`, red, green, blue and opacity in [0, 1], contiguous. Functions change them in place and return
them: passes over memory are what loading a scene costs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Opacity 1 stands for any density from here on: 1 - 0.001.
_LARGEST_OPACITY = 0.999


def jitter_density_(
    grid: Float[Tensor, "4 X Y Z"], log_gain: float, noise: float, rng: np.random.Generator, cells: int = 8
) -> Float[Tensor, "4 X Y Z"]:
    """Densities multiplied: opacity a becomes 1 - (1 - a)^gain.

    Args:
        grid: the grid.
        log_gain: logarithm of the gain.
        noise: standard deviation of what is added to it, normally distributed on a coarse lattice and linear between.
        rng: source of the noise.
        cells: points of the lattice along each side.
    """
    exponent: Tensor | float = math.exp(log_gain)
    if noise > 0:
        lattice = torch.from_numpy(rng.standard_normal((cells, cells, cells), np.float32)) * noise + log_gain
        # Axis by axis, which takes a tenth of the time of all three at once.
        weights = (_linear_weights(cells, size) for size in grid.shape[1:])
        exponent = torch.einsum("abc,ax,by,cz->xyz", lattice, *weights).exp_()
    opacity = grid[3].clamp_(0, _LARGEST_OPACITY)
    clearness = opacity.neg_().add_(1)
    clearness.log_().mul_(exponent).exp_()
    clearness.neg_().add_(1)
    return grid


def jitter_colour_(
    grid: Float[Tensor, "4 X Y Z"], gain: Float[np.ndarray, "3"], contrast: float
) -> Float[Tensor, "4 X Y Z"]:
    """Colours multiplied channel by channel, as by other light and white balance, and spread about their mean.

    Args:
        grid: the grid.
        gain: of red, green and blue.
        contrast: factor on the distance to the mean colour of the opaque.
    """
    gains = torch.from_numpy(np.asarray(gain)).to(grid)
    rows = grid.view(4, -1)
    mean = gains * (rows[:3] @ rows[3]) / rows[3].sum().clamp(min=1e-6)
    factors, offsets = (gains * contrast).tolist(), (mean * (1 - contrast)).tolist()
    for channel, factor, offset in zip(rows[:3], factors, offsets, strict=True):
        channel.mul_(factor).add_(offset).clamp_(0, 1)
    return grid


def add_floaters_(
    grid: Float[Tensor, "4 X Y Z"], count: int, radii: tuple[float, float], rng: np.random.Generator
) -> Float[Tensor, "4 X Y Z"]:
    """Blobs of fog anywhere, the usual fault of radiance fields in what few cameras see.

    Args:
        grid: the grid.
        count: number of blobs.
        radii: smallest and largest radius, in voxels, of each axis of a blob: two standard deviations of its opacity.
        rng: source of places, sizes, opacities and colours.
    """
    shape = np.array(grid.shape[1:])
    for _ in range(count):
        center = rng.uniform(0, shape)
        radius = rng.uniform(*radii, size=3)
        peak = rng.uniform(0.1, 0.8)
        colour = torch.from_numpy(rng.uniform(0, 1, 3)).to(grid)
        low = np.clip(np.floor(center - 2 * radius).astype(int), 0, shape)
        high = np.clip(np.ceil(center + 2 * radius).astype(int), 0, shape)
        window = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
        fall = [
            torch.from_numpy(np.exp(-0.5 * ((np.arange(a, b) + 0.5 - c) / (0.5 * r)) ** 2)).to(grid)
            for a, b, c, r in zip(low, high, center, radius, strict=True)
        ]
        fog = peak * torch.einsum("x,y,z->xyz", *fall)
        part = grid[window]
        together = 1 - (1 - part[3]) * (1 - fog)
        # Each colour has the share of its opacity.
        share = fog / (fog + part[3]).clamp(min=1e-6)
        part[:3] += share * (colour[:, None, None, None] - part[:3])
        part[3] = together
    return grid


def _linear_weights(cells: int, size: int) -> Float[Tensor, "cells size"]:
    """What each point of a line of `cells` adds to each of `size` between its ends, linearly interpolated."""
    return F.interpolate(torch.eye(cells)[None], size, mode="linear", align_corners=True)[0]
