"""Recall and average precision gathered scene by scene, in one process or many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rcnn.boxes import box_iou, is_rotated
from rcnn.evaluation.average_precision import average_precision
from rcnn.evaluation.detection_scores import ClassScores, DetectionScores
from rcnn.evaluation.gather import gather_objects
from rcnn.evaluation.matching import first_detections, matched_ious

AVERAGE_RECALL_THRESHOLDS = torch.arange(0.25, 1.0, 0.05).numpy()


@dataclass(frozen=True)
class DetectionMetricsConfig:
    """What is measured; the defaults are NeRF-RPN's."""

    iou_thresholds: tuple[float, ...] = (0.25, 0.5)
    """Recall asks for this IoU at least, average precision for more than it."""
    recall_limits: tuple[int, ...] = (300, 1000, 2500)
    """Recall is that of so many detections of each scene, the best ones. The first number is the one reported."""
    ap_limit: int | None = None
    """Detections of a scene, the best ones, that average precision counts; None for all."""

    def __post_init__(self) -> None:
        if not self.iou_thresholds or not all(0 <= threshold < 1 for threshold in self.iou_thresholds):
            raise ValueError(f"iou_thresholds must lie in [0, 1), they are {self.iou_thresholds}")
        limits = self.recall_limits if self.ap_limit is None else (*self.recall_limits, self.ap_limit)
        if not self.recall_limits or min(limits) < 1:
            raise ValueError("recall_limits and ap_limit must be 1 or more")


@dataclass(frozen=True, eq=False)
class _Scene:
    """What is kept of a scene: a few bytes for each detection and object."""

    scores: np.ndarray
    """(N,) float64, descending."""
    labels: np.ndarray | None
    """(N,) int32."""
    right: np.ndarray
    """(N, T) bool: true positives at each threshold."""
    right_in_class: np.ndarray | None
    """The same among objects with the detection's label."""
    coverage: np.ndarray
    """(limits, M) float32: IoU of each object with its detection."""
    object_labels: np.ndarray | None
    """(M,) int32."""


