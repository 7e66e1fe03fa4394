"""What there is to see of a scene: its grid, true boxes, detections and objectness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32
from torch import Tensor

from rcnn.boxes import is_rotated
from rcnn.instance_palette import colour_instances_uint8

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
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
    instances: Int32[np.ndarray, "X Y Z"] | None = None
    """Row + 1 of the detection that a voxel belongs to, 0 where none; None for detections without masks."""
    names: tuple[str, ...] | None = None
    """Class of each detection."""

    @staticmethod
    def of(
        features: Float[np.ndarray, "4 X Y Z"] | Float[Tensor, "4 X Y Z"],
        *,
        truth: Float[np.ndarray, "K columns"] | Float[Tensor, "K columns"] | None = None,
        boxes: Float[np.ndarray, "P columns"] | Float[Tensor, "P columns"] | None = None,
        scores: Float[np.ndarray, "P"] | Float[Tensor, "P"] | None = None,
        heatmap: Float[np.ndarray, "x y z"] | Float[Tensor, "x y z"] | None = None,
        seen: Bool[np.ndarray, "X Y Z"] | None = None,
        instances: Int32[np.ndarray, "X Y Z"] | Int32[Tensor, "X Y Z"] | None = None,
        names: Sequence[str] | None = None,
    ) -> SceneContents:
        """Takes arrays and tensors from any device.

        Args:
            features: `DensityGrid.rgb_alpha`, or one grid of a batch without its padding.
            truth: AABBs or OBBs in voxels.
            boxes: AABBs or OBBs in voxels, in any order.
            scores: of `boxes`.
            heatmap: of the grid's resolution, or a stride of 2, 4, 8, 16 or 32 voxels coarser.
            seen: `DensityGrid.seen`.
            instances: row + 1 of the box, in their order here, whose object a voxel belongs to, 0 where none.
            names: class of each box.

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
        ids = None if instances is None else np.asarray(torch.as_tensor(instances).cpu()).astype(np.int32)
        if ids is not None and (boxes is None or ids.shape != volume.shape[1:] or ids.max(initial=0) > len(boxes)):
            raise ValueError(f"instances {ids.shape} need a grid of their shape and a box each")
        if names is not None and (boxes is None or len(names) != len(boxes)):
            raise ValueError("every box needs a name")
        found, found_scores = None, None
        if boxes is not None:
            order = np.argsort(-_array(scores), kind="stable")
            found, found_scores = _boxes(boxes)[order], _array(scores)[order]
            names = None if names is None else [names[int(row)] for row in order]
            if ids is not None:
                rank = np.zeros(len(order) + 1, np.int32)
                rank[order + 1] = np.arange(1, len(order) + 1)
                ids = rank[ids]
        return SceneContents(
            volume,
            None if truth is None else _boxes(truth),
            found,
            found_scores,
            None if heatmap is None else _full_resolution(_array(heatmap), volume.shape[1:]),
            seen,
            ids,
            None if names is None else tuple(names),
        )

    def best(self, count: int, min_score: float = 0.0) -> SceneContents:
        """With the best detections alone."""
        if self.boxes is None or self.scores is None:
            return self
        count = min(count, int((self.scores >= min_score).sum()))
        ids = self.instances
        if ids is not None:
            ids = np.where(ids > count, 0, ids)
        names = None if self.names is None else self.names[:count]
        return replace(self, boxes=self.boxes[:count], scores=self.scores[:count], instances=ids, names=names)

    def coloured_by_instance(self) -> SceneContents:
        """Its grid with the voxels of instances in colours of their own, by `rcnn.instance_palette`."""
        assert self.instances is not None
        chosen = self.instances > 0
        shade = 0.65 + 0.35 * np.clip(np.tensordot(_LUMINANCE, self.features[:3], 1)[chosen] / 0.8, 0, 1)
        features = self.features.copy()
        grey = np.tensordot(_LUMINANCE, features[:3], 1)
        features[:3] = 0.75 * grey + 0.1  # the rest steps back
        features[:3, chosen] = colour_instances_uint8(self.instances[chosen]).T * shade / 255
        return replace(self, features=features)


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
