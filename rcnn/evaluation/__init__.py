"""How good detections are: recall of proposals and average precision, as NeRF-RPN reports them."""

from rcnn.evaluation.average_precision import average_precision, precision_recall
from rcnn.evaluation.detection_metrics import DetectionMetrics, DetectionMetricsConfig
from rcnn.evaluation.detection_scores import ClassScores, DetectionScores
from rcnn.evaluation.matching import first_detections, matched_ious

__all__ = [
    "ClassScores",
    "DetectionMetrics",
    "DetectionMetricsConfig",
    "DetectionScores",
    "average_precision",
    "first_detections",
    "matched_ious",
    "precision_recall",
]
