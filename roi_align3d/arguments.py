"""Checks of what callers pass, each failing with the offending value, and the two formats of boxes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from roi_align3d.sampling import MODES, Sampling

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

Boxes = Float[Tensor, "K columns"] | Sequence[Float[Tensor, "L sizes"]]


def check_features(features: Sequence[Float[Tensor, "N C X Y Z"]]) -> None:
    """Levels are 5-dimensional, not empty in space, and alike but for their resolution."""
    alike = None
    for level in features:
        if not isinstance(level, Tensor):
            raise TypeError(f"features must be a tensor, not {type(level).__name__}")
        shape, dtype = level.shape, level.dtype
        if len(shape) != 5 or 0 in (shape[2], shape[3], shape[4]):
            raise ValueError(f"features must be [N, C, X, Y, Z] with X, Y, Z > 0, not {list(shape)}")
        if dtype not in _FLOATS:
            raise ValueError(f"features must be float32, float16, bfloat16 or float64, not {dtype}")
        properties = (shape[0], shape[1], dtype, level.device)
        alike = alike or properties
        if properties != alike:
            first = features[0]
            raise ValueError(
                "levels must agree in N, C, dtype and device: "
                f"{list(first.shape)} {first.dtype} {first.device} and {list(shape)} {level.dtype} {level.device}"
            )


def make_rois(boxes: Boxes, features: Float[Tensor, "N C X Y Z"], sizes: int) -> Float[Tensor, "K columns"]:
    """Boxes of either format as one tensor with the batch index in front.

    Args:
        boxes: `Tensor[K, 1 + sizes]`, or one `Tensor[L, sizes]` for each of the N grids.
        features: any level.
        sizes: numbers per box, 6 for axis-aligned ones and 7 for rotated ones.
    """
    if isinstance(boxes, Tensor):
        _check_boxes(boxes, sizes + 1, "K", features)
        return boxes
    if not isinstance(boxes, (list, tuple)):
        raise TypeError(f"boxes must be a tensor or a list of tensors, not {type(boxes).__name__}")
    if len(boxes) != features.shape[0]:
        raise ValueError(f"{len(boxes)} tensors of boxes for features of shape {list(features.shape)}")
    for of_grid in boxes:
        if not isinstance(of_grid, Tensor):
            raise TypeError(f"boxes must be a list of tensors, not of {type(of_grid).__name__}")
        _check_boxes(of_grid, sizes, "L", features)
    if not boxes:
        return features.new_empty(0, sizes + 1)
    return torch.cat([F.pad(of_grid, (1, 0), value=float(index)) for index, of_grid in enumerate(boxes)])


def _check_boxes(boxes: Tensor, columns: int, rows: str, features: Tensor) -> None:
    shape = boxes.shape
    if len(shape) != 2 or shape[1] != columns:
        raise ValueError(f"boxes must be [{rows}, {columns}], not {list(shape)}")
    if boxes.dtype not in _FLOATS:
        raise ValueError(f"boxes must be floating-point, not {boxes.dtype}")
    if boxes.device != features.device:
        raise ValueError(f"boxes of shape {list(boxes.shape)} are on {boxes.device}, features on {features.device}")


def make_sampling(output_size: int | Sequence[int], sampling_ratio: int, aligned: bool, mode: str) -> Sampling:
    """The options as one value, checked."""
    sizes: Any = (output_size,) * 3 if isinstance(output_size, int) else tuple(output_size)
    if len(sizes) != 3 or not all([isinstance(size, int) and size > 0 for size in sizes]):
        raise ValueError(f"output_size must be a positive integer or three of them, not {output_size}")
    if not isinstance(sampling_ratio, int):
        raise ValueError(f"sampling_ratio must be an integer, not {sampling_ratio}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, not {mode!r}")
    return Sampling(sizes, sampling_ratio, bool(aligned), mode == "crop_and_resize")


def check_scale(scale: float) -> None:
    """Scales are finite and positive."""
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"spatial_scale must be positive and finite, not {scale}")
