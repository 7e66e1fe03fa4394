"""Training of the detector on Lightning."""

from rcnn.training.rpn_module import OptimizationConfig, RPNModule
from rcnn.training.train_rpn import Experiment, RunConfig, train_rpn

__all__ = ["Experiment", "OptimizationConfig", "RPNModule", "RunConfig", "train_rpn"]
