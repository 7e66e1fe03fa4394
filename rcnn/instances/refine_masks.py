"""Masks over boxes, judged anew voxel by voxel: by the mask and the grid's opacity there and in small cubes around.

The cells of a mask are as coarse as its box is large, and the head saw the grid in cells of that size. Where matter is,
the grid itself knows to a voxel; but an object also owns what no view sees, so opacity alone decides nothing. How much
each counts is a logistic regression with few weights, fitted to rooms (`tests/benchmarks/fit_mask_refinement.py`).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rcnn.boxes import box_sizes
from rcnn.instances.paste_masks import paste_channels
from rcnn.instances.voxel_masks import VoxelMasks

MASK_RADII = (1, 2, 3)
"""The mask is also known as its means over cubes of 3, 5 and 7 voxels around a voxel."""
OPACITY_RADII = (1, 2)
"""And opacity as its means over cubes of 3 and 5 voxels."""
REFINEMENT_WEIGHTS = 23
"""A constant, and the weights of `voxel_traits`."""
# Voxels with less of the mask in the 3³ voxels around belong to nothing.
_POSSIBLE = 0.03


@torch.no_grad()
def paste_refined_masks(
    masks: Float[Tensor, "D M M M"],
    boxes: Float[Tensor, "D columns"],
    opacity: Float[Tensor, "X Y Z"],
    weights: Sequence[float],
    threshold: float = 0.5,
) -> tuple[VoxelMasks, Float[Tensor, "D"]]:
    """`paste_masks` with probabilities that are judged anew.

    Args:
        masks: probabilities.
        boxes: AABBs or OBBs in voxels.
        opacity: of the grid, in [0, 1].
        weights: of the logistic regression, the constant first.
        threshold: to be exceeded.

    Returns:
        The masks, and the mean probability of the voxels in each, 0 of those without any.

    Raises:
        ValueError: another number of weights.
    """
    if len(weights) != REFINEMENT_WEIGHTS:
        raise ValueError(f"refinement takes {REFINEMENT_WEIGHTS} weights, not {len(weights)}")
    x, y, z = opacity.shape
    with torch.autocast(opacity.device.type, enabled=False):
        constant, *others = weights
        factors = torch.tensor(others, dtype=torch.float32, device=opacity.device)
        around = opacity_means(opacity)

        def judge(found: Tensor, voxels: Tensor) -> Tensor:
            rows = (found[:, 1] > _POSSIBLE).nonzero()[:, 0]
            scores = voxel_traits(found[rows], around[voxels[rows]]) @ factors + constant
            return found.new_zeros(len(found)).index_copy(0, rows, scores.sigmoid())

        return paste_channels(smoothed_masks(masks.float(), boxes.float()), boxes, (x, y, z), threshold, judge)


def smoothed_masks(
    masks: Float[Tensor, "D M M M"], boxes: Float[Tensor, "D columns"]
) -> Float[Tensor, "D M M M channels"]:
    """Each mask, and its means over cubes of `MASK_RADII` voxels around its cells' centres; 0 outside of its box."""
    cells = masks.shape[-1]
    per_voxel = cells / box_sizes(boxes).clamp(min=1e-6)
    low = torch.arange(cells, dtype=masks.dtype, device=masks.device)
    result = [masks]
    for radius in MASK_RADII:
        mean = masks
        for axis, equation in enumerate(("dai,dijk->dajk", "dbj,dijk->dibk", "dck,dijk->dijc")):
            half = (radius + 0.5) * per_voxel[:, axis, None, None]
            centre = low[:, None] + 0.5
            # Of the stretch around a cell's centre, the share that lies in each cell.
            common = torch.minimum(centre + half, low + 1) - torch.maximum(centre - half, low)
            mean = torch.einsum(equation, common.clamp(min=0) / (2 * half), mean)
        result.append(mean)
    return torch.stack(result, -1)


def opacity_means(opacity: Float[Tensor, "X Y Z"]) -> Float[Tensor, "V channels"]:
    """Opacity of all voxels, and its means over cubes of `OPACITY_RADII` voxels around; 0 outside of the grid."""
    grid = opacity.float()[None, None]
    means = [F.avg_pool3d(grid, 2 * radius + 1, 1, radius) for radius in OPACITY_RADII]
    return torch.cat([grid, *means], 1)[0].flatten(1).T.contiguous()


def voxel_traits(mask: Float[Tensor, "V 4"], opacity: Float[Tensor, "V 3"]) -> Float[Tensor, "V traits"]:
    """What the regression weighs: mask and opacity at a voxel and around it, their squares, and products."""
    both = torch.cat([mask, opacity], 1)
    shared = mask[:, 1:3] * opacity[:, 1:3]
    return torch.cat([both, both.square(), mask[:, :1] * both[:, 1:], shared], 1)
