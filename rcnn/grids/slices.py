"""A picture of a density grid: slices and views along each axis, to look at before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from rcnn.grids.density_grid import DensityGrid
from rcnn.safe_files import write_rgb_png

_GAP = 8
_CELL = 320
_PAPER = 255
_UNSEEN = np.array([215, 200, 255])
# Behind what is not opaque; a colour that rooms rarely have, so that white walls show.
BEHIND = np.array([0.55, 0.65, 0.75], np.float32)
_TITLES = ("from above", "from the front, along y", "from the right, against x")


def write_slices(path: Path, grid: DensityGrid) -> None:
    """Writes a PNG: per axis a view through the nearer half cut away, the slice's colours, and its opacity.

    Voxels that no camera saw are tinted in the opacity slice. z points up in the two lower rows.
    """
    channels = grid.rgb_alpha()
    rows = []
    for axis, title in zip((2, 1, 0), _TITLES, strict=True):
        level, size = slice_level(grid, axis), grid.resolution[axis]
        rows.append(
            _row(slice_views(grid, channels, axis), f"{title}: view at voxel {level} of {size}, slice, opacity")
        )
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=_PAPER) for row in rows]
    )
    write_rgb_png(path, sheet)


def slice_level(grid: DensityGrid, axis: int) -> int:
    """The voxel at which a grid is cut."""
    # furniture stands low: from above the cut is at a third of the height
    return grid.resolution[axis] // 3 if axis == 2 else grid.resolution[axis] // 2


def slice_views(grid: DensityGrid, channels: np.ndarray, axis: int) -> list[np.ndarray]:
    """View, slice and opacity across an axis, (rows, columns, 3) uint8 RGB; the other axes point right and up.

    `channels` are the grid's `rgb_alpha()`.
    """
    level = slice_level(grid, axis)
    layers = np.moveaxis(channels, 1 + axis, 1)
    # With x to the right and z up one looks along +y; with any other pair to the right and up, down the axis.
    behind = layers[:, level:] if axis == 1 else layers[:, level::-1]
    view = composite(behind)
    rgb, alpha = behind[:3, 0], behind[3, 0]
    opacity = np.repeat(255 * (1 - alpha[..., None]), 3, axis=-1)
    if grid.seen is not None:
        unseen = ~np.take(grid.seen, level, axis)
        opacity[unseen] *= _UNSEEN / 255
    colour = np.moveaxis(rgb, 0, -1) * alpha[..., None] + BEHIND * (1 - alpha[..., None])
    return [_upright(picture) for picture in (255 * view, 255 * colour, opacity)]


def composite(channels: np.ndarray) -> np.ndarray:
    """Colours (N, M, 3) in [0, 1] of looking along the depth of red, green, blue and opacity (4, depth, N, M)."""
    alpha = channels[3]
    clear = np.cumprod(1 - alpha, axis=0)
    weights = alpha * np.concatenate([np.ones_like(clear[:1]), clear[:-1]])
    return np.einsum("dnm,cdnm->nmc", weights, channels[:3]) + clear[-1][..., None] * BEHIND


def _upright(picture: np.ndarray) -> np.ndarray:
    """(N, M, 3) indexed by two world axes -> image rows downwards along the second, enlarged to one size."""
    picture = np.clip(picture, 0, 255).astype(np.uint8).transpose(1, 0, 2)[::-1]
    factor = _CELL / max(picture.shape[:2])
    size = [max(1, round(n * factor)) for n in picture.shape[1::-1]]
    return cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_NEAREST)


def _row(cells: list[np.ndarray], title: str) -> np.ndarray:
    height = max(cell.shape[0] for cell in cells) + 28
    row = np.full((height + _GAP, _GAP + sum(cell.shape[1] + _GAP for cell in cells), 3), _PAPER, np.uint8)
    x = _GAP
    for cell in cells:
        row[28 : 28 + cell.shape[0], x : x + cell.shape[1]] = cell
        x += cell.shape[1] + _GAP
    cv2.putText(row, title, (_GAP, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 36), 1, cv2.LINE_AA)
    return row
