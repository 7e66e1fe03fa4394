"""Pictures as a camera takes them: mirrored lights, white balance, sensor noise; with the truth of every pixel.

Pixels whose neighbourhood is smooth are sampled once, the others several times.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rcnn.rooms.raycast import RayCaster
from rcnn.rooms.render import Lighting, Pinhole, diffuse_radiance, encode_srgb, film
from rcnn.rooms.scene import Scene

# Square root of the difference in display-linear values within 3 x 3 pixels above which a pixel is sampled again.
CONTRAST = 0.06
# Mirrored light below this share of the exposure's mid-tone is not looked for.
FAINT = 0.004
# Reflectance of varnish and glazing seen head-on.
NORMAL_REFLECTANCE = 0.04


@dataclass(frozen=True)
class CameraLook:
    """What a camera adds to the light that reaches it."""

    white_balance: np.ndarray
    """(3,) factors on linear RGB."""
    noise: float
    """Standard deviation at mid-grey, display-linear, as a share of full scale."""
    roughness: float
    """Tangent of the half angle over which a mirrored light fades out."""
    samples: int = 4
    """Rays per pixel where the picture is not smooth."""


@dataclass(frozen=True)
class Photo:
    """One view and its truth at the pixel centres."""

    picture: np.ndarray
    """(H, W, 3) uint8 sRGB."""
    instances: np.ndarray
    """(H, W) int32; 0 is background."""
    depth: np.ndarray
    """(H, W) float32 metres along the viewing direction (z-depth); 0 where nothing is hit."""


def take_photo(
    caster: RayCaster,
    scene: Scene,
    pose: np.ndarray,
    camera: Pinhole,
    lighting: Lighting,
    look: CameraLook,
    seed: tuple[int, ...],
) -> Photo:
    """Renders a view from `pose` (4, 4), camera-to-world in the OpenGL convention; `seed` decides the noise."""
    shape = (camera.height, camera.width)
    hit, origins, directions = caster.first_hit_in_view(pose, camera)
    spacing = 1.0 / camera.focal
    linear = _develop(caster, scene, lighting, look, hit, origins, directions, spacing)
    instances = np.where(hit["primID"] >= 0, scene.instance[hit["primID"]], 0).reshape(shape)
    forward = -pose[:3, 2].astype(np.float32)
    depth = np.where(hit["primID"] >= 0, hit["tfar"] * (directions @ forward), 0).astype(np.float32).reshape(shape)

    rough = np.nonzero(_is_rough(linear.reshape(*shape, 3), instances).ravel())[0]
    if look.samples > 1 and len(rough):
        total = np.zeros((len(rough), 3), np.float32)
        for sample in range(look.samples):
            # a rank-1 lattice
            offset = ((sample + 0.5) / look.samples, (sample * 0.618034 + 0.5 / look.samples) % 1.0)
            again, origins, directions = caster.first_hit_in_view(pose, camera, offset, rough)
            close = spacing / np.sqrt(look.samples)
            total += _develop(caster, scene, lighting, look, again, origins, directions, close)
        linear[rough] = total / look.samples
    if look.noise > 0:
        rng = np.random.default_rng(seed)
        # half of the variance at mid-grey comes from the light itself, the rest from the electronics
        spread = look.noise * np.sqrt(0.5 + 0.5 * linear / 0.18)
        linear = linear + spread * rng.standard_normal(linear.shape, np.float32)
    return Photo(encode_srgb(np.clip(linear, 0, 1)).reshape(*shape, 3), instances, depth)


def _develop(
    caster: RayCaster,
    scene: Scene,
    lighting: Lighting,
    look: CameraLook,
    hit: dict[str, np.ndarray],
    origins: np.ndarray,
    directions: np.ndarray,
    spacing: float,
) -> np.ndarray:
    """(N, 3) display-linear values."""
    radiance = diffuse_radiance(scene, lighting.irradiance, hit, directions, spacing)
    _add_mirrored_lights(radiance, caster, scene, hit, origins, directions, look.roughness, FAINT / lighting.exposure)
    return film(radiance * look.white_balance.astype(np.float32), lighting.exposure)


def _is_rough(linear: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels beside an edge."""
    shown = np.sqrt(np.clip(linear, 0, 1))
    kernel = np.ones((3, 3), np.uint8)
    contrast = (cv2.dilate(shown, kernel) - cv2.erode(shown, kernel)).max(2)
    numbers = instances.astype(np.float32)
    return (contrast > CONTRAST) | (cv2.dilate(numbers, kernel) != cv2.erode(numbers, kernel))


def _add_mirrored_lights(
    radiance: np.ndarray,
    caster: RayCaster,
    scene: Scene,
    hit: dict[str, np.ndarray],
    origins: np.ndarray,
    directions: np.ndarray,
    roughness: float,
    faint: float,
) -> None:
    """Adds the lights' reflections on glossy faces: Schlick's Fresnel term times the share of the blurred light."""
    triangle = hit["primID"]
    glossy = np.nonzero((triangle >= 0) & (scene.gloss[triangle] > 0))[0]
    if not len(glossy):
        return
    triangle, toward = triangle[glossy], directions[glossy]
    corners = scene.faces[triangle]
    u, v = hit["u"][glossy, None], hit["v"][glossy, None]
    normal = (
        scene.normals[corners[:, 0]] * (1 - u - v) + scene.normals[corners[:, 1]] * u + scene.normals[corners[:, 2]] * v
    )
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    cosine = -np.einsum("nk,nk->n", toward, normal)
    mirrored = toward + 2 * cosine[:, None] * normal
    fresnel = NORMAL_REFLECTANCE + (1 - NORMAL_REFLECTANCE) * (1 - np.clip(cosine, 0, 1)) ** 5
    strength = np.where(cosine > 0.02, scene.gloss[triangle] * fresnel, 0)
    points = origins[glossy] + toward * hit["tfar"][glossy, None] + 0.002 * normal
    for light in scene.lights:
        edges = light.edges.astype(np.float32)
        lengths = np.linalg.norm(edges, axis=1)
        facing = np.cross(edges[0], edges[1])
        facing /= np.linalg.norm(facing)
        slope = mirrored @ facing
        height = (light.corner.astype(np.float32) - points) @ facing
        possible = np.nonzero((slope < -1e-3) & (height < -0.01) & (strength * float(light.radiance.max()) > faint))[0]
        distance = height[possible] / slope[possible]
        across = points[possible] + mirrored[possible] * distance[:, None] - light.corner.astype(np.float32)
        blur = roughness * distance
        share = strength[possible]
        target = np.broadcast_to(light.corner.astype(np.float32), across.shape)
        for edge, length in zip(edges, lengths, strict=True):
            at = across @ (edge / length)
            # light fades beyond the ends, and there is no more of it than the width of the light allows
            beyond = np.maximum(np.maximum(-at, at - length), 0)
            share = share * np.clip(1 - beyond / blur, 0, 1) * np.minimum(1, length / blur)
            target = target + np.clip(at, 0.02 * length, 0.98 * length)[:, None] * (edge / length)
        seen = np.nonzero(share * float(light.radiance.max()) > faint)[0]
        if not len(seen):
            continue
        begin = points[possible[seen]]
        ray = target[seen] - begin
        reach = 1 - 0.04 / np.maximum(np.linalg.norm(ray, axis=1), 0.05)
        bright = seen[~caster.is_blocked(begin, ray, reach)]
        radiance[glossy[possible[bright]]] += share[bright, None] * light.radiance.astype(np.float32)
