"""Features of boxes: RoIAlign over the levels of a pyramid, for grids of several sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.backbones import GridBatch
from rcnn.backbones.padding import Padding
from rcnn.boxes import is_rotated
from roi_align3d import multiscale_roi_align_3d


@dataclass(frozen=True)
class RoIPoolingConfig:
    """How boxes read the feature pyramid."""

    canonical_scale: float = 160.0
    """Edge in voxels of a box that reads the canonical level (Lin et al., CVPR 2017, eq. 1)."""
    canonical_level: int = 4
    """Number of that level; level 2 has cells of 4 voxels. By the defaults, NeRF-RCNN's, boxes of less than 80 voxels
    read the finest level."""
    sampling_ratio: int = 2
    """Samples of a bin along each axis; 0 for as many as it has cells."""
    mode: Literal["roi_align", "crop_and_resize"] = "roi_align"
    """`crop_and_resize` is the sampling of the published NeRF-RCNN, for its weights: one sample of a bin, the outer
    ones on the faces of the box."""


def pool_rois(
    config: RoIPoolingConfig,
    features: Sequence[Float[Tensor, "N C _ _ _"]],
    boxes: Sequence[Float[Tensor, "_ columns"]],
    bins: int,
    batch: GridBatch,
    strides: Sequence[int],
) -> Float[Tensor, "K C bins bins bins"]:
    """Features of the boxes of all grids, grid after grid: what each box would read if its grid were not padded.

    Args:
        config: levels and sampling.
        features: one map for each stride, of :func:`extend_edges`.
        boxes: AABBs or OBBs of each grid in voxels.
        bins: along each side.
        batch: what the maps were computed from.
        strides: voxels per cell of each level.

    Raises:
        ValueError: OBBs, and a mode that has none.
    """
    rotated = is_rotated(boxes[0])

    def pool(maps: Sequence[Tensor], of_grids: Sequence[Tensor]) -> Tensor:
        return multiscale_roi_align_3d(
            maps, list(of_grids), bins, [1 / stride for stride in strides], config.sampling_ratio or -1,
            canonical_scale=config.canonical_scale, canonical_level=config.canonical_level, mode=config.mode,
            rotated=rotated,
        )  # fmt: skip

    padded = any(batch.padding_at(stride) is not None for stride in strides)
    if not padded or (config.mode == "roi_align" and not rotated):
        return pool(features, boxes)
    # OBBs reach over walls, and further than edges are extended.
    parts = []
    for n, of_grid in enumerate(boxes):
        extents = [batch.extents_at(stride)[n] for stride in strides]
        maps = [level[n : n + 1, :, :x, :y, :z] for level, (x, y, z) in zip(features, extents, strict=True)]
        parts.append(pool(maps, [of_grid]))
    return torch.cat(parts)


def extend_edges(x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "N C X Y Z"]:
    """Maps whose first cells of padding repeat the last cells of their grid.

    RoIAlign takes what lies between the centre of a grid's last cell and its face for that cell's; with zeros in the
    padding it would blend towards them. So boxes inside their grid read what they read without padding.
    """
    if padding is None:
        return x
    x = x.clone()
    for n, extent in enumerate(padding.extents):
        for axis, cells in enumerate(extent):
            if cells < x.shape[2 + axis]:
                grid = x[n]
                grid.select(1 + axis, cells).copy_(grid.select(1 + axis, cells - 1))
    return x
