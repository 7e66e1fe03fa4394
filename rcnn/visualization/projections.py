"""Views of a whole grid along its axes, without perspective, like a doll's house: the nearer wall or ceiling is open.

Rooms are closed, so only surfaces that face the viewer are drawn, as a renderer culls back faces: the ceiling's faces
down and is not seen from above, while everything that stands in the room is, at any height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from rcnn.grids.slices import composite
from rcnn.visualization.scene_contents import SceneContents

_SMOOTHING = 1.0
# What changes opacity by less, from a voxel before to a voxel behind, is haze rather than a surface.
_SURFACE = 0.05
# Surfaces of radiance fields are part transparent over one voxel; they are drawn as if they were so many thick.
_THICKNESS = 4


@dataclass(frozen=True)
class View:
    """A direction to look in, along an axis of the grid."""

    axis: int
    """0, 1 or 2: x, y or z."""
    right: int
    """The axis that points to the right in the picture."""
    up: int
    """The axis that points up."""
    title: str


PLAN = View(2, 0, 1, "from above")
FRONT = View(1, 0, 2, "from the front, along y")
SIDE = View(0, 1, 2, "from the right, against x")


def project_colours(contents: SceneContents, view: View) -> Float32[np.ndarray, "rows columns 3"]:
    """sRGB in [0, 1] of the surfaces that face the viewer, one pixel per voxel."""
    layers = _from_viewer(contents.features, view)
    alpha = layers[3]
    behind = alpha
    if contents.seen is not None:
        # Nobody knows what is there: nothing to draw, and nothing that could be the front of anything.
        seen = _from_viewer(contents.seen, view)
        alpha, behind = np.where(seen, alpha, np.float32(0)), np.where(seen, alpha, np.float32(1))
    smooth = ndimage.gaussian_filter(behind, _SMOOTHING, mode="constant", cval=1.0, truncate=3.0)
    padded = np.pad(smooth, ((1, 1), (0, 0), (0, 0)), constant_values=1.0)
    facing = np.clip((padded[2:] - padded[:-2]) / _SURFACE, 0, 1)
    opacity = (1 - (1 - alpha) ** _THICKNESS) * facing
    return _upright(composite(np.concatenate([layers[:3], opacity[None]]))).astype(np.float32)


def project_heatmap(heatmap: Float32[np.ndarray, "X Y Z"], view: View) -> Float32[np.ndarray, "rows columns"]:
    """The highest objectness behind each pixel, one pixel per voxel."""
    return _upright(_from_viewer(heatmap, view).max(0))


def _from_viewer(volume: np.ndarray, view: View) -> np.ndarray:
    """(..., X, Y, Z) -> (..., depth, right, up), nearest layer first."""
    layers = np.moveaxis(volume, view.axis - 3, -3)
    # Right-handed axes: with x to the right and z up one looks along +y, in the other views against the axis.
    return layers if view.axis == 1 else np.flip(layers, -3)


def _upright(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture.swapaxes(0, 1)[::-1])
