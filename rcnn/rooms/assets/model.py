"""A furniture model: triangles with surfaces, and what the catalogue says about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Nothing reflects more light than fresh white paint; pure white would never let the light of a room settle.
MAX_ALBEDO = 0.85


@dataclass(frozen=True)
class Surface:
    """What a group of triangles is made of."""

    colour: tuple[float, float, float]
    """Diffuse albedo, linear RGB in [0, 1]; multiplies the image where there is one."""
    image: bytes | None = None
    """Encoded JPEG or PNG, sRGB; laid over texture coordinates 0..1, its first row at v = 0, repeated beyond."""
    opacity: float = 1.0
    """1 is opaque. Rooms show everything opaque, so this only decides which models are left out."""


@dataclass(frozen=True)
class ModelInfo:
    """Where a model comes from and what it is. Lengths are metres."""

    model_id: str
    """Id in its catalogue, unique over all libraries, such as `Blend Swap CC-0#couch`."""
    name: str
    """English name in the catalogue."""
    category: str
    """Class name of `classes.json`; empty as long as nobody has classified the model."""
    library: str
    """Name of the library file without its ending."""
    licence: str
    """SPDX expression, or the catalogue's own words where the licence is not known."""
    creator: str
    """Author as the catalogue gives it."""
    size: tuple[float, float, float]
    """Extent along x (width), y (depth) and z (height)."""
    elevation: float = 0.0
    """Height above the floor at which its foot hangs; 0 for what stands."""
    top: float | None = None
    """Height above its foot on which things may be put, where the catalogue knows one."""
    split: str = ""
    """`train`, `val` or `test`; empty before splits are assigned."""
    open_columns: float = 0.0
    """Share of the vertical lines through the model that leave it as often as they enter nowhere: 0 for solids."""


@dataclass(frozen=True)
class Model:
    """A model in its own frame: footprint centred, standing on z = 0, front towards -y, metres."""

    info: ModelInfo
    """Catalogue data."""
    vertices: np.ndarray
    """(V, 3) float64."""
    faces: np.ndarray
    """(F, 3) int32 into the vertices, counter-clockwise seen from outside once cleaned."""
    uv: np.ndarray
    """(F, 3, 2) float64 texture coordinates of the corners, v downwards; 0 where a surface has no image."""
    surfaces: tuple[Surface, ...]
    """The distinct surfaces."""
    surface_of_face: np.ndarray
    """(F,) int32 into the surfaces."""
    two_sided: np.ndarray
    """(F,) bool: sheets without thickness that are seen from both sides."""


def face_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) areas of triangles, in the square of the vertices' unit."""
    corners = vertices[faces]
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
