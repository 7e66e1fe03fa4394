"""Scenes as the detector takes them, one by one and in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from rcnn.backbones.grid_batch import GridBatch
from rcnn.grids import DensityGrid
from rcnn.grids.grid_truth import scale_boxes


class SampleKey(NamedTuple):
    """What samplers give to `GridDataset`: worker processes learn the epoch with each index, and from nothing else."""

    epoch: int
    index: int


@dataclass(frozen=True, eq=False)
class GridFrame:
    """Where a grid lies in its scene's frame."""

    box_min: Float[np.ndarray, "3"]
    """Lower corner of voxel (0, 0, 0), in world units."""
    voxel_size: Float[np.ndarray, "3"]
    """Edges of a voxel, in world units."""
    world_from_scene: Float[np.ndarray, "4 4"]
    """`DensityGrid.world_from_scene`."""

    @staticmethod
    def of(grid: DensityGrid) -> GridFrame:
        return GridFrame(grid.as_cells().bbox_min, grid.voxel_size, grid.world_from_scene)

    def boxes_to_world(self, boxes: Float[Tensor, "K columns"]) -> Float[np.ndarray, "K columns"]:
        """AABBs or OBBs of voxel units in world units, float64."""
        return scale_boxes(boxes.detach().cpu().double().numpy(), self.voxel_size, self.box_min)


@dataclass(frozen=True, eq=False)
class GridSample:
    """One scene."""

    name: str
    features: Float32[Tensor, "4 X Y Z"]
    """Red, green, blue and opacity in [0, 1]."""
    boxes: Float32[Tensor, "K columns"] | None
    """AABBs or OBBs in voxels; None for a scene without truth, which is not one without objects."""
    labels: Int64[Tensor, "K"] | None
    """Index of each box's category in `GridDataset.categories`."""
    frame: GridFrame | None
    """None for augmented scenes, which lie nowhere."""
    instances: Int32[Tensor, "X Y Z"] | None = None
    """Row + 1 of the box whose object a voxel belongs to, 0 where none; None where masks are not asked for."""
    proposals: Float32[Tensor, "P columns"] | None = None
    """Boxes in voxels in which a region proposal network saw objects, where they are asked for."""


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """Several scenes, their grids padded to one shape."""

    names: tuple[str, ...]
    grids: GridBatch
    boxes: tuple[Float32[Tensor, "K columns"] | None, ...]
    labels: tuple[Int64[Tensor, "K"] | None, ...]
    frames: tuple[GridFrame | None, ...]
    instances: tuple[Int32[Tensor, "X Y Z"] | None, ...]
    proposals: tuple[Float32[Tensor, "P columns"] | None, ...]

    @staticmethod
    def collate(samples: Sequence[GridSample], dtype: torch.dtype | None = None, multiple: int = 1) -> SceneBatch:
        """For `torch.utils.data.DataLoader(collate_fn=...)`; `dtype` and `multiple` as in `GridBatch.collate`."""
        return SceneBatch(
            tuple(sample.name for sample in samples),
            GridBatch.collate([sample.features for sample in samples], dtype, multiple),
            tuple(sample.boxes for sample in samples),
            tuple(sample.labels for sample in samples),
            tuple(sample.frame for sample in samples),
            tuple(sample.instances for sample in samples),
            tuple(sample.proposals for sample in samples),
        )

    def __len__(self) -> int:
        return len(self.names)

    def truth(self) -> tuple[list[Float32[Tensor, "K columns"]], list[Int64[Tensor, "K"]]]:
        """Boxes and labels of each scene.

        Raises:
            ValueError: a scene has no truth.
        """
        boxes = [boxes for boxes in self.boxes if boxes is not None]
        labels = [labels for labels in self.labels if labels is not None]
        if min(len(boxes), len(labels)) < len(self):
            raise ValueError(f"{', '.join(self.names)}: not all of these scenes have ground truth")
        return boxes, labels

    def given_proposals(self) -> list[Float32[Tensor, "P columns"]] | None:
        """Proposals of each scene; None where not all have them."""
        found = [proposals for proposals in self.proposals if proposals is not None]
        return found if len(found) == len(self) else None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SceneBatch:
        """The batch on another device; frames stay where they are."""
        parts = {
            name: _each(getattr(self, name), lambda part: part.to(device, non_blocking=non_blocking)) for name in _PARTS
        }
        return replace(self, grids=self.grids.to(device, non_blocking), **parts)

    def pin_memory(self) -> SceneBatch:
        """Called by `DataLoader(pin_memory=True)`."""
        parts = {name: _each(getattr(self, name), Tensor.pin_memory) for name in _PARTS}
        return replace(self, grids=self.grids.pin_memory(), **parts)


_PARTS = ("boxes", "labels", "instances", "proposals")
"""Of a batch, that are tensors of each scene or None."""


def _each(parts: tuple[Tensor | None, ...], change: Callable[[Tensor], Tensor]) -> tuple[Tensor | None, ...]:
    return tuple(None if part is None else change(part) for part in parts)
