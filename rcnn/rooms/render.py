"""Pictures and instance maps of a lit scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rcnn.rooms.raycast import RayCaster
from rcnn.rooms.scene import Scene


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion; pixel (column i, row j) has its centre at (i + 0.5, j + 0.5)."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    focal: float
    """Pixels, the same along both axes."""

    def rays(self, pose: np.ndarray, offset: tuple[float, float] = (0.5, 0.5)) -> tuple[np.ndarray, np.ndarray]:
        """Origins and unit directions (H*W, 3) float32 in the world frame through a point of every pixel.

        `pose` (4, 4) is camera-to-world in the OpenGL convention: x right, y up, looking along -z.
        """
        i, j = np.meshgrid(np.arange(self.width) + offset[0], np.arange(self.height) + offset[1])
        x, y = (i - self.width / 2) / self.focal, -(j - self.height / 2) / self.focal
        directions = np.stack([x, y, -np.ones_like(x)], -1).reshape(-1, 3) @ pose[:3, :3].T
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return np.broadcast_to(pose[:3, 3], directions.shape).astype(np.float32), directions.astype(np.float32)


@dataclass(frozen=True)
class Lighting:
    """Baked light and how it is shown."""

    irradiance: np.ndarray
    """(V, 3) float32."""
    exposure: float
    """Factor from radiance to scene-referred display values."""


# Rays shaded at once: few enough to stay in the processor's cache.
BATCH = 1 << 15


def render_view(
    caster: RayCaster, scene: Scene, pose: np.ndarray, camera: Pinhole, lighting: Lighting, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) uint8 sRGB and instance map (H, W) int32 of the pixel centres; 0 is background.

    `samples` rays per pixel are spread as a rank-1 lattice.
    """
    shape = (camera.height, camera.width)
    centre = caster.nearest_triangle(*camera.rays(pose))
    ids = np.where(centre >= 0, scene.instance[centre], 0).reshape(shape)
    total = np.zeros((camera.width * camera.height, 3), np.float32)
    for sample in range(samples):
        offset = ((sample + 0.5) / samples, (sample * 0.618034 + 0.5 / samples) % 1.0) if samples > 1 else (0.5, 0.5)
        origins, directions = camera.rays(pose, offset)
        for start in range(0, len(origins), BATCH):
            part = slice(start, start + BATCH)
            spacing = 1.0 / (camera.focal * np.sqrt(samples))
            total[part] += _shade(caster, scene, lighting, origins[part], directions[part], spacing)
    return encode_srgb(total / samples).reshape(*shape, 3), ids


def _shade(
    caster: RayCaster, scene: Scene, lighting: Lighting, origins: np.ndarray, directions: np.ndarray, spacing: float
) -> np.ndarray:
    """(N, 3) display-linear colours in [0, 1] seen along rays that are `spacing` radians apart."""
    hit = caster.first_hit(origins, directions)
    return film(diffuse_radiance(scene, lighting.irradiance, hit, directions, spacing), lighting.exposure)


def diffuse_radiance(
    scene: Scene, irradiance: np.ndarray, hit: dict[str, np.ndarray], directions: np.ndarray, spacing: float
) -> np.ndarray:
    """(N, 3) light that leaves the points hit by rays that are `spacing` radians apart; 0 where nothing is hit."""
    triangle = hit["primID"]
    hit = {**hit, "tfar": np.where(triangle >= 0, hit["tfar"], np.float32(1))}
    weights = np.stack([1 - hit["u"] - hit["v"], hit["u"], hit["v"]], 1)
    cosine = np.abs(np.einsum("nk,nk->n", hit["Ng"], directions)) / np.maximum(np.linalg.norm(hit["Ng"], axis=1), 1e-30)
    footprint = hit["tfar"] * np.float32(spacing) / np.sqrt(np.maximum(cosine, 0.1))
    # a stretched texture spans its panel once, so its coordinates are not metres
    footprint /= scene.metres_per_uv[triangle]
    uv = np.einsum("nc,nck->nk", weights, scene.uv[triangle])
    albedo = scene.colour[triangle] * scene.atlas.look_up(scene.texture[triangle], uv, footprint)
    corners = scene.faces[triangle]
    light = irradiance[corners[:, 0]] * weights[:, :1]
    light += irradiance[corners[:, 1]] * weights[:, 1:2]
    light += irradiance[corners[:, 2]] * weights[:, 2:]
    radiance = albedo * (light * np.float32(1 / np.pi) + scene.emission[triangle][:, None])
    radiance[triangle < 0] = 0
    return radiance


def film(radiance: np.ndarray, exposure: float) -> np.ndarray:
    """Display-linear values in [0, 1], with a film-like shoulder instead of clipping."""
    return 1 - np.exp(-radiance * np.float32(exposure))


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """uint8 sRGB of display-linear values."""
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)
    return np.clip(np.rint(255 * srgb), 0, 255).astype(np.uint8)


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes a picture in OpenCV's channel order, or a 16-bit map."""
    encoded, data = cv2.imencode(".png", image)
    if not encoded:
        raise RuntimeError(f"cannot encode {path.name}")
    path.write_bytes(data.tobytes())  # unlike cv2.imwrite, says so when the disk is full


def write_jpeg(path: Path, image: np.ndarray, quality: int = 95) -> None:
    """Writes a picture in OpenCV's channel order, with its colours in full resolution."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    encoded, data = cv2.imencode(".jpg", image, options)
    if not encoded:
        raise RuntimeError(f"cannot encode {path.name}")
    path.write_bytes(data.tobytes())
