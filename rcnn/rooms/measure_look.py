"""`nerf-rcnn rooms measure-look`: the look of trained density grids, measured against the rooms they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from rcnn.errors import InputError
from rcnn.grids import DensityGrid, read_density_grid
from rcnn.grids.find_grids import GRID_FILE, GRID_FOLDER, find_grids
from rcnn.grids.grid_truth import room_truth
from rcnn.job_pool import run_jobs
from rcnn.rooms.radiance_look import (
    DISTANCES,
    FRONT,
    LEVELS,
    PARTS,
    SHORT,
    RadianceLook,
    bled_colours,
    clarity_scores,
    look_to_json,
    normal_scores,
    part_of,
    table_rows,
)
from rcnn.rooms.seen_space import SeenSpace, see_space
from rcnn.safe_files import write_atomically

# Rows of a look's tables.
_ROWS = 2 * len(DISTANCES)
# Voxels of a room that are kept for each of them.
_SAMPLES = 20_000
# Voxels apart at which the correlation of densities is measured.
_LAGS = (1, 2, 4, 8)
# Pairs of voxels below which a correlation says nothing.
_FEW = 1000
# Colours of surfaces are compared where the field is at least this opaque.
_OPAQUE = 0.3


@dataclass(frozen=True, eq=False)
class RoomLook:
    samples: list[np.ndarray]
    """Densities per metre of voxels nearest to each row of the tables, ascending."""
    seen: np.ndarray
    """(2, rows): voxels that the field sees, of those that no view sees and of those that one does."""
    counted: np.ndarray
    """(2, rows): all of these."""
    correlation: np.ndarray
    """(3, lags): of each part, at each of `_LAGS`; nan where it is too small."""
    clarity: np.ndarray
    """(2, 3): slopes on `clarity_scores`, in front of surfaces and at them."""
    bleeding: tuple[float, float]
    """Covariance of the colours' errors with the direction of bleeding, and that direction's variance."""
    colour_variance: float
    edge: float


def measure_look(folders: Sequence[Path], out: Path, source: str = "", num_workers: int | None = None) -> RadianceLook:
    """Measures the grids of rooms (`<room>/grid/density.npz`, as `instance-nerf fit-grids` writes them).

    Args:
        folders: rooms, or folders that hold rooms.
        out: JSON file to write, whole.
        source: what the grids are, kept in the file for readers.
        num_workers: processes; one per core when None.

    Raises:
        InputError: no rooms with grids there, or damaged ones.
    """
    rooms = [path.parent.parent for path in find_grids(folders)]
    if missing := next((room for room in rooms if not (room / "transforms.json").is_file()), None):
        raise InputError(
            f"{missing}: holds a grid but no room; give rooms in which instance-nerf fit-grids wrote grids"
        )
    measured = run_jobs("Measuring", measure_room, rooms, num_workers)
    look = pool_looks(measured, source or f"{len(rooms)} grids, the first one {rooms[0].name}")
    write_atomically(out, look_to_json(look).encode())
    return look


def measure_room(room: Path) -> RoomLook:
    """What one room adds to a look.

    Raises:
        InputError: the grid does not cover the room as grids of fit-grids do.
    """
    path = room / GRID_FOLDER / GRID_FILE
    grid = read_density_grid(path)
    space = see_space(room, max(grid.resolution))
    cells = grid.as_cells()
    apart = np.abs([cells.bbox_min - space.bbox_min, cells.bbox_max - space.bbox_max]).max()
    if grid.resolution != space.distance.shape or apart > 0.1 * space.edge:
        raise InputError(f"{path}: does not cover room_bbox of its room; fit it without a margin")
    furniture = room_truth(room, grid).instances
    assert furniture is not None
    return measure_grid(grid, space, furniture > 0)


def measure_grid(grid: DensityGrid, space: SeenSpace, furniture: Bool[np.ndarray, "W L H"]) -> RoomLook:
    """The look of a grid over the same voxels as `space`; `furniture` are those of instances."""
    sigma = -np.log1p(-np.minimum(grid.alpha(), np.float32(1 - 1e-7))) / np.float32(space.edge)
    if grid.density_kind == "sigma":
        sigma = np.maximum(grid.rgbsigma[..., 3].astype(np.float32), 0)
    rng = np.random.default_rng(0)
    bins = np.rint(table_rows(space.distance, furniture)).astype(int)
    samples, rank = [], np.zeros(sigma.shape, np.float32)
    for number in range(_ROWS):
        chosen = bins == number
        values = sigma[chosen]
        samples.append(np.sort(rng.choice(values, min(_SAMPLES, len(values)), replace=False)))
        if len(values):
            rank[chosen] = normal_scores(values)
    group = (bins + _ROWS * space.seen).ravel()
    field_sees = np.ones(sigma.shape, bool) if grid.seen is None else grid.seen
    seen = np.bincount(group, field_sees.ravel(), 2 * _ROWS).reshape(2, _ROWS)
    counted = np.bincount(group, minlength=2 * _ROWS).reshape(2, _ROWS)
    part = part_of(space.distance)
    correlation = np.array([[_correlation(rank, part == k, lag) for lag in _LAGS] for k in range(len(PARTS))])

    at = space.surface
    bled = bled_colours(space)
    scores = clarity_scores(space, bled)
    near = part == PARTS.index("surface")
    front, behind = near & (space.distance < FRONT), near & (space.distance >= FRONT)
    clarity = np.array([_slopes(scores[space.nearest[chosen]], rank[chosen]) for chosen in (front, behind)])
    solid = grid.alpha().ravel()[at] > _OPAQUE
    solid &= field_sees.ravel()[at]
    error = grid.rgb_alpha()[:3].reshape(3, -1).T[at][solid] - space.colour[solid]
    toward = (bled - space.colour)[solid]
    bleeding = (float((error * toward).mean()), float((toward**2).mean())) if solid.any() else (0.0, 0.0)
    variance = float((error**2).mean()) if solid.any() else 0.0
    return RoomLook(samples, seen, counted, correlation, clarity, bleeding, variance, space.edge)


def pool_looks(rooms: Sequence[RoomLook], source: str) -> RadianceLook:
    """One look of many rooms, which all count alike."""
    density: list[tuple[float, ...]] = []
    for number in range(_ROWS):
        values = [room.samples[number] for room in rooms if len(room.samples[number])]
        if not values and number >= len(DISTANCES):  # no furniture is so thick: what is true outside must do
            density.append(density[number - len(DISTANCES)])
            continue
        if not values:
            raise InputError(f"no room has voxels {DISTANCES[number]} voxels from a surface; give more rooms")
        weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in values])
        pooled = np.concatenate(values)
        order = np.argsort(pooled)
        share = (np.cumsum(weights[order]) - 0.5 * weights[order]) / weights.sum()
        density.append(tuple(round(float(value), 5) for value in np.interp(LEVELS, share, pooled[order])))
    edge = float(np.mean([room.edge for room in rooms]))
    noise = [_noise_model(np.nanmean([room.correlation[k] for room in rooms], axis=0), edge) for k in range(len(PARTS))]
    # where there is nothing to count, fields are taken to see what views see
    seen, counted = (np.sum([getattr(room, name) for room in rooms], axis=0) for name in ("seen", "counted"))
    shares = (seen + np.array([[0.0], [1.0]])) / (counted + 1)
    front, behind = (
        (round(float(a), 3), round(float(b), 3), round(float(c), 3))
        for a, b, c in np.mean([room.clarity for room in rooms], axis=0)
    )
    covariance, variance = np.sum([room.bleeding for room in rooms], axis=0)
    share = float(np.clip(covariance / max(variance, 1e-12), 0, 1))
    # what bleeding explains of the errors is not noise
    left = float(np.mean([room.colour_variance for room in rooms])) - share**2 * variance / len(rooms)
    return RadianceLook(
        density=tuple(density),
        noise_length=(noise[0][0], noise[1][0], noise[2][0]),
        noise_smooth=(noise[0][1], noise[1][1], noise[2][1]),
        seen=(tuple(shares[0].round(4).tolist()), tuple(shares[1].round(4).tolist())),
        clarity=(front, behind),
        colour_bleeding=round(share, 3),
        colour_noise=round(float(np.sqrt(np.clip(left, 0, 1))), 4),
        voxel_edge=round(edge, 5),
        source=source,
    )


def _correlation(rank: np.ndarray, chosen: np.ndarray, lag: int) -> float:
    """Mean product of the normal scores of voxels `lag` apart along an axis; nan where there are few pairs."""
    total, pairs, power = 0.0, 0, float((rank[chosen].astype(np.float64) ** 2).mean()) if chosen.any() else 0.0
    for axis in range(3):
        one = tuple(slice(lag, None) if k == axis else slice(None) for k in range(3))
        two = tuple(slice(None, -lag) if k == axis else slice(None) for k in range(3))
        both = chosen[one] & chosen[two]
        total += float((rank[one] * rank[two])[both].sum(dtype=np.float64))
        pairs += int(both.sum())
    return total / pairs / power if pairs >= _FEW and power > 0 else np.nan


def _slopes(scores: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(3,) of the least squares fit of normal scores (N,) by scores (N, 3); small where these hardly differ."""
    normal = scores.T @ scores + 1e-3 * max(len(scores), 1) * np.eye(3)
    return np.linalg.solve(normal, scores.T @ rank)


def _noise_model(correlation: np.ndarray, edge: float) -> tuple[float, float]:
    """Length in metres and share of the smooth noise that, with the shortest one, has these correlations at `_LAGS`.

    White noise under a Gaussian of sigma s is correlated as exp(-r^2 / (4 s^2)) at distance r.
    """
    measured = np.clip(np.nan_to_num(correlation, nan=0.0), 0, 1)
    lags = np.array(_LAGS)
    length, smooth = np.meshgrid(np.geomspace(1, 30, 60), np.linspace(0, 1, 101), indexing="ij")
    model = smooth[..., None] * np.exp(-((lags / length[..., None]) ** 2) / 4)
    model += (1 - smooth[..., None]) * np.exp(-((lags / SHORT) ** 2) / 4)
    best = np.unravel_index(np.argmin(((model - measured) ** 2).sum(-1)), length.shape)
    return round(float(length[best]) * edge, 4), round(float(smooth[best]), 4)
