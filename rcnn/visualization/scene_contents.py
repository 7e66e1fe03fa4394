"""What there is to see of a scene: its grid, true boxes, detections and objectness."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from rcnn.boxes import is_rotated

_STRIDES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, eq=False)
class SceneContents:
    """One scene on the CPU, in voxel units. Made with :meth:`of`."""

    features: Float32[np.ndarray, "4 X Y Z"]
    """Red, green, blue and opacity in [0, 1]."""
    truth: Float32[np.ndarray, "K columns"] | None
    """True AABBs or OBBs; None where they are not known."""
    boxes: Float32[np.ndarray, "P columns"] | None
    """Detected AABBs or OBBs, best first; None without a detector."""
    scores: Float32[np.ndarray, "P"] | None
    """Of the detections, in [0, 1]."""
    heatmap: Float32[np.ndarray, "X Y Z"] | None
    """Objectness in [0, 1] of every voxel."""
    seen: Bool[np.ndarray, "X Y Z"] | None
    """Voxels that a camera saw; None where that is not known."""

    @staticmethod
    def of(
        features: Float[np.ndarray, "4 X Y Z"] | Float[Tensor, "4 X Y Z"],
        *,
        truth: Float[np.ndarray, "K columns"] | Float[Tensor, "K columns"] | None = None,
        boxes: Float[np.ndarray, "P columns"] | Float[Tensor, "P columns"] | None = None,
        scores: Float[np.ndarray, "P"] | Float[Tensor, "P"] | None = None,
        heatmap: Float[np.ndarray, "x y z"] | Float[Tensor, "x y z"] | None = None,
        seen: Bool[np.ndarray, "X Y Z"] | None = None,
    ) -> SceneContents:
        """Takes arrays and tensors from any device.

        Args:
            features: `DensityGrid.rgb_alpha`, or one grid of a batch without its padding.
            truth: AABBs or OBBs in voxels.
            boxes: AABBs or OBBs in voxels, in any order.
            scores: of `boxes`.
            heatmap: of the grid's resolution, or a stride of 2, 4, 8, 16 or 32 voxels coarser.
            seen: `DensityGrid.seen`.

        Raises:
            ValueError: shapes that don't fit together, or boxes that are not finite.
        """
        volume = _array(features)
        if volume.ndim != 4 or len(volume) != 4 or not all(volume.shape):
            raise ValueError(f"features must be (4, X, Y, Z), they are {volume.shape}")
        if (boxes is None) != (scores is None) or (boxes is not None and len(boxes) != len(_array(scores))):
            raise ValueError("boxes need one score each")
        if seen is not None and seen.shape != volume.shape[1:]:
            raise ValueError(f"seen {seen.shape} does not fit a grid of {volume.shape[1:]}")
        found, found_scores = None, None
        if boxes is not None:
            order = np.argsort(-_array(scores), kind="stable")
            found, found_scores = _boxes(boxes)[order], _array(scores)[order]
        return SceneContents(
            volume,
            None if truth is None else _boxes(truth),
            found,
            found_scores,
            None if heatmap is None else _full_resolution(_array(heatmap), volume.shape[1:]),
            seen,
        )

    def best(self, count: int, min_score: float = 0.0) -> SceneContents:
        """With the best detections alone."""
        if self.boxes is None or self.scores is None:
            return self
        count = min(count, int((self.scores >= min_score).sum()))
        return replace(self, boxes=self.boxes[:count], scores=self.scores[:count])


def _array(values: np.ndarray | Tensor | None) -> np.ndarray:
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float32).numpy()
    return np.asarray(values, np.float32)


def _boxes(values: np.ndarray | Tensor) -> np.ndarray:
    boxes = _array(values)
    is_rotated(torch.from_numpy(np.ascontiguousarray(boxes)))
    if not np.isfinite(boxes).all():
        raise ValueError("boxes must be finite")
    return boxes


def _full_resolution(heatmap: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for stride in _STRIDES:
        if heatmap.shape == tuple(-(-n // stride) for n in shape):
            for axis in range(3):
                heatmap = heatmap.repeat(stride, axis)
            x, y, z = shape
            return np.clip(np.nan_to_num(heatmap[:x, :y, :z]), 0, 1)
    raise ValueError(f"a heatmap of {heatmap.shape} does not fit a grid of {shape}")
