"""The instances of one scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

from rcnn.instances.voxel_masks import VoxelMasks


@dataclass(frozen=True, eq=False)
class SceneInstances:
    """Objects of one grid, by descending score.

    Raises:
        ValueError: parts of different lengths.
    """

    boxes: Float[Tensor, "K columns"]
    """AABBs or OBBs in voxels."""
    scores: Float[Tensor, "K"]
    """In [0, 1]."""
    labels: Int32[Tensor, "K"]
    """Index of each one's class in `categories`."""
    masks: VoxelMasks
    """May overlap."""
    categories: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.boxes) == len(self.scores) == len(self.labels) == len(self.masks):
            raise ValueError(
                f"{len(self.boxes)} boxes, {len(self.scores)} scores, {len(self.labels)} labels and "
                f"{len(self.masks)} masks are not of the same instances"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """The class of each instance."""
        return [self.categories[label] for label in self.labels.tolist()]

    def select(self, rows: Bool[Tensor, "K"] | Int[Tensor, "L"]) -> SceneInstances:
        """Some of the instances."""
        return replace(
            self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows],
            masks=self.masks.select(rows),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> SceneInstances:
        """The instances on another device."""
        boxes, scores, labels = (part.to(device) for part in (self.boxes, self.scores, self.labels))
        return SceneInstances(boxes, scores, labels, self.masks.to(device), self.categories)
