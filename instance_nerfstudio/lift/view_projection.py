"""3D instances as one view sees them, in memory and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, Int, Int32
from scipy import sparse

from rcnn.errors import InputError
from rcnn.grids.npz import read_npz, write_npz

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class ViewProjection:
    """The instances of a grid in one view, at a reduced resolution of the photo's shape."""

    size: tuple[int, int]
    """(h, w) in pixels."""
    weights: sparse.csr_matrix
    """(K, h * w) float32: the share of each pixel's light that comes from each instance's voxels."""
    visible: Float32[np.ndarray, "K"]
    """Of the surface voxels of each instance that any view sees, the share that this one sees."""
    voxels: Int[np.ndarray, "h w"]
    """Flat voxel (x * Y + y) * Z + z in which each pixel's ray ends; -1 outside of the grid and where nothing is."""

    def dense(self) -> Float16[np.ndarray, "K h w"]:
        """Soft masks."""
        return self.weights.toarray().astype(np.float16).reshape(-1, *self.size)

    def ids(self, threshold: float = 0.5) -> Int32[np.ndarray, "h w"]:
        """The instance with the most light in each pixel, 0 where it has no more than `threshold`."""
        if not len(self.visible):
            return np.zeros(self.size, np.int32)
        best = np.asarray(self.weights.argmax(0)).ravel().astype(np.int32) + 1
        most = self.weights.max(0).toarray().ravel()
        return np.where(most > threshold, best, 0).reshape(self.size)


def write_projections(path: Path, projections: Mapping[str, ViewProjection]) -> None:
    """Writes the projections of named views as one .npz, whole or not at all.

    The views' nonzero weights and maps follow each other; weights are kept as 8-bit shares.

    Args:
        path: ends in .npz.
        projections: by the name of the view.
    """
    views = list(projections.values())
    counts = {len(view.visible) for view in views}
    if len(counts) > 1:
        raise ValueError(f"projections are of different instances: {sorted(counts)}")

    def joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *(part.ravel().astype(dtype) for part in parts)])

    write_npz(
        path,
        {
            "names": np.array(list(projections), dtype=np.str_),
            "sizes": np.array([view.size for view in views], np.int32).reshape(-1, 2),
            "instances": np.array(counts.pop() if counts else 0, np.int32),
            "starts": joined([view.weights.indptr for view in views], np.int64),
            "pixels": joined([view.weights.indices for view in views], np.int32),
            "shares": joined([np.rint(255 * view.weights.data) for view in views], np.uint8),
            "visible": joined([view.visible for view in views], np.float32),
            "voxels": joined([view.voxels for view in views], np.int32),
            "format_version": np.array(FORMAT_VERSION, np.int32),
        },
    )


def read_projections(path: Path) -> dict[str, ViewProjection]:
    """Reads what `write_projections` wrote.

    Raises:
        InputError: no such file, damaged, or none of projections.
    """
    data = read_npz(path)
    try:
        count, views = int(data["instances"]), {}
        start = pixel = 0
        starts = data["starts"].reshape(len(data["names"]), count + 1)
        visible = data["visible"].reshape(len(data["names"]), count)
        shares = data["shares"].astype(np.float32) / 255
        for row, name in enumerate(data["names"]):
            height, width = (int(side) for side in data["sizes"][row])
            end, last = start + int(starts[row, -1]), pixel + height * width
            weights = sparse.csr_matrix(
                (shares[start:end], data["pixels"][start:end], starts[row]), shape=(count, height * width)
            )
            voxels = data["voxels"][pixel:last].reshape(height, width)
            views[str(name)] = ViewProjection((height, width), weights, visible[row], voxels)
            start, pixel = end, last
        if start != len(shares) or pixel != len(data["voxels"]):
            raise ValueError("its parts have different lengths")
        return views
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"{path}: holds no projections ({error!r}); delete it and project again") from error
