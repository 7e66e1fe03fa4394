"""How good the instances of a detector are: boxes by NeRF-RPN's rules, masks by ScanNet's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int, Int32
from rich.table import Table
from torch import Tensor

from rcnn.evaluation.detection_metrics import DetectionMetrics, DetectionMetricsConfig
from rcnn.evaluation.detection_scores import DetectionScores
from rcnn.evaluation.mask_metrics import MaskMetrics, MaskScores
from rcnn.instances import SceneInstances, VoxelMasks


@dataclass(frozen=True)
class InstanceScores:
    """Scores of boxes and masks over the same scenes."""

    boxes: DetectionScores
    masks: MaskScores

    def summary(self) -> dict[str, float]:
        """The figures that papers quote, for loggers; those of masks begin with `mask`."""
        return self.boxes.summary() | self.masks.summary()

    def to_json(self) -> dict[str, Any]:
        """All numbers as JSON holds them."""
        return {**self.summary(), "boxes": self.boxes.to_json(), "masks": self.masks.to_json()}

    def tables(self, title: str) -> Iterator[Table]:
        """For `rich.print`."""
        yield self.boxes.table(title)
        yield self.masks.table(title)


class InstanceMetrics:
    """Accumulates the instances of scenes.

    Args:
        categories: name of each label.
        config: what is measured of boxes.
    """

    def __init__(self, categories: Sequence[str], config: DetectionMetricsConfig | None = None) -> None:
        self.categories = tuple(categories)
        self._boxes = DetectionMetrics(config, categories)
        self._masks = MaskMetrics(categories)

    def update(
        self,
        scene: str,
        found: SceneInstances,
        boxes: Float[Tensor, "M columns"],
        labels: Int[Tensor, "M"],
        instances: Int32[Tensor, "X Y Z"],
    ) -> None:
        """Adds the instances and objects of a scene, of any device.

        Args:
            scene: its name. A scene that comes again counts once.
            found: in voxels.
            boxes: ground truth of the same kind.
            labels: index of each object's class.
            instances: row + 1 of the object that a voxel belongs to, 0 where none. Objects without a voxel have no
                mask to be found.
        """
        self._boxes.update(scene, found.boxes, found.scores, boxes, found.labels, labels)
        objects = VoxelMasks.of_ids(instances, len(boxes)).to(found.scores.device)
        there = (objects.counts > 0).cpu()
        iou = found.masks.iou(objects)[:, there.to(found.scores.device)]
        self._masks.update(scene, iou, found.scores, found.labels, labels.cpu()[there])

    def gather(self) -> InstanceMetrics:
        """Those of all processes of the default group, for each of them. All must call it."""
        result = InstanceMetrics(self.categories)
        result._boxes, result._masks = self._boxes.gather(), self._masks.gather()
        return result

    def compute(self) -> InstanceScores:
        """The scores of all scenes so far."""
        return InstanceScores(self._boxes.compute(), self._masks.compute())
