"""How good detections are: recall of proposals and average precision of boxes, as NeRF-RPN reports them, and of masks,
as ScanNet does."""

from rcnn.evaluation.average_precision import average_precision, precision_recall
from rcnn.evaluation.detection_metrics import DetectionMetrics, DetectionMetricsConfig
from rcnn.evaluation.detection_scores import ClassScores, DetectionScores
from rcnn.evaluation.instance_average_precision import assign_instances, instance_average_precision
from rcnn.evaluation.instance_metrics import InstanceMetrics, InstanceScores
from rcnn.evaluation.mask_metrics import MaskMetrics, MaskScores
from rcnn.evaluation.matching import first_detections, matched_ious

__all__ = [
    "ClassScores",
    "DetectionMetrics",
    "DetectionMetricsConfig",
    "DetectionScores",
    "InstanceMetrics",
    "InstanceScores",
    "MaskMetrics",
    "MaskScores",
    "assign_instances",
    "average_precision",
    "first_detections",
    "instance_average_precision",
    "matched_ious",
    "precision_recall",
]
