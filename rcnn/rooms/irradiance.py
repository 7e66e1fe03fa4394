"""Soft light baked into the vertices: direct light of the area lights plus diffuse bounces.

Diffuse light does not depend on the viewpoint, so all views of a room agree with each other to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from rcnn.rooms.raycast import InlinePool, RayCaster, RayPool
from rcnn.rooms.scene import Scene


@dataclass(frozen=True)
class IrradianceConfig:
    """How carefully light is computed."""

    sky_strata: int = 6
    """The hemisphere of a vertex is sampled by the square of this many rays."""
    light_strata: int = 4
    """Each light is sampled by the square of this many shadow rays per vertex."""
    bounces: int = 3
    """Diffuse reflections after the first hit."""
    smoothing: int = 3
    """Rounds of averaging indirect light with neighbouring vertices."""


CHUNK = 2048
# Vertices whose hemisphere mostly shows the inside of solids are buried in another part.
BURIED_SHARE = 0.5


def bake_irradiance(
    pool: RayPool | InlinePool,
    scene: Scene,
    config: IrradianceConfig,
    seed: int | tuple[int, ...],
    advance: Callable[[float], object],
) -> np.ndarray:
    """(V, 3) float32 irradiance at the vertices, in the units of the lights' radiance times steradian.

    `advance` is called with shares of the work that add up to 1.
    """
    origins = _sample_points(scene)
    count = len(scene.vertices)
    starts = range(0, count, CHUNK)
    jobs = [(origins[s : s + CHUNK], scene.normals[s : s + CHUNK], config, seed, k) for k, s in enumerate(starts)]
    direct_parts, hit_parts = [], []
    for direct, hits in pool.map(_gather_chunk, jobs):
        direct_parts.append(direct)
        hit_parts.append(hits)
        advance(1 / len(jobs))
    direct, hits = np.concatenate(direct_parts), np.concatenate(hit_parts)
    buried = (hits < 0).mean(1) > BURIED_SHARE

    neighbours = _neighbours(scene)
    direct = _fill(direct, buried, neighbours)
    centroid_uv = scene.uv.mean(1)
    albedo = scene.colour * scene.atlas.look_up(scene.texture, centroid_uv, np.full(len(scene.faces), 0.05, np.float32))
    # the lights themselves are sampled directly; a lamp's glow is only found by chance, which the smoothing forgives
    glow = albedo * (scene.emission * (scene.instance > 0))[:, None]
    indirect = np.zeros_like(direct)
    for _ in range(config.bounces):
        radiosity = albedo * (direct + indirect)[scene.faces].mean(1) / np.pi + glow
        radiosity = np.concatenate([radiosity, np.zeros((1, 3), np.float32)]).astype(np.float32)  # row -1: inside
        indirect = np.empty_like(direct)
        for start in range(0, count, CHUNK):
            indirect[start : start + CHUNK] = radiosity[hits[start : start + CHUNK]].mean(1) * np.float32(np.pi)
        indirect = _smooth(_fill(indirect, buried, neighbours), neighbours, config.smoothing)
    return (direct + indirect).astype(np.float32)


def _sample_points(scene: Scene) -> np.ndarray:
    """(V, 3) points from which the vertices look around: a little off the surface and away from its corners.

    A vertex in the crease between a book and its board would otherwise see the inside of the board.
    """
    owner = scene.faces.ravel()
    centroid = np.repeat(scene.vertices[scene.faces].mean(1), 3, axis=0)
    count = len(scene.vertices)
    weight = np.bincount(owner, minlength=count)
    total = np.stack([np.bincount(owner, centroid[:, axis], count) for axis in range(3)], 1)
    inward = total / np.maximum(weight, 1)[:, None] - scene.vertices
    length = np.linalg.norm(inward, axis=1, keepdims=True)
    inward *= np.minimum(0.2, 0.012 / np.maximum(length, 1e-9))
    return (scene.vertices + inward + 0.002 * scene.normals).astype(np.float32)


def _gather_chunk(
    caster: RayCaster,
    scene: Scene,
    origins: np.ndarray,
    normals: np.ndarray,
    config: IrradianceConfig,
    seed: int | tuple[int, ...],
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Direct irradiance (n, 3) and the triangles met by cosine-distributed rays (n, R), -1 for insides of solids."""
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 200, k])
    n = len(origins)
    direct = np.zeros((n, 3), np.float32)
    for light in scene.lights:
        m = config.light_strata
        share = _strata(rng, n, m)
        target = light.corner.astype(np.float32) + share @ light.edges.astype(np.float32)
        away = np.cross(light.edges[0], light.edges[1])
        area = float(np.linalg.norm(away))
        ray = target - origins[:, None]
        squared = np.einsum("nmk,nmk->nm", ray, ray)
        distance = np.sqrt(squared)
        cos_here = np.einsum("nmk,nk->nm", ray, normals) / distance
        cos_light = -(ray @ (away / area).astype(np.float32)) / distance
        facing = (cos_here > 0) & (cos_light > 0)
        transfer = np.where(facing, cos_here * cos_light / squared * (area / m**2), 0).astype(np.float32)
        row, column = np.nonzero(facing)
        # stops short of the light's own surface and of the frame it sits in
        reach = 1 - 0.03 / distance[row, column]
        blocked = caster.is_blocked(origins[row], ray[row, column], reach)
        transfer[row[blocked], column[blocked]] = 0
        direct += transfer.sum(1)[:, None] * light.radiance.astype(np.float32)

    share = _strata(rng, n, config.sky_strata)
    radius, angle = np.sqrt(share[..., 0]), (2 * np.pi) * share[..., 1]
    helper = np.eye(3, dtype=np.float32)[np.where(np.abs(normals[:, 0]) < 0.7, 0, 1)]
    tangent = np.cross(helper, normals)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    bitangent = np.cross(normals, tangent)
    directions = (
        (radius * np.cos(angle))[..., None] * tangent[:, None]
        + (radius * np.sin(angle))[..., None] * bitangent[:, None]
        + np.sqrt(1 - share[..., :1]) * normals[:, None]
    ).reshape(-1, 3)
    hit = caster.first_hit(np.repeat(origins, config.sky_strata**2, axis=0), directions)
    inside = np.einsum("nk,nk->n", hit["Ng"], directions) > 0
    return direct, np.where(inside, -1, hit["primID"]).reshape(n, -1)


