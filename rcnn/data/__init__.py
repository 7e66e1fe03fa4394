"""Density grids and their boxes for training and evaluation: splits, streaming from disk, augmentation, batches."""

from rcnn.data.augment import LIKE_FIELDS, NO_AUGMENTATION, AugmentationConfig, Augmented, augment
from rcnn.data.grid_dataset import GridDataset
from rcnn.data.grid_transform import GridTransform, transform_boxes
from rcnn.data.sample import GridFrame, GridSample, SampleKey, SceneBatch
from rcnn.data.scene_reading import SceneReadingConfig, SceneTruth, open_grid, read_truth
from rcnn.data.scenes import BoxKind, DataLayout, SceneFiles, find_scenes, read_split

__all__ = [
    "LIKE_FIELDS",
    "NO_AUGMENTATION",
    "AugmentationConfig",
    "Augmented",
    "BoxKind",
    "DataLayout",
    "GridDataset",
    "GridFrame",
    "GridSample",
    "GridTransform",
    "SampleKey",
    "SceneBatch",
    "SceneFiles",
    "SceneReadingConfig",
    "SceneTruth",
    "augment",
    "find_scenes",
    "open_grid",
    "read_split",
    "read_truth",
    "transform_boxes",
]
