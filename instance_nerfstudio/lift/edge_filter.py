"""Masks drawn to the edges of their photo without any network: the guided filter (He, Sun and Tang, TPAMI 2013)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from instance_nerfstudio.masks.instance_masks import UNLABELLED


@dataclass(frozen=True)
class EdgeFilterConfig:
    """How far masks move, and to which edges."""

    radius: float = 0.0125
    """Half the side of the filter's window, as a share of the photo's longer side: 4 pixels of 320."""
    epsilon: float = 1e-4
    """Variance of colours in [0, 1] that is an edge: below it masks are smoothed, above it they follow the photo."""
    margin: float = 0.1
    """Pixels whose two most likely ids are closer than this are unlabelled."""

    def __post_init__(self) -> None:
        if not (0 < self.radius < 1 and self.epsilon > 0 and 0 <= self.margin <= 1):
            raise ValueError("radius must lie in (0, 1), margin in [0, 1], and epsilon must be positive")


def guided_filter(
    guide: Float32[np.ndarray, "H W 3"], values: Float32[np.ndarray, "H W"], radius: int, epsilon: float
) -> Float32[np.ndarray, "H W"]:
    """Values as a locally linear function of the guide's colours, fitted in every window of 2 * radius + 1 pixels."""
    return _GuidedFilter(guide, radius, epsilon)(values)


def follow_edges(
    photo: UInt8[np.ndarray, "H W 3"],
    ids: Int32[np.ndarray, "H W"],
    confidence: Float32[np.ndarray, "H W"] | None = None,
    config: EdgeFilterConfig | None = None,
) -> Int32[np.ndarray, "H W"]:
    """Moves the borders of masks to the edges of the photo near them.

    Args:
        photo: RGB.
        ids: -1 unlabelled, 0 background, 1.. instances; unlabelled pixels take what is around them.
        confidence: in [0, 1], how much a pixel has to say; all the same when not given.
        config: how far and to which edges.

    Raises:
        ValueError: a photo of another size than the mask.
    """
    config = config or EdgeFilterConfig()
    if photo.shape[:2] != ids.shape:
        raise ValueError(f"the photo has {photo.shape[:2]} pixels, its mask {ids.shape}")
    radius = max(1, round(config.radius * max(ids.shape)))
    guide = photo.astype(np.float32) / 255
    say = np.ones(ids.shape, np.float32) if confidence is None else confidence.astype(np.float32)
    best, most = np.full(ids.shape, UNLABELLED, np.int32), np.zeros(ids.shape, np.float32)
    second = np.zeros(ids.shape, np.float32)
    for number in np.unique(ids[ids >= 0]):
        mask = ids == number
        # Beyond two windows from it an id gets nothing.
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        reach = 2 * radius + 1
        part = (
            slice(max(0, rows[0] - reach), rows[-1] + reach + 1),
            slice(max(0, columns[0] - reach), columns[-1] + reach + 1),
        )
        likely = guided_filter(guide[part], say[part] * mask[part], radius, config.epsilon)
        won = likely > most[part]
        second[part] = np.where(won, most[part], np.maximum(second[part], likely))
        best[part][won] = number
        most[part] = np.maximum(most[part], likely)
    return np.where(most - second < config.margin, UNLABELLED, best).astype(np.int32)


class _GuidedFilter:
    """The filter of one guide."""

    def __init__(self, guide: Float32[np.ndarray, "H W 3"], radius: int, epsilon: float) -> None:
        self.guide, self.window = guide.astype(np.float64), (2 * radius + 1, 2 * radius + 1)
        self.mean = self._mean(self.guide)
        products = self.guide[..., :, None] * self.guide[..., None, :]
        covariance = self._mean(products.reshape(*guide.shape[:2], 9)).reshape(products.shape)
        covariance -= self.mean[..., :, None] * self.mean[..., None, :]
        self.inverse = np.linalg.inv(covariance + epsilon * np.eye(3))

    def __call__(self, values: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
        mean = self._mean(values.astype(np.float64))
        shared = self._mean(self.guide * values[..., None]) - self.mean * mean[..., None]
        slope = np.einsum("hwij,hwj->hwi", self.inverse, shared)
        offset = mean - (slope * self.mean).sum(-1)
        return ((self._mean(slope) * self.guide).sum(-1) + self._mean(offset)).astype(np.float32)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        channels = 1 if values.ndim == 2 else values.shape[2]
        # OpenCV filters up to four channels at once.
        parts = [
            cv2.boxFilter(np.ascontiguousarray(part), -1, self.window, borderType=cv2.BORDER_REFLECT)
            for part in (np.split(values, range(3, channels, 3), 2) if channels > 1 else [values])
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, 2)
