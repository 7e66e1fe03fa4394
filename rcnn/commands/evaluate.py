"""`nerf-rcnn eval`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rcnn.commands.data_options import DataOptions, choose_device, report_skipped, samples, with_progress

if TYPE_CHECKING:
    import torch

    from rcnn.data import GridDataset
    from rcnn.roi_heads import NeRFRCNN
    from rcnn.rpn import NeRFRPN


@dataclass
class Evaluate:
    """Score a detector on scenes with truth: recall and average precision of boxes, and of a NeRF-RCNN's masks."""

    data: Annotated[DataOptions, tyro.conf.arg(name="")]
    detector: Path | None = None
    """detector.safetensors of a run, or converted weights; those that come with this package when not given."""
    split: str = "test"
    """Which scenes."""
    out: Path | None = None
    """JSON file for all numbers."""
    ap_limit: int | None = None
    """Detections of a scene, the best ones, that count for average precision; all when not given."""
    device: str | None = None
    """The GPU, where there is one, when not given."""

    def main(self) -> None:
        """Prints tables."""
        from rcnn.roi_heads import NeRFRCNNConfig
        from rcnn.safe_files import write_json
        from rcnn.weights import load_detector, load_instance_detector

        device = choose_device(self.device)
        load = load_instance_detector if self.detector is None else load_detector
        model, notes = load(self.detector, device)  # type: ignore[arg-type]
        boxes: Literal["aabb", "obb"] = "obb" if notes.rpn.rotated else "aabb"
        if isinstance(notes.config, NeRFRCNNConfig):
            scenes = self.data.open(self.split, boxes, masks=True, categories=notes.config.categories)
            scores = self._instances(model, scenes, device)  # type: ignore[arg-type]
        else:
            scenes = self.data.open(self.split, boxes)
            scores = self._proposals(model, scenes, device)  # type: ignore[arg-type]
        if self.out is not None:
            write_json(self.out, scores)
        report_skipped(scenes)

    def _proposals(self, model: NeRFRPN, scenes: GridDataset, device: torch.device) -> dict[str, Any]:
        import rich

        from rcnn.detecting import detect
        from rcnn.evaluation import DetectionMetrics, DetectionMetricsConfig

        metrics = DetectionMetrics(DetectionMetricsConfig(ap_limit=self.ap_limit), scenes.categories)
        for found in with_progress(detect(model, samples(scenes), device), len(scenes), "Detecting"):
            scene, proposals = found.scene, found.proposals
            assert scene.boxes is not None  # the data set needs truth
            metrics.update(scene.name, proposals.boxes, proposals.scores, scene.boxes, object_labels=scene.labels)
        scores = metrics.compute()
        rich.print(scores.table(f"{self.split} scenes"))
        return scores.to_json()

    def _instances(self, model: NeRFRCNN, scenes: GridDataset, device: torch.device) -> dict[str, Any]:
        import rich

        from rcnn.detecting import find_instances
        from rcnn.evaluation import DetectionMetricsConfig, InstanceMetrics

        metrics = InstanceMetrics(model.config.categories, DetectionMetricsConfig(ap_limit=self.ap_limit))
        for scene in with_progress(samples(scenes), len(scenes), "Detecting"):
            assert scene.boxes is not None  # the data set needs truth and masks
            assert scene.labels is not None
            assert scene.instances is not None
            found = find_instances(model, scene.features.to(device)).instances
            metrics.update(scene.name, found, scene.boxes, scene.labels, scene.instances)
        scores = metrics.compute()
        for table in scores.tables(f"{self.split} scenes"):
            rich.print(table)
        return scores.to_json()
