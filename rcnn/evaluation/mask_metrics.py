"""ScanNet's average precision of masks, gathered scene by scene, in one process or many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rich.table import Table
from torch import Tensor

from rcnn.evaluation.gather import gather_objects
from rcnn.evaluation.instance_average_precision import assign_instances, instance_average_precision

AVERAGED = tuple(round(0.5 + 0.05 * n, 2) for n in range(9))
"""IoU thresholds whose average precisions make AP: 0.5, 0.55, ... 0.9, as in ScanNet's evaluation."""
THRESHOLDS = (*AVERAGED, 0.25)


@dataclass(frozen=True)
class MaskScores:
    """Average precision of masks; NaN without objects."""

    scenes: int
    objects: int
    detections: int
    ap: Mapping[str, float]
    """`AP`, `AP50` and `AP25` whatever the class."""
    classes: Mapping[str, Mapping[str, float]]
    """The same by class, for classes with objects or detections."""
    class_objects: Mapping[str, int]

    @property
    def mean_ap(self) -> dict[str, float]:
        """The same averaged over classes with objects."""
        found = [row for row in self.classes.values() if not math.isnan(row["AP"])]
        return {key: math.fsum(row[key] for row in found) / len(found) for key in self.ap} if found else {}

    def summary(self) -> dict[str, float]:
        """`maskAP`, `maskAP50`, `maskAP25`, and `maskmAP`, ... averaged over classes; those without a value are left
        out."""
        values = {f"mask{key}": value for key, value in self.ap.items()}
        values |= {f"maskm{key}": value for key, value in self.mean_ap.items()}
        return {key: value for key, value in values.items() if not math.isnan(value)}

    def to_json(self) -> dict[str, Any]:
        """All numbers as JSON holds them: None for NaN."""
        return {
            **self.summary(),
            "scenes": self.scenes,
            "objects": self.objects,
            "detections": self.detections,
            "classes": {
                name: {"objects": self.class_objects[name]}
                | {key: None if math.isnan(value) else value for key, value in row.items()}
                for name, row in self.classes.items()
            },
        }

    def table(self, title: str = "Masks") -> Table:
        """A table for `rich.print`: all objects, then each class."""
        table = Table(title=f"{title}: masks of {self.scenes} scenes")
        table.add_column("class")
        for name in ("objects", *self.ap):
            table.add_column(name, justify="right")
        table.add_row("all, without classes", str(self.objects), *map(_cell, self.ap.values()), end_section=True)
        for name, row in sorted(self.classes.items(), key=lambda item: -self.class_objects[item[0]]):
            table.add_row(name, str(self.class_objects[name]), *map(_cell, row.values()))
        if mean := self.mean_ap:
            table.add_row("mean of classes", "", *map(_cell, mean.values()))
        return table


@dataclass(frozen=True, eq=False)
class _Scene:
    iou: np.ndarray
    """(N, M) float32, best detection first."""
    scores: np.ndarray
    labels: np.ndarray
    object_labels: np.ndarray


class MaskMetrics:
    """Accumulates the masks of scenes; their IoU with those of objects is all that is kept.

    The rules are those of ScanNet's evaluation of instances, without its smallest size and its ignored regions, which
    grids don't have.

    Args:
        categories: name of each label.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        self.categories = tuple(categories)
        self._scenes: dict[str, _Scene] = {}

    def update(
        self,
        scene: str,
        iou: Float[Tensor, "N M"],
        scores: Float[Tensor, "N"],
        labels: Int[Tensor, "N"],
        object_labels: Int[Tensor, "M"],
    ) -> None:
        """Adds the instances and objects of a scene, of any device.

        Args:
            scene: its name. A scene that comes again counts once.
            iou: of the masks of instances and objects.
            scores: of the instances.
            labels: their classes.
            object_labels: classes of the objects.

        Raises:
            ValueError: arguments that don't belong together.
        """
        if not (iou.shape == (len(scores), len(object_labels)) and len(labels) == len(scores)):
            raise ValueError(
                f"{scene}: IoU {list(iou.shape)} of {len(scores)} scores, {len(labels)} labels and "
                f"{len(object_labels)} objects"
            )
        values = scores.detach().cpu().double().numpy()
        order = np.argsort(-values, kind="stable")
        pairs = iou.detach().cpu().float().numpy()[order]
        names = labels.cpu().numpy().astype(np.int32)[order]
        self._scenes.setdefault(scene, _Scene(pairs, values[order], names, object_labels.cpu().numpy()))

    def merge(self, others: Iterable[MaskMetrics]) -> MaskMetrics:
        """Everything that these and other metrics have gathered; neither changes."""
        result = MaskMetrics(self.categories)
        for metrics in (self, *others):
            if metrics.categories != self.categories:
                raise ValueError("only metrics with the same categories can be merged")
            result._scenes |= metrics._scenes
        return result

    def gather(self) -> MaskMetrics:
        """:meth:`merge` over all processes of the default group, for each of them. All must call it."""
        return MaskMetrics(self.categories).merge(gather_objects(self))

    def compute(self) -> MaskScores:
        """The scores of all scenes so far."""
        scenes = [self._scenes[name] for name in sorted(self._scenes)]
        present = sorted({int(n) for s in scenes for part in (s.labels, s.object_labels) for n in part})
        parts = {label: [_of_class(scene, label) for scene in scenes] for label in present}
        return MaskScores(
            scenes=len(scenes),
            objects=sum(len(scene.object_labels) for scene in scenes),
            detections=sum(len(scene.scores) for scene in scenes),
            ap=_average_precisions(scenes),
            classes={self.categories[label]: _average_precisions(part) for label, part in parts.items()},
            class_objects={
                self.categories[label]: sum(len(scene.object_labels) for scene in part) for label, part in parts.items()
            },
        )


def _of_class(scene: _Scene, label: int) -> _Scene:
    rows, columns = scene.labels == label, scene.object_labels == label
    return _Scene(scene.iou[rows][:, columns], scene.scores[rows], scene.labels[rows], scene.object_labels[columns])


def _average_precisions(scenes: Sequence[_Scene]) -> dict[str, float]:
    values = {}
    for threshold in THRESHOLDS:
        found = [assign_instances(scene.iou, scene.scores, threshold) for scene in scenes]
        scores = np.concatenate([np.zeros(0), *(part[0] for part in found)])
        right = np.concatenate([np.zeros(0, bool), *(part[1] for part in found)])
        values[threshold] = instance_average_precision(scores, right, sum(part[2] for part in found))
    return {
        "AP": float(np.mean([values[threshold] for threshold in AVERAGED])),
        "AP50": values[0.5],
        "AP25": values[0.25],
    }


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
