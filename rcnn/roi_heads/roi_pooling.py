"""Features of boxes: RoIAlign over the levels of a pyramid, for grids of several sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

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
    ones on the faces of the box. In batches of several sizes it is not exact at far walls."""


def pool_rois(
    config: RoIPoolingConfig,
    features: Sequence[Float[Tensor, "N C _ _ _"]],
    boxes: Sequence[Float[Tensor, "_ columns"]],
    bins: int,
    strides: Sequence[int],
) -> Float[Tensor, "K C bins bins bins"]:
    """Features of the boxes of all grids, grid after grid.

    Args:
        config: levels and sampling.
        features: one map for each stride, of `extend_edges` if grids are padded.
        boxes: AABBs or OBBs of each grid in voxels.
        bins: along each side.
        strides: voxels per cell of each level.

    Raises:
        ValueError: OBBs, and a mode that has none.
    """
    return multiscale_roi_align_3d(
        features, list(boxes), bins, [1 / stride for stride in strides], config.sampling_ratio or -1,
        canonical_scale=config.canonical_scale, canonical_level=config.canonical_level, mode=config.mode,
        rotated=is_rotated(boxes[0]),
    )  # fmt: skip


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
