"""What the density grid of a trained radiance field looks like, as numbers, and grids that look alike.

A look is measured, not modelled: at every signed distance from the visible surface it holds quantiles of density. A
smooth random field says which quantile a voxel has. So a grid made from it has the histograms of the grids that the
look was measured on, in free space (floaters are the upper quantiles there), around surfaces (blur is density in front
of them) and where no view looks; and its noise is as smooth as theirs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage, special

from rcnn.errors import InputError
from rcnn.grids import DensityGrid
from rcnn.rooms.seen_space import REACH, SeenSpace
from rcnn.safe_files import read_json

FORMAT_VERSION = 1
# Signed distances in voxels at which a look has quantiles.
DISTANCES = (-REACH, -7.0, -4.0, -2.25, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.25, 4.0, 7.0, REACH)
# Shares of voxels below each quantile. Both tails are fine: surfaces have holes, free space has floaters.
LEVELS = (0.001, 0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99, 0.999)
# Where the noise is told apart: up to this distance from a surface, in front of that, and behind it.
SURFACE = 1.75
# In front of a surface ends here, in voxels.
FRONT = -0.75
# Sigma in voxels of the shortest noise.
SHORT = 1.2
PARTS = ("free", "surface", "unseen")
# Densities per metre are interpolated by their logarithm, from this one on.
FLOOR = 1e-3
# Sigma in metres of the Gaussian over which colours bleed.
BLEEDING = 0.06

# Correlation of what a field sees with the number of views.
VIEWS_DECIDE = 0.8
# Below this opacity exported grids have no colour: `DensitySamplingConfig.min_alpha`.
MIN_ALPHA = 1e-3


@dataclass(frozen=True)
class RadianceLook:
    """How grids of trained fields differ from the room. `default_look` is the one that is used unless another is given.

    Distances are in voxels: at the resolution of the grids that were measured, blur is their own.
    """

    density: tuple[tuple[float, ...], ...]
    """Density per metre at each of `LEVELS`, ascending: a row per distance of `DISTANCES` outside of furniture, then a
    row per distance inside."""
    noise_length: tuple[float, float, float]
    """Metres over which densities go up and down together, for each of `PARTS`: sigma of the Gaussian that smooths
    white noise."""
    noise_smooth: tuple[float, float, float]
    """Share of the variance that is smooth so, for each of `PARTS`; the rest is smooth over `SHORT` voxels alone."""
    seen: tuple[tuple[float, ...], tuple[float, ...]]
    """Share of voxels that fields see: of those that no view sees by the room's geometry, and of those that one does.
    Per distance outside of furniture, then per distance inside. A field's surfaces lie deeper."""
    clarity: tuple[tuple[float, float, float], tuple[float, float, float]]
    """How density in front of surfaces, and at and behind them, follows what `clarity_scores` says of a surface:
    factors on its three scores, which add to the normal score of density."""
    colour_bleeding: float
    """Share of a voxel's colour that is from its surroundings."""
    colour_noise: float
    """Standard deviation of colours, which lie in [0, 1]."""
    voxel_edge: float
    """Metres; of the grids that were measured."""
    source: str
    """What was measured, for readers."""

    def __post_init__(self) -> None:
        rows = 2 * len(DISTANCES)
        if len(self.density) != rows or any(len(row) != len(LEVELS) for row in self.density):
            raise ValueError(f"density must have {rows} rows of {len(LEVELS)}")
        table = np.array(self.density, np.float64)
        if not (np.isfinite(table).all() and (table >= 0).all() and (np.diff(table, axis=1) >= 0).all()):
            raise ValueError("density must be finite, not negative, and ascending in every row")
        if np.shape(self.seen) != (2, rows):
            raise ValueError(f"seen must have 2 rows of {rows}")
        if np.shape(self.clarity) != (2, 3) or not np.isfinite(self.clarity).all():
            raise ValueError("clarity must be two rows of three numbers")
        if len(self.noise_length) != 3 or len(self.noise_smooth) != 3:
            raise ValueError(f"noise_length and noise_smooth need a number for each of {', '.join(PARTS)}")
        if not all(np.isfinite(length) and length > 0 for length in (*self.noise_length, self.voxel_edge)):
            raise ValueError("noise_length and voxel_edge must be positive")
        shares = (*np.ravel(self.seen).tolist(), *self.noise_smooth, self.colour_bleeding, self.colour_noise)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("seen, noise_smooth, colour_bleeding and colour_noise must lie in [0, 1]")


