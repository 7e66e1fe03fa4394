"""Instances in density grids: masks as the voxels in them, pasted, compared, merged and written."""

from rcnn.instances.instance_file import read_instances, write_instances
from rcnn.instances.mask_nms import mask_nms
from rcnn.instances.paste_masks import paste_masks
from rcnn.instances.refine_masks import REFINEMENT_WEIGHTS, paste_refined_masks
from rcnn.instances.scene_instances import SceneInstances
from rcnn.instances.tiles import merge_tiles, tile_corners
from rcnn.instances.voxel_masks import VoxelMasks, instance_map, resample_masks, without_overlaps

__all__ = [
    "REFINEMENT_WEIGHTS",
    "SceneInstances",
    "VoxelMasks",
    "instance_map",
    "mask_nms",
    "merge_tiles",
    "paste_masks",
    "paste_refined_masks",
    "read_instances",
    "resample_masks",
    "tile_corners",
    "without_overlaps",
    "write_instances",
]