def _strata(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    """(n, m * m, 2) float32 jittered grid samples in the unit square."""
    cell = np.stack(np.meshgrid(np.arange(m), np.arange(m), indexing="ij"), -1).reshape(1, m * m, 2)
    return (cell + rng.random((n, m * m, 2), np.float32)).astype(np.float32) / np.float32(m)


def _neighbours(scene: Scene) -> sparse.csr_matrix:
    """(V, V) matrix with ones between vertices that share an edge."""
    start = scene.faces.ravel()
    end = scene.faces[:, [1, 2, 0]].ravel()
    count = len(scene.vertices)
    ones = np.ones(2 * len(start), np.float32)
    edges = sparse.csr_matrix((ones, (np.r_[start, end], np.r_[end, start])), (count, count))
    edges.data[:] = 1  # an edge belongs to two triangles
    return edges


def _fill(values: np.ndarray, unknown: np.ndarray, neighbours: sparse.csr_matrix) -> np.ndarray:
    """Spreads known values (V, 3) a few rings of vertices into the unknown ones, so that no dark seam shows."""
    values, known = values.copy(), ~unknown
    for _ in range(4):
        support = neighbours @ known.astype(np.float32)
        reached = ~known & (support > 0)
        if not reached.any():
            break
        total = neighbours[reached] @ (values * known[:, None])
        values[reached] = total / support[reached, None]
        known = known | reached
    return values


def _smooth(values: np.ndarray, neighbours: sparse.csr_matrix, rounds: int) -> np.ndarray:
    degree = np.maximum(np.asarray(neighbours.sum(1)), 1).astype(np.float32)
    for _ in range(rounds):
        values = 0.4 * values + 0.6 * (neighbours @ values) / degree
    return values.astype(np.float32)


def choose_exposure(scene: Scene, irradiance: np.ndarray) -> float:
    """Factor that brings the upper part of the room's radiances to a bright mid-tone."""
    corners = scene.vertices[scene.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    albedo = scene.colour * scene.atlas.mean[scene.texture]
    radiance = (albedo * irradiance[scene.faces].mean(1) / np.pi).mean(1)
    order = np.argsort(radiance, kind="stable")
    share = np.cumsum(area[order]) / area.sum()
    return float(0.48 / radiance[order][np.searchsorted(share, 0.75)])
