"""Where a head sees objects, as a field over the grid, for pictures."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.backbones import Extent
from rcnn.rpn.candidates import Candidates


@torch.no_grad()
def objectness_heatmap(
    levels: Sequence[Candidates], strides: Sequence[int], extents: Sequence[Extent], stride: int = 1
) -> list[Float[Tensor, "x y z"]]:
    """The best score of all levels and anchors at each place.

    Args:
        levels: candidates of the batch, finest level first.
        strides: voxels per cell of each level.
        extents: voxels of each grid.
        stride: voxels per cell of the result, which divides all strides: 1 is the grid's own resolution.

    Returns:
        For each grid scores in [0, 1], `[ceil(X / stride), ceil(Y / stride), ceil(Z / stride)]`.

    Raises:
        ValueError: a stride that does not divide all others.
    """
    if stride < 1 or any(other % stride for other in strides):
        raise ValueError(f"a heatmap of stride {stride} does not fit levels of strides {tuple(strides)}")
    best = [candidates.scores.unflatten(1, (*candidates.shape, -1)).amax(-1) for candidates in levels]
    heatmaps = []
    for n, extent in enumerate(extents):
        shape = [-(-voxels // stride) for voxels in extent]
        heatmap = best[0].new_zeros(shape)
        for scores, of_level in zip(best, strides, strict=True):
            # The cell that each place lies in.
            x, y, z = (torch.arange(cells, device=heatmap.device) * stride // of_level for cells in shape)
            heatmap = heatmap.maximum(scores[n][x[:, None, None], y[:, None], z])
        heatmaps.append(heatmap)
    return heatmaps
