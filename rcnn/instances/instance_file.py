"""Instances of a scene on disk, in world units: a .npz without pickles.

`masks (K, W, L, H)` bool, best first; `boxes (K, 6|7)` float32, `labels (K,)` int32, `scores (K,)` float32;
`categories` strings, what labels stand for; the grid's `bbox_min`, `bbox_max (3,)` (as cells), `resolution (3,)` and
`world_from_scene (4, 4)`; `format_version`. `ns-train instance-nerfacto --pipeline.model.instance-voxels` takes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rcnn.data.sample import GridFrame
from rcnn.errors import InputError
from rcnn.grids.grid_truth import scale_boxes
from rcnn.grids.npz import read_npz, write_npz
from rcnn.instances.scene_instances import SceneInstances
from rcnn.instances.voxel_masks import VoxelMasks

FORMAT_VERSION = 1


def write_instances(path: Path, instances: SceneInstances, frame: GridFrame) -> None:
    """Writes instances of any device, whole or not at all.

    Args:
        path: ends in .npz.
        instances: in voxels.
        frame: of their grid.
    """
    resolution = np.array(instances.masks.shape, np.int32)
    write_npz(
        path,
        {
            "masks": instances.masks.to("cpu").dense().numpy(),
            "boxes": frame.boxes_to_world(instances.boxes).astype(np.float32),
            "labels": instances.labels.cpu().numpy().astype(np.int32),
            "scores": instances.scores.cpu().float().numpy(),
            "categories": np.array(instances.categories, dtype=np.str_),
            "bbox_min": frame.box_min,
            "bbox_max": frame.box_min + frame.voxel_size * resolution,
            "resolution": resolution,
            "world_from_scene": frame.world_from_scene,
            "format_version": np.array(FORMAT_VERSION, np.int32),
        },
    )


def read_instances(path: Path) -> tuple[SceneInstances, GridFrame]:
    """Reads what `write_instances` wrote: instances in voxels, on the CPU, and where their grid lies.

    Raises:
        InputError: no such file, damaged, or none of instances.
    """
    data = read_npz(path)
    try:
        masks, categories = data["masks"], tuple(str(name) for name in data["categories"])
        if masks.ndim != 4 or masks.dtype != bool:
            raise ValueError(f"masks must be bool (K, W, L, H), they are {masks.dtype} {masks.shape}")
        size = (data["bbox_max"] - data["bbox_min"]) / np.array(masks.shape[1:])
        frame = GridFrame(data["bbox_min"], size, data["world_from_scene"])
        boxes = scale_boxes(data["boxes"], 1 / size, -data["bbox_min"] / size)
        labels = torch.from_numpy(data["labels"].astype(np.int32))
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(categories):
            raise ValueError("labels and categories don't fit together")
        instances = SceneInstances(
            torch.from_numpy(boxes).float(), torch.from_numpy(data["scores"]).float(), labels,
            VoxelMasks.of(torch.from_numpy(np.array(masks))), categories,
        )  # fmt: skip
        return instances, frame
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"{path}: holds no instances ({error!r}); make it anew with nerf-rcnn predict") from error
