"""Overlapping masks become one map in which every pixel has at most one segment."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from instance_nerfstudio.masks.instance_masks import BACKGROUND, UNLABELLED
from instance_nerfstudio.segments.class_table import ClassTable
from instance_nerfstudio.segments.mask_source import Detections
from instance_nerfstudio.segments.settings import FlattenConfig
from instance_nerfstudio.segments.view_segments import ViewSegments

PIXELS_AT_ONCE = 1 << 18


def flatten(found: Detections, table: ClassTable, config: FlattenConfig) -> ViewSegments:
    """One map out of masks, front to back. Background classes hide what is behind them like any other.

    Args:
        found: of one photo.
        table: says what is background, and what classes are called here.
        config: thresholds.
    """
    count, height, width = found.masks.shape
    names, scores = list(found.names), found.scores.float().cpu().numpy()
    # No opinion, unless something better covers a pixel.
    ids = torch.full((height, width), UNLABELLED if found.complete else BACKGROUND, dtype=torch.int32)
    ids = ids.to(found.masks.device)
    areas = found.masks.flatten(1).sum(1).cpu().numpy() if count else np.zeros(0, np.int64)
    enough = (areas >= max(1.0, config.min_area * height * width)) & (scores >= config.min_score)
    doubtful = (areas > 0) & (scores >= config.doubtful_score) & ~enough
    if doubtful.any():
        ids[found.masks[torch.from_numpy(doubtful).to(ids.device)].any(0)] = UNLABELLED
    rows = np.flatnonzero(enough)
    kept: list[int] = []
    free, left = torch.ones_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    if len(rows):
        masks = found.masks[torch.from_numpy(rows).to(ids.device)]
        classes = [None if table.is_background(names[row]) else table.category(names[row]) for row in rows]
        order = front_to_back(masks, scores[rows], classes, config)
        for place in order:
            seen = masks[place] & free
            if int(seen.sum()) < max(1.0, config.min_visible * areas[rows[place]]):
                left |= seen
                continue
            if table.is_background(names[rows[place]]):
                ids[seen] = BACKGROUND
            else:
                kept.append(int(rows[place]))
                ids[seen] = len(kept)
            free &= ~seen
    ids[left & free] = UNLABELLED
    categories = tuple(table.category(names[row]) for row in kept)
    return ViewSegments(ids.cpu().numpy(), categories, scores[kept].astype(np.float32))


def front_to_back(
    masks: Bool[Tensor, "N H W"],
    scores: Float[np.ndarray, "N"],
    classes: Sequence[str | None],
    config: FlattenConfig,
) -> list[int]:
    """Order of masks: by score, but what lies inside a much larger mask of another class comes before that one.

    A cushion on a sofa is in front of it, although the segmenter is surer of the sofa; a second, smaller mask of the
    same sofa is not. Whatever lies inside background (class None) comes before it.
    """
    common = torch.zeros(len(masks), len(masks), device=masks.device)
    for part in masks.flatten(1).split(PIXELS_AT_ONCE, 1):
        part = part.float()
        common += part @ part.T
    shared = common.double().cpu().numpy()
    areas = np.maximum(shared.diagonal(), 1)
    named = np.array(classes, dtype=object)
    behind = np.array([name is None for name in classes])
    inside = shared > config.front_inside * areas[:, None]
    smaller = (named[:, None] != named[None, :]) & (areas[:, None] < config.front_size * areas[None, :])
    smaller &= scores[:, None] > config.front_score * scores[None, :]
    # before[i, j]: i comes before j. From object to object areas rise, and nothing leads back from background, so that
    # there are no circles.
    before = inside & np.where(behind[:, None], False, smaller | behind[None, :])
    waits_for = before.sum(0)
    ready = [(-float(scores[i]), int(i)) for i in np.flatnonzero(waits_for == 0)]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, first = heapq.heappop(ready)
        order.append(first)
        for later in np.flatnonzero(before[first]):
            waits_for[later] -= 1
            if waits_for[later] == 0:
                heapq.heappush(ready, (-float(scores[later]), int(later)))
    return order
