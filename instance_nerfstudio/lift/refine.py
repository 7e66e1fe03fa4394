"""One round of refinement: a trained field's masks, drawn to the photos' edges, tell segments anew what they are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32, UInt8

from instance_nerfstudio.evaluation.metrics import InstanceMetrics
from instance_nerfstudio.lift.edge_filter import EdgeFilterConfig, follow_edges
from instance_nerfstudio.masks.instance_masks import BACKGROUND, UNLABELLED
from instance_nerfstudio.segments.view_segments import ViewSegments

MaskRefiner = Callable[[UInt8[np.ndarray, "H W 3"], Int32[np.ndarray, "H W"]], Int32[np.ndarray, "H W"]]
"""Photo and map of instances -> a better map, -1 where it does not know."""


@dataclass(frozen=True)
class RefineConfig:
    """What is believed of a field's prediction."""

    edges: EdgeFilterConfig = field(default_factory=EdgeFilterConfig)
    """The filter that draws segments to edges, and predictions where no other refiner is given."""
    confidence: float = 0.5
    """Pixels that the field is less sure of are unlabelled."""
    agree: float = 0.7
    """A segment is of an instance that the field predicts for this share of its pixels, unlabelled ones aside."""
    own: float = 0.5
    """An instance has a segment of its own where segments of it hold this share of its predicted pixels: then the
    background around these is background."""
    least_gain: float = 0.002
    """A round is kept if the agreement on held-out views rises by more than this."""

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.confidence, self.agree, self.own)) or self.least_gain < 0:
            raise ValueError("confidence, agree and own must lie in [0, 1], least_gain must not be negative")


def refine_view(
    photo: UInt8[np.ndarray, "H W 3"],
    predicted: Int32[np.ndarray, "H W"],
    confidence: Float32[np.ndarray, "H W"],
    segments: ViewSegments | None = None,
    config: RefineConfig | None = None,
    refiner: MaskRefiner | None = None,
) -> Int32[np.ndarray, "H W"]:
    """The map of instances that the next training of a view learns from. Segments are drawn to edges, too.

    Args:
        photo: RGB.
        predicted: what the field renders: 0 background, 1.. instances.
        confidence: probability of that id.
        segments: of this view; without them the refined prediction alone counts.
        config: thresholds.
        refiner: in place of the filter, e.g. `CascadePSP`.

    Raises:
        ValueError: maps of different sizes.
    """
    config = config or RefineConfig()
    if not photo.shape[:2] == predicted.shape == confidence.shape:
        raise ValueError(f"photo {photo.shape[:2]}, ids {predicted.shape}, confidence {confidence.shape}: sizes differ")
    believed = np.where(confidence < config.confidence, UNLABELLED, predicted).astype(np.int32)
    if refiner is not None:
        refined = refiner(photo, believed)
    else:
        refined = follow_edges(photo, believed, confidence, config.edges)
    if segments is None:
        return refined
    sharp = follow_edges(photo, segments.ids.astype(np.int32), None, config.edges)
    return reassign(ViewSegments(sharp, segments.categories, segments.scores), refined, config)


def reassign(
    segments: ViewSegments, predicted: Int32[np.ndarray, "H W"], config: RefineConfig | None = None
) -> Int32[np.ndarray, "H W"]:
    """Segments take the instance that a field sees in them, whatever they were taken for before.

    A segment of one instance has it where the field does not know; in others, and where there are none, pixels keep the
    field's word. Where one of the two says background, pixels are unlabelled, unless the segmenter has missed all of an
    instance: a border is wrong, and which one is not known.

    Args:
        segments: of the view.
        predicted: -1 unlabelled, 0 background, 1.. instances.
        config: thresholds.

    Raises:
        ValueError: maps of different sizes.
    """
    config = config or RefineConfig()
    ids = segments.ids
    if ids.shape != predicted.shape:
        raise ValueError(f"segments {ids.shape}, ids {predicted.shape}: sizes differ")
    instances = int(predicted.max(initial=0))
    count = int(ids.max(initial=0))
    known = (ids >= BACKGROUND) & (predicted >= BACKGROUND)
    pairs = ids[known].astype(np.int64) * (instances + 1) + predicted[known]
    table = np.bincount(pairs, minlength=(count + 1) * (instances + 1)).reshape(count + 1, instances + 1)
    best = table.argmax(1)
    agree = table.max(1) >= np.maximum(config.agree * table.sum(1), 1)
    agree[BACKGROUND] = False
    held = np.zeros(instances + 1, np.int64)
    np.add.at(held, best[agree], table[agree, best[agree]])
    own = held >= np.maximum(config.own * table.sum(0), 1)
    own[BACKGROUND] = False

    result = predicted.copy()
    segment = np.maximum(ids, 0)
    of_one = agree[segment] & (ids > BACKGROUND)
    added = of_one & (predicted < BACKGROUND)
    result[added] = best[segment][added]
    beyond = (ids == BACKGROUND) & (predicted > BACKGROUND) & own[np.maximum(predicted, 0)]
    result[beyond | (of_one & (predicted == BACKGROUND) & (best[segment] > BACKGROUND))] = UNLABELLED
    return result.astype(np.int32)


class HeldOutAgreement:
    """How well a field's masks fit the segments of views that it did not learn from: panoptic quality in each view.

    Ids are not compared, so no truth and no matching is needed; unlabelled pixels of the segments count nowhere.
    """

    def __init__(self) -> None:
        self._metrics = InstanceMetrics()

    def add(self, predicted: Int[np.ndarray, "H W"], segments: ViewSegments) -> None:
        """Adds a view.

        Raises:
            ValueError: maps of different sizes.
        """
        maps = [torch.from_numpy(np.ascontiguousarray(ids)) for ids in (predicted, segments.ids)]
        self._metrics.update(*maps)

    def value(self) -> float:
        """In [0, 1]; NaN if no view has a segment."""
        return self._metrics.compute()["pq"]


def keep_round(before: float, after: float, config: RefineConfig | None = None) -> bool:
    """Whether a round of refinement has made a field better; held-out agreement before and after it.

    Without held-out segments (NaN) nothing shows that it has.
    """
    config = config or RefineConfig()
    return after > before + config.least_gain
