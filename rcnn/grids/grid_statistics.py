"""Numbers that say what density grids look like: where there is density, how much, how thick, how close to the truth.

Regions are told by the truth and by what cameras saw, so that grids of any origin compare: `shown`, seen voxels of
instances (their surfaces, about); `hidden`, unseen voxels of instances (their insides); `free`, seen voxels at least
3 voxels away from instances, from the unseen and from the sides of the box (walls); `unseen`, everything else unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from rcnn.grids.density_grid import DensityGrid
from rcnn.grids.grid_truth import GridTruth

REGIONS = ("free", "shown", "hidden", "unseen")
THRESHOLDS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9)
ALPHA_BINS = np.linspace(0, 1, 21)
# Decades of density per world unit.
SIGMA_BINS = np.linspace(-3, 4, 29)
# A voxel at least this opaque is solid where a single threshold is asked for.
SOLID = 0.5
# Voxels by which free space keeps away from everything.
_CLEAR = 3


@dataclass(frozen=True, eq=False)
class GridStatistics:
    """One grid's numbers."""

    numbers: dict[str, float]
    """By name; nan where a grid has no voxel that the number is about."""
    alpha_histograms: Float[np.ndarray, "regions bins"]
    """Shares of each of `REGIONS` over `ALPHA_BINS`, 1 in all; nan for a region without voxels."""
    sigma_histograms: Float[np.ndarray, "regions bins"]
    """The same of the logarithm (base 10) of density per world unit over `SIGMA_BINS`, cut off at both ends."""


def grid_statistics(grid: DensityGrid, truth: GridTruth) -> GridStatistics:
    """Statistics of a grid and the truth beside it, which must have voxels."""
    assert truth.instances is not None
    alpha, regions = grid.alpha(), grid_regions(grid, truth)
    edge = float(np.prod(grid.voxel_size) ** (1 / 3))
    with np.errstate(divide="ignore"):
        decades = np.log10(-np.log1p(-np.minimum(alpha, np.float32(1 - 1e-7))) / edge)
    numbers: dict[str, float] = {f"occupancy_{level}": float((alpha > level).mean()) for level in THRESHOLDS}
    seen = np.ones(alpha.shape, bool) if grid.seen is None else grid.seen
    numbers["seen"] = float(seen.mean())
    histograms: list[list[np.ndarray]] = [[], []]
    for region, name in enumerate(REGIONS):
        inside = regions == region
        values = alpha[inside]
        numbers[f"{name}_share"] = float(inside.mean())
        numbers[f"{name}_alpha_mean"] = float(values.mean()) if len(values) else np.nan
        numbers[f"{name}_solid"] = float((values > SOLID).mean()) if len(values) else np.nan
        numbers[f"{name}_step"] = _step(alpha, inside)
        for kind, (data, bins) in enumerate(((values, ALPHA_BINS), (decades[inside], SIGMA_BINS))):
            count = np.histogram(np.clip(data, bins[0], bins[-1]), bins)[0].astype(float)
            histograms[kind].append(count / count.sum() if count.sum() else np.full(len(bins) - 1, np.nan))
    numbers |= _agreement(alpha > SOLID, truth, seen)
    numbers["thickness"] = _thickness(alpha > SOLID) * edge
    solid = seen & (alpha > SOLID)
    colours = grid.rgb_alpha()[:3, solid]
    numbers["colour_mean"] = float(colours.mean()) if colours.size else np.nan
    numbers["colour_spread"] = float(colours.std(1).mean()) if colours.size else np.nan
    numbers["saturation"] = float((colours.max(0) - colours.min(0)).mean()) if colours.size else np.nan
    return GridStatistics(numbers, np.stack(histograms[0]), np.stack(histograms[1]))


def grid_regions(grid: DensityGrid, truth: GridTruth) -> np.ndarray:
    """(W, L, H) int8 index into `REGIONS`; -1 for seen voxels near to instances, to the unseen or to the box."""
    assert truth.instances is not None
    seen = np.ones(grid.resolution, bool) if grid.seen is None else grid.seen
    instance = truth.instances > 0
    regions = np.full(grid.resolution, -1, np.int8)
    clear = np.pad(seen & ~instance, 1)
    # separable: a cube of voxels is clear where each axis is
    for axis in range(3):
        clear = ndimage.minimum_filter1d(clear.view(np.uint8), 2 * _CLEAR + 1, axis, mode="constant").view(bool)
    regions[clear[1:-1, 1:-1, 1:-1]] = REGIONS.index("free")
    regions[instance & seen] = REGIONS.index("shown")
    regions[instance & ~seen] = REGIONS.index("hidden")
    regions[~instance & ~seen] = REGIONS.index("unseen")
    return regions


