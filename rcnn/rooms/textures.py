"""Textures with mip maps, so that nothing aliases.

Every texture is a tileable square of linear values that multiply a material's colour. The procedural ones are painted
by `paint_textures`; pictures that come with furniture models join them with `TextureAtlas.with_images`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from rcnn.rooms.painters import PAINTERS, PERIODS, SIZE

LEVELS = 9


@dataclass(frozen=True)
class TextureAtlas:
    """All textures with all mip levels in one table."""

    texels: np.ndarray
    """(N, 3) float32, linear."""
    level_start: np.ndarray
    """(textures, levels) int64, first row of each mip level."""
    period: np.ndarray
    """(textures,) float32, edge of one tile in units of the texture coordinates."""
    mean: np.ndarray
    """(textures, 3) float32, average value."""
    size: np.ndarray
    """(textures,) int32, edge of the finest level in texels, a power of two up to `SIZE`."""
    names: tuple[str, ...]
    """Texture names in table order."""

    def with_images(self, images: Mapping[str, np.ndarray]) -> TextureAtlas:
        """This atlas and more textures: (H, W, 3) uint8 sRGB pictures by name, each laid over coordinates 0..1.

        Raises ValueError for a name that is taken.
        """
        if taken := sorted(set(images) & set(self.names)):
            raise ValueError(f"the texture name {taken[0]} is taken")
        texels, starts, sizes, count = [self.texels], [self.level_start], [self.size], len(self.texels)
        for image in images.values():
            edge = min(SIZE, 1 << (max(image.shape[:2]) - 1).bit_length())
            linear = _linear(image)
            if image.shape[:2] != (edge, edge):
                linear = cv2.resize(linear, (edge, edge), interpolation=cv2.INTER_AREA)
            levels, start = _mip_levels(linear, count)
            texels += levels
            starts.append(np.array([start], np.int64))
            sizes.append(np.array([edge], np.int32))
            count += sum(map(len, levels))
        table, level_start = np.concatenate(texels), np.concatenate(starts)
        return TextureAtlas(
            texels=table,
            level_start=level_start,
            period=np.concatenate([self.period, np.ones(len(images), np.float32)]),
            mean=table[level_start[:, -1]],
            size=np.concatenate(sizes),
            names=(*self.names, *images),
        )

    def look_up(self, texture: np.ndarray, uv: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """(N, 3) filtered values for texture numbers (N,), coordinates (N, 2) and sample spacings (N,) in uv units."""
        period = self.period[texture]
        finest = self.size[texture]
        level = np.log2(np.maximum(footprint / period * finest.astype(np.float32), 1e-6))
        level = np.clip(np.rint(level), 0, LEVELS - 1).astype(np.int32)
        size = np.maximum(finest >> level, 1)
        scaled = (uv / period[:, None] * size[:, None] - 0.5).astype(np.float32)
        floor = np.floor(scaled)
        fraction = scaled - floor
        column, row = floor[:, 0].astype(np.int32), floor[:, 1].astype(np.int32)
        mask = size - 1
        start = self.level_start[texture, level]
        left, right = column & mask, (column + 1) & mask
        top, bottom = start + (row & mask) * size, start + ((row + 1) & mask) * size
        fx, fy = fraction[:, :1], fraction[:, 1:]
        upper = self.texels[top + left] * (1 - fx) + self.texels[top + right] * fx
        lower = self.texels[bottom + left] * (1 - fx) + self.texels[bottom + right] * fx
        return upper * (1 - fy) + lower * fy


def _linear(srgb: np.ndarray) -> np.ndarray:
    values = np.arange(256) / 255.0
    table = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return table.astype(np.float32)[srgb]


def _mip_levels(level: np.ndarray, first_row: int) -> tuple[list[np.ndarray], list[int]]:
    """Texel rows of all levels of a square texture (S, S, 3), and where each of `LEVELS` levels begins in the table.

    Small textures have fewer levels; the last one, a single texel, stands for all coarser ones.
    """
    texels, starts = [], []
    for _ in range(LEVELS):
        starts.append(first_row)
        texels.append(level.reshape(-1, 3))
        if len(level) == 1:
            break
        first_row += len(texels[-1])
        level = (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2]) / 4
    return texels, starts + [starts[-1]] * (LEVELS - len(starts))


def paint_textures(seed: int) -> TextureAtlas:
    """Paints every texture; the same seed gives the same texels."""
    texels, starts, count = [], [], 0
    for number, painter in enumerate(PAINTERS.values()):
        finest = np.clip(painter(np.random.default_rng((seed, number))), 0, None).astype(np.float32)
        levels, start = _mip_levels(finest, count)
        texels += levels
        starts.append(start)
        count += sum(map(len, levels))
    table = np.concatenate(texels)
    level_start = np.array(starts, np.int64)
    return TextureAtlas(
        texels=table,
        level_start=level_start,
        period=np.array([PERIODS.get(name, 1.0) for name in PAINTERS], np.float32),
        mean=table[level_start[:, -1]],
        size=np.full(len(PAINTERS), SIZE, np.int32),
        names=tuple(PAINTERS),
    )
