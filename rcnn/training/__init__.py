"""Training of the detectors on Lightning."""

from rcnn.training.detector_module import OptimizationConfig
from rcnn.training.rcnn_module import RCNNModule
from rcnn.training.rpn_module import RPNModule
from rcnn.training.train_detector import Experiment, RunConfig, train_rcnn, train_rpn

__all__ = ["Experiment", "OptimizationConfig", "RCNNModule", "RPNModule", "RunConfig", "train_rcnn", "train_rpn"]
