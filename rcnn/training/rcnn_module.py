"""Training and validation steps of NeRF-RCNN."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from rcnn.data import SceneBatch
from rcnn.evaluation import InstanceMetrics, InstanceScores
from rcnn.instances import instance_map
from rcnn.roi_heads import FrozenPart, NeRFRCNN, NeRFRCNNConfig
from rcnn.training.detector_module import DetectorModule, OptimizationConfig


class RCNNModule(DetectorModule):
    """NeRF-RCNN, judged by its masks whatever the class."""

    judged_by = "maskAP50"
    model: NeRFRCNN

    def __init__(
        self,
        config: NeRFRCNNConfig,
        optimization: OptimizationConfig,
        steps: int,
        pictures: int = 0,
        freeze: FrozenPart = "none",
    ) -> None:
        """
        Args:
            config: of the detector.
            optimization: as in `DetectorModule`.
            steps: as there.
            pictures: as there.
            freeze: what does not learn.
        """
        super().__init__(NeRFRCNN(config).freeze(freeze), optimization, steps, pictures)
        self._metrics = InstanceMetrics(config.categories)

    def losses(self, batch: SceneBatch) -> dict[str, Float[Tensor, ""]]:
        boxes, labels = batch.truth()
        losses: Any = self.model(batch.grids, boxes, labels, batch.instances, batch.given_proposals())
        return losses

    def on_validation_epoch_start(self) -> None:
        self._metrics = InstanceMetrics(self._metrics.categories)

    def validation_step(self, batch: SceneBatch, index: int) -> None:
        boxes, labels = batch.truth()
        found = self.model.instances(batch.grids, batch.given_proposals())
        for name, seen, box, label, ids in zip(batch.names, found, boxes, labels, batch.instances, strict=True):
            assert ids is not None  # the data set needs masks
            self._metrics.update(name, seen, box, label, ids)
        if self.draws(index):
            first = found[0]
            ids = instance_map(first.masks, first.scores)
            self.draw(batch, boxes=first.boxes, scores=first.scores, names=first.names, instances=ids)

    def compute_scores(self) -> InstanceScores:
        return self._metrics.gather().compute()
