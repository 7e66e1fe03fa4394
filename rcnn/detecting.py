"""Trained detectors over scenes: proposals of NeRF-RPN, instances of NeRF-RCNN, at whatever resolution a grid has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32

from rcnn.backbones import Extent, GridBatch
from rcnn.data import GridFrame, GridSample
from rcnn.data.scene_reading import grid_features
from rcnn.grids import DensityGrid
from rcnn.grids.grid_truth import scale_boxes
from rcnn.grids.npz import write_npz
from rcnn.grids.resample import resample_features
from rcnn.instances import SceneInstances, merge_tiles, resample_masks, tile_corners
from rcnn.roi_heads import NeRFRCNN
from rcnn.rpn import NeRFRPN, Proposals

FAR_RESOLUTION = 1.5
"""Grids with more voxels than those of the training, by this factor, or fewer, are resampled."""


@dataclass(frozen=True)
class SceneProposals:
    """What a NeRF-RPN finds in one scene."""

    scene: GridSample
    """On the CPU."""
    proposals: Proposals
    """In voxels, on the CPU, by descending score."""
    heatmap: Float[torch.Tensor, "x y z"] | None
    """Objectness of every voxel in [0, 1], where it was asked for."""


@dataclass(frozen=True)
class FoundInstances:
    """What a NeRF-RCNN finds in one scene."""

    instances: SceneInstances
    """In the scene's voxels."""
    remark: str | None = None
    """What was done to the grid before, one line, to be told; None for a grid that was looked at as it is."""


def detect(
    model: NeRFRPN, scenes: Iterable[GridSample], device: torch.device, heatmaps: bool = False
) -> Iterator[SceneProposals]:
    """Runs a NeRF-RPN over scenes, one by one, in bfloat16 on GPUs.

    Args:
        model: on the device, in evaluation mode.
        scenes: with or without truth.
        device: of the model.
        heatmaps: whether objectness is wanted too.
    """
    with torch.inference_mode():
        for scene in scenes:
            grids = GridBatch.collate([scene.features]).to(device)
            with half_precision(device):
                outputs = model.outputs(grids)
            found = model.propose(outputs, grids)[0]
            heatmap = model.heatmap(outputs, grids)[0].float().cpu() if heatmaps else None
            proposals = Proposals(found.boxes.cpu(), found.scores.float().cpu(), found.levels.cpu())
            yield SceneProposals(scene, proposals, heatmap)


def find_instances(
    model: NeRFRCNN, grid: DensityGrid | Float32[torch.Tensor, "4 X Y Z"], tile: int | None = None
) -> FoundInstances:
    """Runs a NeRF-RCNN over one grid, in bfloat16 on GPUs.

    Args:
        model: in evaluation mode.
        grid: as in its file; or red, green, blue and opacity in [0, 1], `GridSample.features`.
        tile: None: the grid is one room, and is resampled if its longest side has far more voxels, or far fewer, than
            those of the training. Else it is looked at as it is, in overlapping parts of so many voxels along each
            side, as suits scenes of many rooms; what is found in several parts is made one.

    Returns:
        Instances on the model's device.
    """
    features = grid_features(grid, hide_unseen=True) if isinstance(grid, DensityGrid) else grid
    extent = _extent(features)
    if tile is not None:
        return FoundInstances(_by_tiles(model, features, tile))
    resolution, longest = model.config.resolution, max(extent)
    if longest < resolution * FAR_RESOLUTION and longest * FAR_RESOLUTION > resolution:
        return FoundInstances(_look(model, features))
    shape = tuple(max(1, round(side * resolution / longest)) for side in extent)
    instances = _look(model, resample_features(features, shape))
    factors = np.array(extent) / np.array(shape)
    boxes = scale_boxes(instances.boxes.double().cpu().numpy(), factors, np.zeros(3))
    return FoundInstances(
        SceneInstances(
            torch.from_numpy(boxes).to(instances.boxes), instances.scores, instances.labels,
            resample_masks(instances.masks, extent), instances.categories,
        ),
        f"a grid of {_by(extent)} voxels was looked at as one of {_by(shape)}, like those of the training; "
        "if it is more than one room, use --tile",
    )  # fmt: skip


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """The precision of inference: bfloat16 on GPUs."""
    return torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else nullcontext()


def _look(model: NeRFRCNN, features: Float32[torch.Tensor, "4 X Y Z"]) -> SceneInstances:
    device = next(model.parameters()).device
    with torch.inference_mode(), half_precision(device):
        return model.instances(GridBatch.collate([features]).to(device))[0]


def _by_tiles(model: NeRFRCNN, features: Float32[torch.Tensor, "4 X Y Z"], tile: int) -> SceneInstances:
    extent = _extent(features)
    parts = []
    # An object in a tile's margin is whole in its neighbour, if it is not larger than the overlap.
    for corner, (x, y, z) in tile_corners(extent, tile, overlap=tile // 3):
        a, b, c = corner
        found = _look(model, features[:, a : a + x, b : b + y, c : c + z])
        parts.append((corner, found))
    return merge_tiles(parts, extent)


def _extent(features: torch.Tensor) -> Extent:
    x, y, z = features.shape[1:]
    return x, y, z


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


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