def _step(alpha: Float32[np.ndarray, "W L H"], inside: Bool[np.ndarray, "W L H"]) -> float:
    """Mean absolute difference of opacity between face neighbours in a region: how rough it is."""
    total, pairs = 0.0, 0
    for axis in range(3):
        one = tuple(slice(1, None) if k == axis else slice(None) for k in range(3))
        two = tuple(slice(None, -1) if k == axis else slice(None) for k in range(3))
        both = inside[one] & inside[two]
        total += float(np.abs(alpha[one][both] - alpha[two][both]).sum(dtype=np.float64))
        pairs += int(both.sum())
    return total / pairs if pairs else np.nan


def _agreement(solid: Bool[np.ndarray, "W L H"], truth: GridTruth, seen: Bool[np.ndarray, "W L H"]) -> dict[str, float]:
    """IoU of solid voxels with instances inside of the instances' boxes, where walls and floor are no matter.

    `iou` is with all voxels of instances, which a field that is hollow inside can't reach; `iou_shown` counts seen
    voxels alone. `boxes_solid` is the share of boxes that hold solid voxels of their own instance.
    """
    assert truth.instances is not None
    instance = truth.instances > 0
    boxed = np.zeros(solid.shape, bool)
    found = 0
    for number, box in zip(truth.ids, truth.aabb, strict=True):
        low = np.clip(np.floor(box[:3]).astype(int), 0, np.array(solid.shape) - 1)
        high = np.clip(np.ceil(box[3:]).astype(int), low + 1, solid.shape)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        boxed[window] = True
        found += bool((solid[window] & (truth.instances[window] == number)).any())

    def iou(where: np.ndarray) -> float:
        either = int(((solid | instance) & where).sum())
        return float((solid & instance & where).sum()) / either if either else np.nan

    return {
        "iou": iou(boxed),
        "iou_shown": iou(boxed & seen),
        "boxes_solid": found / len(truth.ids) if len(truth.ids) else np.nan,
    }


def _thickness(solid: Bool[np.ndarray, "W L H"]) -> float:
    """Median over solid voxels of the shortest run of solid voxels through them along an axis, in voxels."""
    if not solid.any():
        return np.nan
    shortest = np.full(int(solid.sum()), np.iinfo(np.int64).max)
    for axis in range(3):
        lines = np.moveaxis(solid, axis, -1)
        flat = np.pad(lines, [(0, 0), (0, 0), (1, 1)]).ravel()
        steps = np.diff(flat.view(np.int8))
        first, last = np.nonzero(steps == 1)[0], np.nonzero(steps == -1)[0]
        runs = np.zeros(flat.size, np.int64)
        runs[flat] = np.repeat(last - first, last - first)
        runs = np.moveaxis(runs.reshape(*lines.shape[:2], -1)[..., 1:-1], -1, axis)
        shortest = np.minimum(shortest, runs[solid])
    return float(np.median(shortest))


def pooled_statistics(grids: Sequence[GridStatistics]) -> dict[str, object]:
    """Mean, standard deviation and number of grids of every number, and mean histograms by region, for JSON."""
    table: dict[str, Mapping[str, float | int | None]] = {}
    for name in grids[0].numbers:
        values = np.array([grid.numbers[name] for grid in grids])
        values = values[np.isfinite(values)]
        mean, spread = (float(values.mean()), float(values.std())) if len(values) else (None, None)
        table[name] = {"mean": mean, "std": spread, "grids": len(values)}
    return {
        "grids": len(grids),
        "numbers": table,
        "alpha_bins": ALPHA_BINS.tolist(),
        "alpha_histograms": _by_region([grid.alpha_histograms for grid in grids]),
        "log10_sigma_bins": SIGMA_BINS.tolist(),
        "log10_sigma_histograms": _by_region([grid.sigma_histograms for grid in grids]),
    }


def _by_region(histograms: Sequence[np.ndarray]) -> dict[str, list[float] | None]:
    result: dict[str, list[float] | None] = {}
    for region, name in enumerate(REGIONS):
        rows = [histogram[region] for histogram in histograms if np.isfinite(histogram[region]).all()]
        result[name] = np.mean(rows, axis=0).tolist() if rows else None
    return result


def histogram_distance(one: Sequence[float] | None, two: Sequence[float] | None) -> float | None:
    """Total variation of two histograms: the share of one that would have to move to become the other, 0 to 1."""
    if one is None or two is None:
        return None
    return float(0.5 * np.abs(np.subtract(one, two)).sum())
