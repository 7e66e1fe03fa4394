"""How RoIs are sampled: the options that all backends share, and the FPN rule that picks a RoI's level."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

COORDINATE_LIMIT = 2.0**20
"""Boxes whose coordinates on the grid exceed this are treated like infinite ones. fp32 still resolves 1/16 voxel
there, and sample counts stay far from overflow."""

MODES = ("roi_align", "crop_and_resize")


class Sampling(NamedTuple):
    """Where the samples of a bin lie."""

    output_size: tuple[int, int, int]
    sampling_ratio: int
    aligned: bool
    crop_and_resize: bool

    @property
    def offset(self) -> float:
        """Shift from box coordinates, where voxel i covers [i, i + 1), to voxel centres."""
        return 0.5 if self.aligned and not self.crop_and_resize else 0.0


class Pyramid(NamedTuple):
    """Which level a RoI reads, and how box coordinates become voxel coordinates there."""

    scales: tuple[float, ...]
    volumes: tuple[float, ...]
    """Ascending box volumes, one less than levels: a RoI reads the level whose number is how many it reaches."""


def make_pyramid(scales: Sequence[float], canonical_scale: float, canonical_level: float) -> Pyramid:
    """The FPN rule (Lin et al. 2017, eq. 1) as thresholds: no logarithm, hence no rounding that backends disagree on.

    `floor(canonical_level + log2(edge / canonical_scale) + 1e-6)`, clamped to the levels there are, with the geometric
    mean of the three edges for `edge` and `-log2(scale)` for a level's number. Levels need not be powers of two apart.
    """
    edges = [canonical_scale * 2.0 ** (-math.log2(scale) - canonical_level - 1e-6) for scale in scales[1:]]
    return Pyramid(tuple(scales), tuple(edge**3 for edge in edges))


def assign_levels(rois: Float[Tensor, "K columns"], pyramid: Pyramid) -> Int[Tensor, " K"]:
    """Level number of each RoI, 0 for the finest; boxes without a positive size count as empty."""
    edges = rois[:, 4:7] if rois.shape[1] == 8 else rois[:, 4:7] - rois[:, 1:4]
    x, y, z = edges.clamp(min=0).unbind(1)
    volume = x * y * z
    level = torch.zeros(len(rois), dtype=torch.int64, device=rois.device)
    for threshold in pyramid.volumes:
        level += volume >= threshold
    return level


def coordinate_dtype(*tensors: Tensor) -> torch.dtype:
    """fp64 if any of the tensors is, fp32 otherwise: fp16 resolves only 1/16 voxel at coordinate 100."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
