"""A density grid in memory: colour and density of every voxel of an axis-aligned box in the world."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped

DensityKind = Literal["sigma", "log", "alpha"]
Origin = Literal["cells", "nodes"]
DENSITY_KINDS: tuple[str, ...] = get_args(DensityKind)
ORIGINS: tuple[str, ...] = get_args(Origin)


@dataclass(frozen=True, eq=False)
class DensityGrid:
    """Colour and density on a regular grid, index order (x, y, z).

    Raises:
        ValueError: the parts don't fit together; the message says which.
    """

    rgbsigma: Shaped[np.ndarray, "W L H 4"]
    """Red, green and blue in [0, 1] and density; float16, float32, or uint8 for 0..255. May be a read-only mapping."""
    bbox_min: Float[np.ndarray, "3"]
    """Lower corner in world units."""
    bbox_max: Float[np.ndarray, "3"]
    """Upper corner in world units."""
    density_kind: DensityKind
    """`sigma`: physical density per world unit (negative counts as 0); `log`: its logarithm; `alpha`: opacity."""
    origin: Origin = "cells"
    """`cells`: voxel i covers [i, i + 1) of the box in voxel units; `nodes`: the first and last samples lie on its
    faces."""
    world_from_scene: Float[np.ndarray, "4 4"] = field(default_factory=lambda: np.eye(4))
    """Maps the frame of the radiance field that the grid came from to the world."""
    seen: Bool[np.ndarray, "W L H"] | None = None
    """Voxels that a camera saw; None where that is not known."""
    alpha_distance: float | None = None
    """Length over which density becomes opacity; the voxel edge when None. The published grids go with 0.01."""

    def __post_init__(self) -> None:
        shape = np.shape(self.rgbsigma)
        if len(shape) != 4 or shape[3] != 4 or not all(shape):
            raise ValueError(f"rgbsigma must be (W, L, H, 4), it is {shape}")
        for name in ("bbox_min", "bbox_max"):
            object.__setattr__(self, name, np.array(getattr(self, name), np.float64))
        object.__setattr__(self, "world_from_scene", np.array(self.world_from_scene, np.float64))
        if self.bbox_min.shape != (3,) or self.bbox_max.shape != (3,) or self.world_from_scene.shape != (4, 4):
            raise ValueError("bbox_min and bbox_max must have 3 numbers, world_from_scene 4 x 4")
        if not (np.isfinite([self.bbox_min, self.bbox_max]).all() and (self.bbox_max > self.bbox_min).all()):
            raise ValueError(f"bbox_min {self.bbox_min} must lie below bbox_max {self.bbox_max} in every axis")
        if self.density_kind not in DENSITY_KINDS:
            raise ValueError(f"density_kind must be one of {', '.join(DENSITY_KINDS)}, it is {self.density_kind!r}")
        if self.origin not in ORIGINS:
            raise ValueError(f"origin must be one of {', '.join(ORIGINS)}, it is {self.origin!r}")
        if self.origin == "nodes" and min(shape[:3]) < 2:
            raise ValueError("a grid of nodes needs 2 of them along every axis")
        if self.rgbsigma.dtype == np.uint8 and self.density_kind != "alpha":
            raise ValueError(f"8-bit densities can only be alpha, not {self.density_kind}")
        if self.rgbsigma.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise ValueError(f"rgbsigma must hold floats or bytes, it holds {self.rgbsigma.dtype}")
        if self.seen is not None and (self.seen.shape != shape[:3] or self.seen.dtype != bool):
            raise ValueError(f"seen must be bool {shape[:3]}, it is {self.seen.dtype} {self.seen.shape}")
        if self.alpha_distance is not None and not self.alpha_distance > 0:
            raise ValueError(f"alpha_distance must be positive, it is {self.alpha_distance}")

    @property
    def resolution(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        w, l, h = self.rgbsigma.shape[:3]
        return w, l, h

    @property
    def voxel_size(self) -> Float[np.ndarray, "3"]:
        """Edges of a voxel in world units, float64."""
        steps = np.array(self.resolution) - (self.origin == "nodes")
        return (self.bbox_max - self.bbox_min) / steps

    def world_to_voxels(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Continuous voxel units: voxel i covers [i, i + 1), its sample lies at i + 0.5, whatever the origin."""
        return (np.asarray(points, np.float64) - self.as_cells().bbox_min) / self.voxel_size

    def voxels_to_world(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Undoes `world_to_voxels`."""
        return np.asarray(points, np.float64) * self.voxel_size + self.as_cells().bbox_min

    def as_cells(self) -> DensityGrid:
        """The same samples as cells: nodes are the centres of cells that reach half a cell beyond the box."""
        if self.origin == "cells":
            return self
        half = self.voxel_size / 2
        return replace(self, bbox_min=self.bbox_min - half, bbox_max=self.bbox_max + half, origin="cells")

    def alpha(self) -> Float32[np.ndarray, "W L H"]:
        """Opacity of each voxel, 1 - exp(-sigma * distance), with the voxel's (geometric mean) edge as distance."""
        return self._to_alpha(self.rgbsigma[..., 3].astype(np.float32))

    def rgb_alpha(self, channels: Float32[np.ndarray, "4 W L H"] | None = None) -> Float32[np.ndarray, "4 W L H"]:
        """What the detector sees: red, green, blue and opacity, all in [0, 1], channels first.

        Args:
            channels: the values of `rgbsigma` where a caller has a copy of them, which becomes the result.
        """
        if channels is None:
            channels = np.moveaxis(self.rgbsigma, -1, 0).astype(np.float32, order="C")
        if self.rgbsigma.dtype == np.uint8:
            channels[:3] /= 255
        else:
            np.clip(channels[:3], 0, 1, out=channels[:3])
        self._to_alpha(channels[3])
        return channels

    def _to_alpha(self, density: Float32[np.ndarray, "W L H"]) -> Float32[np.ndarray, "W L H"]:
        """Turns densities into opacities in place."""
        if self.rgbsigma.dtype == np.uint8:
            density /= 255
        elif self.density_kind == "alpha":
            np.clip(density, 0, 1, out=density)
        else:
            if self.density_kind == "log":
                with np.errstate(over="ignore"):  # exp(large) is inf, and so alpha 1
                    np.exp(density, out=density)
            else:
                np.maximum(density, 0, out=density)
            density *= -np.float32(self.alpha_distance or float(np.prod(self.voxel_size) ** (1 / 3)))
            np.expm1(density, out=density)
            np.negative(density, out=density)
        return density
