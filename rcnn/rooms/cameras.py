"""Where the pictures are taken from: people looking at furniture, no two views alike, every piece seen often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rcnn.rooms.piece import Piece
from rcnn.rooms.raycast import InlinePool, RayCaster, RayPool
from rcnn.rooms.render import Pinhole
from rcnn.rooms.scene import Scene


@dataclass(frozen=True)
class CameraConfig:
    """Rules for the views."""

    horizontal_fov: float = 75.0
    """Degrees."""
    candidates_per_view: int = 6
    """Random poses tried for each view that is kept."""
    min_near_distance: float = 0.45
    """Metres; the nearest twentieth of a picture must not be closer."""
    min_mean_distance: float = 1.3
    """Metres; a view of nothing but a nearby wall teaches little."""
    min_instances: int = 4
    """Pieces that must be in view."""


class NoViewError(ValueError):
    """A room leaves too few good places for a camera."""


@dataclass(frozen=True)
class CameraPlan:
    """The chosen views."""

    poses: np.ndarray
    """(N, 4, 4) camera-to-world, OpenGL convention, metres."""
    held_out: tuple[int, ...]
    """Sorted numbers of the views kept for evaluation."""


# A piece counts as seen from this share of the picture on.
VISIBLE_SHARE = 0.003
# Visibility is judged on a picture of this size.
PROBE_WIDTH, PROBE_HEIGHT = 48, 36


def focal_length(width: int, horizontal_fov: float) -> float:
    """Pixels, for a field of view in degrees."""
    return float(width / 2 / np.tan(np.radians(horizontal_fov) / 2))


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(4, 4) level camera-to-world pose at `eye` (3,) looking at `target` (3,); OpenGL convention, z up."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(right, forward), -forward], 1)
    pose[:3, 3] = eye
    return pose


def _inside_a_box(point: np.ndarray, pieces: Sequence[Piece], margin: float) -> bool:
    for piece in pieces:
        x, y, z, width, length, height, yaw = piece.box
        dx, dy = point[0] - x, point[1] - y
        local = np.array([np.cos(yaw) * dx + np.sin(yaw) * dy, -np.sin(yaw) * dx + np.cos(yaw) * dy, point[2] - z])
        if (np.abs(local) < np.array([width, length, height]) / 2 + margin).all():
            return True
    return False


def _propose(
    pieces: Sequence[Piece],
    size: np.ndarray,
    count: int,
    rng: np.random.Generator,
    is_inside: Callable[[np.ndarray], bool],
) -> np.ndarray:
    """(count, 4, 4) random poses outside all pieces; four in five look at a piece, in turn."""
    poses: list[np.ndarray] = []
    margin = 0.3
    turn = 0
    while len(poses) < count:
        turn += 1
        from_corner = rng.random() < 0.35
        eye = np.empty(3)
        if from_corner:
            reach = margin + 0.5 * rng.random(2)
            eye[:2] = np.where(rng.random(2) < 0.5, reach, size[:2] - reach)
            eye[2] = 1.5 + 0.7 * rng.random()
        else:
            eye[:2] = margin + (size[:2] - 2 * margin) * rng.random(2)
            eye[2] = 0.9 + 1.0 * rng.random()
        if turn % 5:
            box = pieces[turn % len(pieces)].box
            target = np.array(box[:3]) + 0.15 * (2 * rng.random(3) - 1)
        else:
            target = size * np.array([0.25, 0.25, 0.2]) + size * np.array([0.5, 0.5, 0.4]) * rng.random(3)
        steep = abs(target[2] - eye[2]) > 1.7 * np.linalg.norm(target[:2] - eye[:2])
        if steep or np.linalg.norm(target - eye) < 0.8 or not is_inside(eye) or _inside_a_box(eye, pieces, 0.15):
            continue
        poses.append(look_at(eye, target))
    return np.stack(poses)


@dataclass(frozen=True)
class _Probe:
    """What a small picture from one pose shows."""

    share: np.ndarray
    """(K,) share of the picture that each instance covers."""
    near: float
    """Metres; the nearest twentieth of the picture is closer."""
    mean: float
    """Metres; mean distance."""


def _probe(caster: RayCaster, scene: Scene, poses: np.ndarray, camera: Pinhole) -> list[_Probe]:
    probes = []
    for pose in poses:
        hit = caster.first_hit(*camera.rays(pose))
        ids = np.where(hit["primID"] >= 0, scene.instance[hit["primID"]], 0)
        share = np.bincount(ids, minlength=scene.num_instances + 1)[1:] / len(ids)
        distance = hit["tfar"][hit["primID"] >= 0]
        probes.append(_Probe(share, float(np.quantile(distance, 0.05)), float(distance.mean())))
    return probes


def choose_cameras(
    pool: RayPool | InlinePool,
    scene: Scene,
    pieces: Sequence[Piece],
    num_views: int,
    num_held_out: int,
    config: CameraConfig,
    seed: int | tuple[int, ...],
    is_inside: Callable[[np.ndarray], bool] = lambda eye: True,
) -> CameraPlan:
    """Picks views from random candidates so that rarely seen pieces win, and held-out views that see everything.

    `is_inside` tells whether a point (3,) between the outermost walls is in the room. Raises NoViewError when the room
    leaves too few good places to stand.
    """
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 300])
    camera = Pinhole(PROBE_WIDTH, PROBE_HEIGHT, focal_length(PROBE_WIDTH, config.horizontal_fov))
    candidates = _propose(pieces, scene.size, config.candidates_per_view * num_views + 60, rng, is_inside)
    jobs = [(candidates[start : start + 32], camera) for start in range(0, len(candidates), 32)]
    probes = [probe for batch in pool.map(_probe, jobs) for probe in batch]
    needed = min(config.min_instances, len(pieces))
    good = [
        k
        for k, probe in enumerate(probes)
        if probe.near >= config.min_near_distance
        and probe.mean >= config.min_mean_distance
        and (probe.share >= VISIBLE_SHARE).sum() >= needed
    ]
    if len(good) < num_views:
        raise NoViewError(f"only {len(good)} of {len(candidates)} camera poses are usable, {num_views} are needed")
    poses = candidates[good]
    seen = np.stack([probes[k].share for k in good]) >= VISIBLE_SHARE

    chosen: list[int] = []
    counts = np.zeros(seen.shape[1])
    nearest = np.full(len(poses), np.inf)
    enough = num_views / 4
    for _ in range(num_views):
        # the less often a piece was seen the more it is worth; copies of a view are worth less, but views overlap as
        # those of somebody who walks around: fields need every surface from several near places
        value = seen @ (4 / (1 + counts) ** 2 + (counts < enough)) + 6 * np.minimum(nearest, 0.4)
        value[chosen] = -np.inf
        best = int(np.argmax(value))
        chosen.append(best)
        counts += seen[best]
        nearest = np.minimum(nearest, _view_distance(poses, poses[best]))
    # the greedy order is sorted by rarity; held-out views should not be
    chosen = [chosen[k] for k in rng.permutation(num_views)]
    return CameraPlan(poses[chosen], _hold_out(poses[chosen], seen[chosen], num_held_out))


def _view_distance(poses: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """(N,) metres between positions plus one metre per right angle between viewing directions, roughly."""
    angle = 1 - poses[:, :3, 2] @ pose[:3, 2]
    return np.linalg.norm(poses[:, :3, 3] - pose[:3, 3], axis=1) + angle


def _hold_out(poses: np.ndarray, seen: np.ndarray, count: int) -> tuple[int, ...]:
    """Views far from each other, within reach of training views, that together see every piece."""
    apart = np.stack([_view_distance(poses, pose) for pose in poses])
    np.fill_diagonal(apart, np.inf)
    chosen: list[int] = []
    covered = np.zeros(seen.shape[1], bool)
    remaining = seen.sum(0).astype(float)
    for _ in range(count):
        to_training = np.partition(np.delete(apart, chosen, axis=1), 2, axis=1)[:, 2]  # to the third nearest
        to_chosen = apart[:, chosen].min(1) if chosen else np.full(len(poses), 2.0)
        value = 2.0 * (seen & ~covered).sum(1) + 0.2 * seen.sum(1) + np.minimum(to_chosen, 2.0)
        # neither a copy of a training view nor a corner that training never showed
        value -= 6.0 * np.abs(to_training - 0.6)
        # never take the last views of a piece away from training
        value -= 100.0 * (seen & (remaining <= 2)).any(1)
        value[chosen] = -np.inf
        best = int(np.argmax(value))
        chosen.append(best)
        covered |= seen[best]
        remaining -= seen[best]
    return tuple(sorted(chosen))