class DetectionMetrics:
    """Accumulates detections of scenes; nothing but scores and matches is kept.

    The rules are those of NeRF-RPN (Hu et al., CVPR 2023; Detectron's recall of proposals, Pascal VOC's average
    precision), and so are the numbers, but for scenes without proposals or without objects: objects of the former are
    missed, detections in the latter are wrong.

    Args:
        config: what is measured.
        categories: name of each label; labels themselves name classes when None.
    """

    def __init__(self, config: DetectionMetricsConfig | None = None, categories: Sequence[str] | None = None) -> None:
        self.config = config or DetectionMetricsConfig()
        self.categories = None if categories is None else tuple(categories)
        self._scenes: dict[str, _Scene] = {}

    def __len__(self) -> int:
        """Scenes so far."""
        return len(self._scenes)

    def update(
        self,
        scene: str,
        boxes: Float[Tensor, "N columns"],
        scores: Float[Tensor, "N"],
        object_boxes: Float[Tensor, "M columns"],
        labels: Int[Tensor, "N"] | None = None,
        object_labels: Int[Tensor, "M"] | None = None,
    ) -> None:
        """Adds the detections and objects of a scene, of any device.

        Args:
            scene: its name. A scene that comes again, as from samplers that fill up the last batch, counts once.
            boxes: AABBs or OBBs, in any order.
            scores: of the boxes.
            object_boxes: ground truth of the same kind, possibly none.
            labels: classes of the boxes, for average precision by class.
            object_labels: classes of the objects, for scores by class.

        Raises:
            ValueError: boxes of different kinds, numbers that are not finite, or arguments that don't belong together.
        """
        if is_rotated(boxes) != is_rotated(object_boxes):
            raise ValueError(
                f"{scene}: boxes have {boxes.shape[-1]} columns, the ground truth has {object_boxes.shape[-1]}; "
                "evaluate AABBs with AABBs and OBBs with OBBs"
            )
        if not (boxes.isfinite().all() and object_boxes.isfinite().all()):
            raise ValueError(f"{scene}: boxes must be finite numbers")
        iou = box_iou(boxes.detach(), object_boxes.detach().to(boxes.device))
        self.update_ious(scene, iou, scores, labels, object_labels)

    def update_ious(
        self,
        scene: str,
        iou: Float[Tensor, "N M"],
        scores: Float[Tensor, "N"],
        labels: Int[Tensor, "N"] | None = None,
        object_labels: Int[Tensor, "M"] | None = None,
    ) -> None:
        """:meth:`update` with the IoU of detections and objects, of masks for example."""
        count, objects = iou.shape
        if scores.shape != (count,) or not scores.isfinite().all():
            raise ValueError(f"{scene}: needs {count} finite scores, not {list(scores.shape)}")
        for name, given, wanted in (("labels", labels, count), ("object_labels", object_labels, objects)):
            if given is not None and (given.shape != (wanted,) or given.is_floating_point()):
                raise ValueError(f"{scene}: {name} must be {wanted} integers, not {given.dtype} {list(given.shape)}")
            if given is None or self.categories is None or wanted == 0:
                continue
            if int(given.min()) < 0 or int(given.max()) >= len(self.categories):
                raise ValueError(f"{scene}: {name} must lie in 0..{len(self.categories) - 1}")
        values = scores.detach().double().cpu().numpy()
        order = np.argsort(-values, kind="stable")
        pairs = iou.detach().cpu().numpy()[order]
        top = slice(self.config.ap_limit)
        names, object_names = _array(labels), _array(object_labels)
        names = None if names is None else names[order][top]
        thresholds = self.config.iou_thresholds
        right = np.stack([first_detections(pairs[top], threshold) for threshold in thresholds], 1)
        right_in_class = None
        if names is not None and object_names is not None:
            right_in_class = np.zeros_like(right)
            for name in np.unique(names):
                rows = np.flatnonzero(names == name)
                part = pairs[rows][:, object_names == name]
                right_in_class[rows] = np.stack([first_detections(part, threshold) for threshold in thresholds], 1)
        coverage = np.stack([matched_ious(pairs[:limit]) for limit in self.config.recall_limits])
        self._add(scene, _Scene(values[order][top], names, right, right_in_class, coverage, object_names))

    def merge(self, others: Iterable[DetectionMetrics]) -> DetectionMetrics:
        """Everything that these and other metrics have gathered; neither changes. The order does not matter."""
        result = DetectionMetrics(self.config, self.categories)
        for metrics in (self, *others):
            if metrics.config != self.config or metrics.categories != self.categories:
                raise ValueError("only metrics with the same config and categories can be merged")
            for name, scene in metrics._scenes.items():
                result._add(name, scene)
        return result

    def gather(self) -> DetectionMetrics:
        """:meth:`merge` over all processes of the default group, for each of them.

        All processes must call it.
        """
        return DetectionMetrics(self.config, self.categories).merge(gather_objects(self))

    def compute(self) -> DetectionScores:
        """The scores of all scenes so far. Of equal scores, the scene whose name comes first counts first."""
        scenes = [self._scenes[name] for name in sorted(self._scenes)]
        thresholds, limits = self.config.iou_thresholds, self.config.recall_limits
        scores = _join([scene.scores for scene in scenes], np.zeros(0))
        right = _join([scene.right for scene in scenes], np.zeros((0, len(thresholds)), bool))
        coverage = _join([scene.coverage.T for scene in scenes], np.zeros((0, len(limits)), np.float32))
        objects = len(coverage)
        return DetectionScores(
            scenes=len(scenes),
            objects=objects,
            detections=len(scores),
            recall={limit: self._recall(coverage[:, k]) for k, limit in enumerate(limits)},
            average_recall={
                limit: float(np.mean([_share(coverage[:, k] >= t) for t in AVERAGE_RECALL_THRESHOLDS]))
                for k, limit in enumerate(limits)
            },
            ap={t: average_precision(scores, right[:, k], objects) for k, t in enumerate(thresholds)},
            classes=self._classes(scenes),
        )

    def _classes(self, scenes: list[_Scene]) -> dict[str, ClassScores]:
        if not scenes or any(scene.object_labels is None for scene in scenes):
            return {}
        thresholds = self.config.iou_thresholds
        owner = _join([scene.object_labels for scene in scenes], np.zeros(0, np.int32))
        coverage = _join([scene.coverage[0] for scene in scenes], np.zeros(0, np.float32))
        labelled = all(scene.labels is not None for scene in scenes)
        labels = _join([scene.labels for scene in scenes], owner[:0]) if labelled else owner[:0]
        scores = np.concatenate([scene.scores for scene in scenes])
        result: dict[str, ClassScores] = {}
        for label in np.union1d(owner, labels):
            mine = owner == label
            count = int(mine.sum())
            ap = found = None
            if labelled:
                rows = labels == label
                right = _join([scene.right_in_class for scene in scenes], np.zeros((0, len(thresholds)), bool))[rows]
                ap = {t: average_precision(scores[rows], right[:, k], count) for k, t in enumerate(thresholds)}
                found = {t: right[:, k].sum() / count if count else float("nan") for k, t in enumerate(thresholds)}
                found = {t: float(value) for t, value in found.items()}
            name = str(label) if self.categories is None else self.categories[label]
            result[name] = ClassScores(count, self._recall(coverage[mine]), ap, found)
        return result

    def _recall(self, coverage: np.ndarray) -> dict[float, float]:
        return {threshold: _share(coverage >= threshold) for threshold in self.config.iou_thresholds}

    def _add(self, name: str, scene: _Scene) -> None:
        known = self._scenes.setdefault(name, scene)
        if known.coverage.shape != scene.coverage.shape:
            raise ValueError(f"{name}: came twice with different objects; scenes need names of their own")


def _array(labels: Tensor | None) -> np.ndarray | None:
    return None if labels is None else labels.detach().cpu().numpy().astype(np.int32)


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else float("nan")


def _join(parts: Iterable[np.ndarray | None], empty: np.ndarray) -> np.ndarray:
    return np.concatenate([empty, *(part for part in parts if part is not None)])
