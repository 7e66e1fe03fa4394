"""Supervision of the instance field by a detector's 3D masks (Instance-NeRF, eq. 7)."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from instance_nerfstudio.errors import InputError


class InstanceVoxels(nn.Module):
    """Labelled voxels of a detector output, as random points in the field's scene frame.

    Voxel i covers [i, i+1): a point is drawn uniformly inside its voxel. Instance id k+1 is row k of `masks`; voxels
    in no mask are left out, those in several masks belong to the highest score.

    Args:
        path: detector output with `masks (K, W, L, H)` bool, `scores (K,)`, and `bbox_min (3,)`, `bbox_max (3,)` in
            world units.
        dataparser_transform: (3, 4) world -> scene, before scaling.
        dataparser_scale: scale of the scene.

    Raises:
        InputError: the file is missing, is no such file, or holds no voxel.
    """

    indices: Int[Tensor, "voxels 3"]
    labels: Int[Tensor, " voxels"]
    origin: Float[Tensor, " 3"]
    voxel_size: Float[Tensor, " 3"]
    scene_from_world: Float[Tensor, "3 4"]

    def __init__(self, path: Path, dataparser_transform: Float[Tensor, "3 4"], dataparser_scale: float) -> None:
        super().__init__()
        labels, bbox_min, bbox_max = _read_detections(path)
        occupied = np.argwhere(labels > 0)
        if not len(occupied):
            raise InputError(f"{path}: no instance voxel in its masks; leave --pipeline.model.instance-voxels out")
        self.register_buffer("indices", torch.from_numpy(occupied).int(), persistent=False)
        self.register_buffer("labels", torch.from_numpy(labels[tuple(occupied.T)]), persistent=False)
        self.register_buffer("origin", torch.from_numpy(bbox_min), persistent=False)
        size = (bbox_max - bbox_min) / np.array(labels.shape, dtype=np.float32)
        self.register_buffer("voxel_size", torch.from_numpy(size), persistent=False)
        self.register_buffer("scene_from_world", dataparser_scale * dataparser_transform.float(), persistent=False)

    def sample(self, count: int) -> tuple[Float[Tensor, "count 3"], Int[Tensor, " count"]]:
        """Draws points in the scene frame and their instance ids (int32)."""
        chosen = torch.randint(len(self.labels), (count,), device=self.labels.device)
        inside = torch.rand(count, 3, device=self.labels.device)
        world = self.origin + (self.indices[chosen] + inside) * self.voxel_size
        points = world @ self.scene_from_world[:, :3].T + self.scene_from_world[:, 3]
        return points, self.labels[chosen]


def _read_detections(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Id grid (W, L, H) int32 with 0 where no mask is, and the grid's corners in world units, float32."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a detector output (.npz) to --pipeline.model.instance-voxels")
    try:
        with np.load(path, allow_pickle=False) as data:
            masks = np.asarray(data["masks"]).astype(bool)
            scores = np.asarray(data["scores"], dtype=np.float32)
            corners = [np.asarray(data[key], dtype=np.float32) for key in ("bbox_min", "bbox_max")]
    except Exception as error:  # a damaged file can raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: no detector output with masks, scores, bbox_min and bbox_max ({reason})") from error
    if masks.ndim != 4 or scores.shape != masks.shape[:1] or any(corner.shape != (3,) for corner in corners):
        raise InputError(f"{path}: masks must be (K, W, L, H) with K scores and two corners of 3 numbers")
    if not (np.isfinite(corners).all() and (corners[1] > corners[0]).all()):
        raise InputError(f"{path}: bbox_min must lie below bbox_max in every axis")
    labels = np.zeros(masks.shape[1:], dtype=np.int32)
    for k in np.argsort(scores, kind="stable"):  # the highest score is written last
        labels[masks[k]] = k + 1
    return labels, corners[0], corners[1]
