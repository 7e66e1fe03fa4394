"""Random changes of training scenes, grid and boxes together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from rcnn.boxes import clip_and_filter, is_rotated
from rcnn.data.appearance import add_floaters_, jitter_colour_, jitter_density_
from rcnn.data.grid_transform import GridTransform, transform_boxes


@dataclass(frozen=True)
class AugmentationConfig:
    """Probabilities and ranges. The defaults are NeRF-RPN's, which leave density and colour alone."""

    quarter_turn_probability: float = 0.5
    """Of a quarter turn about z."""
    flip_probability: float = 0.5
    """Of mirroring x, and of mirroring y."""
    turn_scale_probability: float = 0.5
    """Of a small turn with scaling, of scenes with OBBs."""
    aabb_turn_scale_probability: float = 0.0
    """The same of scenes with AABBs, which get larger than their objects by a turn: by up to a sixth at 10 degrees
    where no OBBs are known."""
    max_turn: float = 10.0
    """Largest small turn, in degrees."""
    scale_range: tuple[float, float] = (0.9, 1.1)
    """Sizes of things after scaling, relative to before."""
    min_visible: float = 0.5
    """Share of a box that must still be in the grid after a small turn or scaling, lest it is dropped."""
    density_probability: float = 0.0
    """Of denser or thinner matter."""
    density_log_gain: float = 0.7
    """Largest logarithm of the factor on all densities."""
    density_noise: float = 0.3
    """Standard deviation of what is added to that logarithm from place to place."""
    floater_probability: float = 0.0
    """Of blobs of fog."""
    max_floaters: int = 12
    """Most blobs; there is one at least."""
    floater_radii: tuple[float, float] = (1.5, 6.0)
    """Smallest and largest radius of a blob, in voxels."""
    colour_probability: float = 0.0
    """Of other colours."""
    colour_gain: float = 0.2
    """Factors on red, green and blue are 1 plus or minus this; half of it is common to the three."""
    contrast: float = 0.2
    """Factors on contrast are 1 plus or minus this."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], it is {value}")
        for name in ("scale_range", "floater_radii"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be a smaller and a larger positive number, it is {low}, {high}")
        if not (0 <= self.min_visible <= 1 and 0 <= self.max_turn <= 45 and self.max_floaters >= 1):
            raise ValueError("min_visible must lie in [0, 1], max_turn in 0..45 degrees, max_floaters from 1 on")
        for name in ("density_log_gain", "density_noise", "colour_gain", "contrast"):
            if not 0 <= getattr(self, name) < (math.inf if name.startswith("density") else 1):
                raise ValueError(f"{name} must be 0 or more, and less than 1 for colours")


NO_AUGMENTATION = AugmentationConfig(0.0, 0.0, 0.0)
LIKE_FIELDS = AugmentationConfig(density_probability=0.5, floater_probability=0.5, colour_probability=0.5)
"""For training on voxelised rooms what will look at radiance fields."""


def draw_transform(config: AugmentationConfig, rotated: bool, rng: np.random.Generator) -> GridTransform:
    """A random transform. As many numbers are drawn whatever comes out, so that one choice does not change others."""
    turn, flip_x, flip_y, small, angle, scale = rng.random(6)
    small_probability = config.turn_scale_probability if rotated else config.aabb_turn_scale_probability
    use_small = small < small_probability
    low, high = config.scale_range
    return GridTransform(
        quarter_turns=int(turn < config.quarter_turn_probability),
        flip_x=bool(flip_x < config.flip_probability),
        flip_y=bool(flip_y < config.flip_probability),
        angle=math.radians(config.max_turn) * (2 * angle - 1) if use_small else 0.0,
        scale=low + (high - low) * scale if use_small else 1.0,
    )


class Augmented(NamedTuple):
    """A variant of a scene."""

    features: Float[Tensor, "4 X2 Y2 Z"]
    boxes: Float[Tensor, "L columns"]
    """Those that are left."""
    keep: Bool[Tensor, "K"]
    """Which those are."""
    instances: Int32[Tensor, "X2 Y2 Z"] | None
    """Row + 1 of the boxes that are left; objects whose box is dropped are none."""
    proposals: Float[Tensor, "Q columns"] | None
    """Those that are left."""


def augment(
    config: AugmentationConfig,
    features: Float[Tensor, "4 X Y Z"],
    boxes: Float[Tensor, "K columns"],
    rng: np.random.Generator,
    obb: Float[Tensor, "K 7"] | None = None,
    instances: Int32[Tensor, "X Y Z"] | None = None,
    proposals: Float[Tensor, "P columns"] | None = None,
) -> Augmented:
    """A random variant of a scene.

    Args:
        config: what may happen.
        features: red, green, blue and opacity in [0, 1].
        boxes: AABBs or OBBs in voxels.
        rng: source of randomness; the same state gives the same scene.
        obb: beside AABBs, the OBBs of the same objects if they are known (see `transform_boxes`).
        instances: row + 1 of the box whose object a voxel belongs to, 0 where none.
        proposals: boxes of the same kind, that are no truth.
    """
    transform = draw_transform(config, is_rotated(boxes), rng)
    density, floaters, colour = rng.random(3)
    shape = features.shape[1:]
    boxes, keep = transform_boxes(transform, boxes, shape, obb, config.min_visible)
    features = transform.apply(features)
    if instances is not None:
        rows = torch.cat([torch.zeros(1, dtype=torch.int32), torch.where(keep, keep.cumsum(0), 0).int()])
        instances = rows[transform.apply_to_ids(instances).long()]
    if proposals is not None:
        (proposals,) = clip_and_filter(transform.apply_to_boxes(proposals, shape), transform.shape_after(shape))
    if density < config.density_probability:
        gain = rng.uniform(-config.density_log_gain, config.density_log_gain)
        features = jitter_density_(features, gain, config.density_noise, rng)
    if floaters < config.floater_probability:
        features = add_floaters_(features, int(rng.integers(1, config.max_floaters + 1)), config.floater_radii, rng)
    if colour < config.colour_probability:
        shifts = 0.5 * config.colour_gain * (rng.uniform(-1, 1) + rng.uniform(-1, 1, 3))
        features = jitter_colour_(features, 1 + shifts, 1 + rng.uniform(-config.contrast, config.contrast))
    return Augmented(features, boxes, keep, instances, proposals)
