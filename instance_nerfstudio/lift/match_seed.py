"""Instance-NeRF's matcher (Liu et al. 2023): a segment takes the projected instance that it overlaps best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from instance_nerfstudio.lift.instance_grid import InstanceGrid
from instance_nerfstudio.lift.matching import Matching, at_size_of, check_views, describe, name_segments
from instance_nerfstudio.lift.view_projection import ViewProjection
from instance_nerfstudio.masks.instance_masks import UNLABELLED
from instance_nerfstudio.segments.view_segments import ViewSegments


@dataclass(frozen=True)
class SeedConfig:
    """The paper's rule."""

    iou: float = 0.05
    """A segment whose best intersection over union is not above this is of no instance."""
    threshold: float = 0.5
    """An instance covers the pixels that get more than this share of their light from it."""

    def __post_init__(self) -> None:
        if not (0 <= self.iou <= 1 and 0 <= self.threshold <= 1):
            raise ValueError("iou and threshold must lie in [0, 1]")


def match_seed(
    segments: Sequence[ViewSegments],
    projections: Sequence[ViewProjection],
    grid: InstanceGrid,
    config: SeedConfig | None = None,
) -> Matching:
    """Each segment by itself takes the instance of the highest IoU in its view, or abstains.

    Several segments may take one instance, and classes are not compared. What differs from the seed's scripts: an
    instance is hidden by everything in front of it, views are told apart by their place in the lists and not by the
    beginnings of file names, and ids are not limited to 255.

    Args:
        segments: of each view.
        projections: the instances in the same views.
        grid: the instances.
        config: thresholds.

    Raises:
        ValueError: views or instances that do not fit together.
        InputError: segments of another shape than their view.
    """
    config = config or SeedConfig()
    check_views(segments, projections, grid)
    assigned = [
        _assign(at_size_of(s, p), len(s.categories), p, config) for s, p in zip(segments, projections, strict=True)
    ]
    maps = [name_segments(s.ids, instances) for s, instances in zip(segments, assigned, strict=True)]
    return Matching(maps, describe(segments, assigned, grid, by_detector=True))


def _assign(
    ids: Int32[np.ndarray, "h w"], count: int, projection: ViewProjection, config: SeedConfig
) -> Int32[np.ndarray, "S"]:
    """The instance of each segment of a view, -1 for none."""
    instances = len(projection.visible)
    if not instances or not count:
        return np.full(count, UNLABELLED, np.int32)
    projected = projection.ids(config.threshold)
    # Pixels that the segmenter has no opinion about are in no segment, but count for the projected masks.
    pairs = np.maximum(ids, 0).astype(np.int64) * (instances + 1) + projected
    table = np.bincount(pairs.ravel(), minlength=(count + 1) * (instances + 1)).reshape(-1, instances + 1)
    both = table[1 : count + 1, 1:]
    union = table[1 : count + 1].sum(1)[:, None] + table[:, 1:].sum(0) - both
    iou = both / np.maximum(union, 1)
    best = iou.argmax(1)
    return np.where(iou[np.arange(count), best] > config.iou, best + 1, UNLABELLED).astype(np.int32)