# Surfaces alone, as sharp as voxels are: what a perfect field would show if it left empty what no view sees.
CLEAN = RadianceLook(
    density=tuple((value,) * len(LEVELS) for value in 2 * (0, 0, 0, 0, 0, 0, 10, 300, 300, 300, 10, 0, 0, 0, 0)),
    noise_length=(1.0, 1.0, 1.0),
    noise_smooth=(0.0, 0.0, 0.0),
    seen=((0.0,) * 2 * len(DISTANCES), (1.0,) * 2 * len(DISTANCES)),
    clarity=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    colour_bleeding=0.0,
    colour_noise=0.0,
    voxel_edge=0.03,
    source="no grid: surfaces are opaque, all else is empty",
)


def default_look() -> RadianceLook:
    """The look that comes with the package; its `source` says what was measured."""
    return read_look(Path(__file__).with_name("radiance_look.json"))


def look_to_json(look: RadianceLook) -> str:
    """The text that `read_look` reads, with the meaning of rows and columns; a line for each row."""
    meaning = {"format_version": FORMAT_VERSION, "distances": DISTANCES, "levels": LEVELS, "parts": PARTS}
    lines = [f' "{key}": {json.dumps(value)}' for key, value in {**meaning, **asdict(look)}.items() if key != "density"]
    rows = ",\n".join(f"  {json.dumps(row)}" for row in look.density)
    return "{\n" + ",\n".join([*lines, f' "density": [\n{rows}\n ]']) + "\n}\n"


def read_look(path: Path) -> RadianceLook:
    """Reads a look that `nerf-rcnn rooms measure-look` wrote.

    Raises:
        InputError: no such file, damaged, or of another format.
    """
    content = read_json(path)
    try:
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {content['format_version']}, not {FORMAT_VERSION}")
        if tuple(content["distances"]) != DISTANCES or tuple(content["levels"]) != LEVELS:
            raise ValueError("other distances or levels")
        values = {field.name: content[field.name] for field in fields(RadianceLook)}
        values["density"] = tuple(tuple(float(value) for value in row) for row in values["density"])
        for name in ("seen", "clarity"):
            values[name] = tuple(tuple(float(value) for value in row) for row in values[name])
        values["source"] = str(values["source"])
        for name in ("noise_length", "noise_smooth"):
            values[name] = tuple(float(value) for value in values[name])
        return RadianceLook(**values)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: is no look ({error}); make one with nerf-rcnn rooms measure-look") from error


def part_of(distance: Float32[np.ndarray, "*shape"]) -> np.ndarray:
    """Index into `PARTS` of signed distances in voxels."""
    return (distance > -SURFACE).astype(np.int8) + (distance > SURFACE)


def radiance_grid(
    space: SeenSpace, furniture: Bool[np.ndarray, "W L H"], look: RadianceLook, seed: tuple[int, ...]
) -> DensityGrid:
    """A density grid of a room that looks like that of a trained field; the same for the same seed.

    Args:
        space: what the training views show of the room.
        furniture: voxels of instances.
        look: what trained grids look like.
        seed: of the noise.
    """
    noise = _Noise(np.random.default_rng(seed), space)
    bled = bled_colours(space)
    scores = clarity_scores(space, bled)
    rank = _ranks(space, scores, look, noise)
    row = table_rows(space.distance, furniture)
    sigma = _density(row, rank, look)
    alpha = -np.expm1(-sigma * np.float32(space.edge))
    seen = _seen(space, scores[:, 0], row, look, noise)
    colour = _colours(space, bled, look, noise)
    colour[~(seen & (alpha >= MIN_ALPHA))] = 0
    values = np.empty((*sigma.shape, 4), np.float16)
    values[..., :3] = colour
    values[..., 3] = np.minimum(sigma, np.finfo(np.float16).max)
    return DensityGrid(values, space.bbox_min, space.bbox_max, "sigma", "cells", np.eye(4), seen)


