"""Training and validation steps of NeRF-RPN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from rcnn.data import SceneBatch
from rcnn.evaluation import DetectionMetrics, DetectionScores
from rcnn.rpn import NeRFRPN, NeRFRPNConfig
from rcnn.training.detector_module import DetectorModule, OptimizationConfig


class RPNModule(DetectorModule):
    """NeRF-RPN, judged by its boxes whatever the class."""

    judged_by = "AP50"
    model: NeRFRPN

    def __init__(
        self,
        config: NeRFRPNConfig,
        optimization: OptimizationConfig,
        steps: int,
        categories: Sequence[str],
        pictures: int = 0,
    ) -> None:
        """
        Args:
            config: of the detector.
            optimization: as in `DetectorModule`.
            steps: as there.
            categories: what labels of validation scenes stand for.
            pictures: as there.
        """
        super().__init__(NeRFRPN(config), optimization, steps, pictures)
        self._metrics = DetectionMetrics(categories=categories)

    def losses(self, batch: SceneBatch) -> dict[str, Float[Tensor, ""]]:
        losses: Any = self.model(batch.grids, batch.truth()[0])
        return losses

    def on_validation_epoch_start(self) -> None:
        self._metrics = DetectionMetrics(categories=self._metrics.categories)

    def validation_step(self, batch: SceneBatch, index: int) -> None:
        truth, labels = batch.truth()
        outputs = self.model.outputs(batch.grids)
        proposals = self.model.propose(outputs, batch.grids)
        for name, found, boxes, label in zip(batch.names, proposals, truth, labels, strict=True):
            self._metrics.update(name, found.boxes, found.scores, boxes, object_labels=label)
        if self.draws(index):
            heatmap = self.model.heatmap(outputs, batch.grids, stride=4)[0]
            self.draw(batch, boxes=proposals[0].boxes, scores=proposals[0].scores, heatmap=heatmap)

    def compute_scores(self) -> DetectionScores:
        return self._metrics.gather().compute()
