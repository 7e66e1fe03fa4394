"""Where a detector's instances are in the world: one id for every voxel of a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int32

from rcnn.data.sample import GridFrame
from rcnn.instances import SceneInstances, instance_map


@dataclass(frozen=True, eq=False)
class InstanceGrid:
    """Instances over the voxels of an axis-aligned box; voxel i covers [i, i + 1).

    Raises:
        ValueError: parts that do not fit together, or a box without extent.
    """

    ids: Int32[np.ndarray, "X Y Z"]
    """0 none, else the row of the instance + 1."""
    bbox_min: Float[np.ndarray, "3"]
    """World units."""
    bbox_max: Float[np.ndarray, "3"]
    categories: tuple[str, ...]
    """The class of each instance."""
    scores: Float[np.ndarray, "K"]
    """In [0, 1]."""

    def __post_init__(self) -> None:
        if len(self.categories) != len(self.scores) or int(self.ids.max(initial=0)) > len(self.scores):
            raise ValueError("ids, categories and scores are not of the same instances")
        if not (np.asarray(self.bbox_max) > np.asarray(self.bbox_min)).all():
            raise ValueError("bbox_min must lie below bbox_max in every axis")

    @staticmethod
    def of(instances: SceneInstances, frame: GridFrame, min_score: float = 0.4) -> InstanceGrid:
        """The instances of a detector with a score above `min_score`; of several, the best has a voxel."""
        kept = instances.select(instances.scores > min_score).to("cpu")
        shape = np.array(kept.masks.shape)
        low = np.asarray(frame.box_min, np.float64)
        ids = instance_map(kept.masks, kept.scores).numpy()
        return InstanceGrid(
            ids, low, low + frame.voxel_size * shape, tuple(kept.names), kept.scores.numpy().astype(np.float32)
        )

    @staticmethod
    def empty(
        bbox_min: Float[np.ndarray, "3"], bbox_max: Float[np.ndarray, "3"], shape: tuple[int, int, int]
    ) -> InstanceGrid:
        """Voxels without instances, where there is no detector."""
        low, high = np.asarray(bbox_min, np.float64), np.asarray(bbox_max, np.float64)
        return InstanceGrid(np.zeros(shape, np.int32), low, high, (), np.zeros(0, np.float32))

    @property
    def count(self) -> int:
        """Number of instances, K."""
        return len(self.scores)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        x, y, z = self.ids.shape
        return x, y, z

    @property
    def voxel_size(self) -> Float[np.ndarray, "3"]:
        """Edges of a voxel in world units."""
        return (np.asarray(self.bbox_max) - np.asarray(self.bbox_min)) / np.array(self.shape)

    def voxels_of(self, points: Float[np.ndarray, "*batch 3"]) -> Int[np.ndarray, "*batch"]:
        """Flat voxel (x * Y + y) * Z + z of points in the world, -1 outside."""
        place = np.floor((points - self.bbox_min) / self.voxel_size)
        inside = ((place >= 0) & (place < self.shape)).all(-1)
        x, y, z = np.moveaxis(np.where(inside[..., None], place, 0).astype(np.int64), -1, 0)
        _, depth, height = self.shape
        return np.where(inside, (x * depth + y) * height + z, -1)