def _ranks(
    space: SeenSpace, scores: Float32[np.ndarray, "S 3"], look: RadianceLook, noise: _Noise
) -> Float32[np.ndarray, "W L H"]:
    """Normal scores of densities. Noise of free space, of surfaces and of the unseen passes into each other."""
    fields = [noise.draw(*numbers) for numbers in zip(look.noise_length, look.noise_smooth, strict=True)]
    distance = space.distance
    # The share of a surface's noise: all up to SURFACE / 2 voxels from it, none from 2 * SURFACE on.
    share = np.clip((2 * SURFACE - np.abs(distance)) / (1.5 * SURFACE), 0, 1)
    beyond = np.where(distance < 0, fields[0], fields[2])
    rank = np.sqrt(share) * fields[1] + np.sqrt(1 - share) * beyond
    front, behind = (scores @ np.array(factors, np.float32) for factors in look.clarity)
    close = np.nonzero(share > 0)
    at, part = space.nearest[close], np.clip(0.5 + (distance[close] - FRONT), 0, 1)
    known = share[close] * ((1 - part) * front[at] + part * behind[at])
    variance = min(0.9, float(known.var()))
    known = (known - known.mean()) * np.float32(np.sqrt(variance / max(float(known.var()), 1e-12)))
    rank[close] = np.sqrt(1 - variance) * rank[close] + known
    return rank


