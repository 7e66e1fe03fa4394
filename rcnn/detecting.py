"""A trained detector over scenes: proposals in world units, and scores where there is truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32

from rcnn.backbones import Extent, GridBatch
from rcnn.data import GridFrame, GridSample
from rcnn.grids.npz import write_npz
from rcnn.rpn import NeRFRPN, Proposals


@dataclass(frozen=True)
class SceneProposals:
    """What a detector finds in one scene."""

    scene: GridSample
    """On the CPU."""
    proposals: Proposals
    """In voxels, on the CPU, by descending score."""
    heatmap: Float[torch.Tensor, "x y z"] | None
    """Objectness of every voxel in [0, 1], where it was asked for."""


def detect(
    model: NeRFRPN, scenes: Iterable[GridSample], device: torch.device, heatmaps: bool = False
) -> Iterator[SceneProposals]:
    """Runs a detector over scenes, one by one, in bfloat16 on GPUs.

    Args:
        model: on the device, in evaluation mode.
        scenes: with or without truth.
        device: of the model.
        heatmaps: whether objectness is wanted too.
    """
    half = torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else nullcontext()
    with torch.inference_mode():
        for scene in scenes:
            grids = GridBatch.collate([scene.features]).to(device)
            with half:
                outputs = model.outputs(grids)
            found = model.propose(outputs, grids)[0]
            heatmap = model.heatmap(outputs, grids)[0].float().cpu() if heatmaps else None
            proposals = Proposals(found.boxes.cpu(), found.scores.float().cpu(), found.levels.cpu())
            yield SceneProposals(scene, proposals, heatmap)


def write_proposals(path: Path, proposals: Proposals, frame: GridFrame, shape: Extent) -> None:
    """Writes boxes in world units, best first.

    `boxes (K, 6|7)` float32, `scores (K,)` float32, `levels (K,)` int32 (level of the pyramid, 0 the finest), and the
    grid's `bbox_min`, `bbox_max (3,)`, `resolution (3,)`, `world_from_scene (4, 4)`.
    """
    boxes: Float32[np.ndarray, "K columns"] = frame.boxes_to_world(proposals.boxes).astype(np.float32)
    levels: Int32[np.ndarray, "K"] = proposals.levels.numpy().astype(np.int32)
    resolution = np.array(shape, np.int32)
    write_npz(
        path,
        {
            "boxes": boxes,
            "scores": proposals.scores.numpy(),
            "levels": levels,
            "bbox_min": frame.box_min,
            "bbox_max": frame.box_min + frame.voxel_size * resolution,
            "resolution": resolution,
            "world_from_scene": frame.world_from_scene,
        },
    )
