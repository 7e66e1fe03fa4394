"""Finds the pixels next to instance boundaries, where both the geometry and the labels are decided."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

# Bounds the list for large captures: 2^23 pixels are 100 MB. A random part of more does as well.
_MAX_PIXELS = 1 << 23


def boundary_mask(labels: Int[Tensor, "height width"], radius: int) -> Bool[Tensor, "height width"]:
    """Pixels within `radius` (in the larger of rows and columns) of a neighbour with another label.

    A step to or from unlabelled (-1) is no boundary: nothing is known there.
    """
    edges = torch.zeros_like(labels, dtype=torch.float32)
    for dim in (0, 1):
        size = labels.shape[dim] - 1
        first, second = labels.narrow(dim, 0, size), labels.narrow(dim, 1, size)
        step = ((first != second) & (first >= 0) & (second >= 0)).float()
        edges.narrow(dim, 0, size).add_(step)
        edges.narrow(dim, 1, size).add_(step)
    if radius > 1:
        edges = F.max_pool2d(edges[None, None], 2 * radius - 1, stride=1, padding=radius - 1)[0, 0]
    return edges > 0


def boundary_pixels(
    labels: Sequence[Int[Tensor, "height width 1"]], masks: Sequence[Tensor] | None, radius: int
) -> Int[Tensor, "pixels 3"]:
    """(image, row, column) of all boundary pixels, int32; those outside nerfstudio's `mask` are left out."""
    found = []
    for i, label in enumerate(labels):
        chosen = boundary_mask(label[..., 0], radius)
        if masks is not None:
            chosen &= masks[i][..., 0].to(chosen.device).bool()
        pixel = chosen.nonzero().int()
        found.append(torch.cat([torch.full_like(pixel[:, :1], i), pixel], dim=-1))
    pixels = torch.cat(found)
    return pixels if len(pixels) <= _MAX_PIXELS else pixels[torch.randperm(len(pixels))[:_MAX_PIXELS]]