class _Noise:
    """Random fields over a room: normal numbers of mean 0 and variance 1."""

    def __init__(self, rng: np.random.Generator, space: SeenSpace):
        self._rng, self._shape, self._edge = rng, space.distance.shape, space.edge
        self._short = _smooth_noise(rng, self._shape, SHORT)

    def draw(self, length: float, smooth: float) -> np.ndarray:
        """(W, L, H) float32, of whose variance the share `smooth` is correlated over `length` metres."""
        # what is short repeats itself elsewhere
        self._short = np.roll(self._short, (17, 29, 11), (0, 1, 2))
        if smooth == 0:
            return self._short
        waves = _smooth_noise(self._rng, self._shape, length / self._edge)
        waves *= np.float32(np.sqrt(smooth))
        waves += np.float32(np.sqrt(1 - smooth)) * self._short
        return waves


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], length: float) -> np.ndarray:
    step = max(1, int(length / 2))  # long waves are made on a coarser lattice: the same in less time
    sigma = length / step
    lattice = [-(-n // step) + 2 for n in shape]
    waves = ndimage.gaussian_filter(rng.standard_normal(lattice, np.float32), sigma, mode="wrap", truncate=3)
    # along each axis a Gaussian leaves the sum of its squared weights of the variance
    weights = np.exp(-0.5 * (np.arange(-int(3 * sigma + 0.5), int(3 * sigma + 0.5) + 1) / sigma) ** 2)
    waves *= np.float32((weights.sum() / np.sqrt((weights**2).sum())) ** 3)
    return _enlarge(waves, step, shape)


def _enlarge(values: np.ndarray, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Linear between lattice points, of which point i lies at voxel i * step."""
    for axis, count in enumerate(shape if step > 1 else ()):
        place = np.arange(count, dtype=np.float32) / step
        first = place.astype(int)
        after = (place - first).reshape([-1 if k == axis else 1 for k in range(3)])
        near, far = np.take(values, first, axis), np.take(values, first + 1, axis)
        values = near + after * (far - near)
    return values[tuple(slice(0, n) for n in shape)]


def clarity_scores(space: SeenSpace, bled: Float32[np.ndarray, "S 3"]) -> Float32[np.ndarray, "S 3"]:
    """Why a field may show a surface well: many views, contrast with what is around, and not being the room's shell.

    `bled` are the colours of `bled_colours`. Normal scores of each: mean 0, and variance 1 unless many are equal.
    """
    contrast = np.linalg.norm(space.colour - bled, axis=1)
    places = np.stack(np.unravel_index(space.surface, space.distance.shape), axis=1)
    views = _around(space, space.views[:, None])[:, 0]
    rim = np.minimum(places, np.array(space.distance.shape) - 1 - places).min(1)
    return np.stack([normal_scores(values) for values in (views, contrast, rim > SURFACE)], axis=1)


def normal_scores(values: np.ndarray) -> np.ndarray:
    """(N,) float32 normal numbers in the order of the values; equal values get equal ones."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    share = (np.cumsum(count) - 0.5 * count) / len(values)
    return special.ndtri(share).astype(np.float32)[inverse.reshape(-1)]


def _seen(
    space: SeenSpace,
    views: Float32[np.ndarray, " S"],
    row: Float32[np.ndarray, "W L H"],
    look: RadianceLook,
    noise: _Noise,
) -> Bool[np.ndarray, "W L H"]:
    """Voxels that a field would see: by the shares of the look, where few views look the fewest."""
    rows = np.arange(2 * len(DISTANCES))
    share = np.where(space.seen, np.interp(row, rows, look.seen[1]), np.interp(row, rows, look.seen[0]))
    # all of the noise is smooth: a surface that lies deeper does so in one piece
    waves = noise.draw(look.noise_length[PARTS.index("surface")], 1.0)
    hidden = -(VIEWS_DECIDE * views[space.nearest] + np.float32(np.sqrt(1 - VIEWS_DECIDE**2)) * waves)
    return special.ndtr(hidden) < share


def table_rows(
    distance: Float32[np.ndarray, "W L H"], furniture: Bool[np.ndarray, "W L H"]
) -> Float32[np.ndarray, "W L H"]:
    """Continuous row numbers of a look's tables, between rows of neighbouring distances."""
    rows = np.interp(distance, DISTANCES, np.arange(len(DISTANCES))).astype(np.float32)
    rows[furniture] += len(DISTANCES)
    return rows


def _density(row: np.ndarray, rank: np.ndarray, look: RadianceLook) -> Float32[np.ndarray, "W L H"]:
    """Density per metre: the table at continuous rows and normal ranks, linear in its logarithm."""
    table = np.log(np.array(look.density, np.float32) + FLOOR)
    column = np.interp(rank, special.ndtri(LEVELS), np.arange(len(LEVELS))).astype(np.float32)
    values = ndimage.map_coordinates(table, [row.ravel(), column.ravel()], order=1, mode="nearest")
    return np.maximum(np.exp(values.reshape(row.shape)) - FLOOR, 0)


def _colours(
    space: SeenSpace, bled: Float32[np.ndarray, "S 3"], look: RadianceLook, noise: _Noise
) -> Float32[np.ndarray, "W L H 3"]:
    """Colours of the nearest surface mixed with its surroundings; far from surfaces, of all that is around."""
    share = np.float32(look.colour_bleeding)
    mixed = (1 - share) * space.colour + share * bled
    colour = _mean_colours(space)
    near = np.abs(space.distance) <= SURFACE
    colour[near] = mixed[space.nearest[near]]
    surface = PARTS.index("surface")
    length, smooth = look.noise_length[surface], look.noise_smooth[surface]
    # most errors are of brightness, the others warm or cold
    grey, warm = (np.float32(look.colour_noise) * noise.draw(length, smooth) for _ in range(2))
    for channel, tint in enumerate((0.5, 0.0, -0.5)):
        colour[..., channel] += np.float32(np.sqrt(1 - tint**2)) * grey + np.float32(tint) * warm
    return np.clip(colour, 0, 1, out=colour)


def _mean_colours(space: SeenSpace) -> Float32[np.ndarray, "W L H 3"]:
    """Mean colours of the surfaces within about 8 voxels, everywhere."""
    lattice, step = _means(space, space.colour, 8.0)
    return np.stack([_enlarge(channel, step, space.distance.shape) for channel in lattice], axis=-1)


def bled_colours(space: SeenSpace) -> Float32[np.ndarray, "S 3"]:
    """Mean colours around each voxel with a surface, over about `BLEEDING` metres."""
    return _around(space, space.colour)


def _around(space: SeenSpace, values: np.ndarray) -> Float32[np.ndarray, "S C"]:
    """Means of (S, C) values of surfaces over about `BLEEDING` metres."""
    lattice, step = _means(space, values, BLEEDING / space.edge)
    places = np.stack(np.unravel_index(space.surface, space.distance.shape)).astype(np.float32) / step
    return np.stack([ndimage.map_coordinates(part, places, order=1, mode="nearest") for part in lattice], axis=-1)


def _means(space: SeenSpace, values: np.ndarray, length: float) -> tuple[Float32[np.ndarray, "C w l h"], int]:
    """Means of (S, C) values of surfaces under a Gaussian of `length` voxels; lattice point i is at voxel i * step."""
    step = max(1, int(length / 2))
    places = np.stack(np.unravel_index(space.surface, space.distance.shape))
    shape = tuple(n // step + 2 for n in space.distance.shape)
    flat = np.ravel_multi_index(tuple((places + step // 2) // step), shape)

    def spread(weights: np.ndarray | None) -> np.ndarray:
        count = np.bincount(flat, weights, int(np.prod(shape))).astype(np.float32).reshape(shape)
        # a second, wide Gaussian is for places far from everything
        near = ndimage.gaussian_filter(count, length / step, truncate=2.5)
        return near if length < 4 else near + np.float32(1e-3) * ndimage.gaussian_filter(count, 6 * length / step)

    total = np.maximum(spread(None), np.float32(1e-9))
    return np.stack([spread(values[:, channel]) / total for channel in range(values.shape[1])]), step
