"""The picture of `nerf-rcnn grids compare`: grids of both sets side by side with boxes, and histograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rcnn.grids.density_grid import DensityGrid
from rcnn.grids.find_grids import TRUTH_FILE
from rcnn.grids.grid_file import read_density_grid
from rcnn.grids.grid_statistics import ALPHA_BINS, REGIONS, SIGMA_BINS
from rcnn.grids.grid_truth import GridTruth, read_grid_truth
from rcnn.grids.slices import slice_level, slice_views
from rcnn.safe_files import write_rgb_png

_COLOURS = ((200, 90, 30), (40, 110, 200))
_INK, _GREY, _PAPER = (30, 30, 36), (190, 190, 190), 255
_PLOT = (330, 170)
_LINE = 24


def draw_comparison(
    path: Path, names: Sequence[str], kinds: Sequence[dict[str, Any]], pairs: Sequence[tuple[Path, Path]]
) -> None:
    """Writes a PNG.

    Args:
        path: file to write.
        names: of the two sets.
        kinds: their `pooled_statistics`.
        pairs: grids of the first and second set that are shown beside each other.
    """
    parts = [_legend(names, kinds)]
    for pair in pairs:
        for name, file in zip(names, pair, strict=True):
            parts.append(_grid_row(f"{name}: {file.parent.parent.name}", file))
    for key, bins, label in (
        ("alpha_histograms", ALPHA_BINS, "opacity"),
        ("log10_sigma_histograms", SIGMA_BINS, "log10 of density per world unit"),
    ):
        plots = [_plot([kind[key][region] for kind in kinds], bins, f"{region}: {label}") for region in REGIONS]
        parts.append(np.concatenate(plots, axis=1))
    width = max(part.shape[1] for part in parts)
    sheet = [np.pad(p, ((0, 8), (0, width - p.shape[1]), (0, 0)), constant_values=_PAPER) for p in parts]
    write_rgb_png(path, np.concatenate(sheet))


def _text(image: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int] = _INK) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)


def _legend(names: Sequence[str], kinds: Sequence[dict[str, Any]]) -> np.ndarray:
    image = np.full((2 * _LINE, 4 * _PLOT[0], 3), _PAPER, np.uint8)
    for row, (name, kind, colour) in enumerate(zip(names, kinds, _COLOURS, strict=True)):
        cv2.rectangle(image, (8, row * _LINE + 6), (22, row * _LINE + 20), colour, -1)
        _text(image, f"{name}: {kind['grids']} grids", (30, row * _LINE + 18))
    return image


def _grid_row(title: str, path: Path) -> np.ndarray:
    grid = read_density_grid(path)
    truth = read_grid_truth(path.with_name(TRUTH_FILE), grid)
    channels = grid.rgb_alpha()
    cells = []
    for axis in (2, 1):
        for cell in slice_views(grid, channels, axis):
            cells.append(_with_boxes(cell, grid, truth, axis) if len(cells) % 3 == 2 else cell)
    height = max(cell.shape[0] for cell in cells)
    row = [np.pad(c, ((_LINE, height - c.shape[0]), (0, 8), (0, 0)), constant_values=_PAPER) for c in cells]
    image = np.concatenate(row, axis=1)
    _text(image, title, (4, 16))
    return image


def _with_boxes(cell: np.ndarray, grid: DensityGrid, truth: GridTruth, axis: int) -> np.ndarray:
    """Outlines of the boxes that the slice cuts."""
    cell = np.ascontiguousarray(cell)
    level = slice_level(grid, axis) + 0.5
    across, up = (k for k in range(3) if k != axis)
    scale = cell.shape[1] / grid.resolution[across]
    for box in truth.aabb:
        if box[axis] <= level <= box[axis + 3]:
            corners = [(box[across] * scale, cell.shape[0] - box[up] * scale)]
            corners.append((box[across + 3] * scale, cell.shape[0] - box[up + 3] * scale))
            first, second = ((round(float(x)), round(float(y))) for x, y in corners)
            cv2.rectangle(cell, first, second, (220, 40, 40), 1)
    return cell


def _plot(histograms: Sequence[list[float] | None], bins: np.ndarray, title: str) -> np.ndarray:
    """Histograms over each other; heights are square roots, so that rare values show."""
    width, height = _PLOT
    image = np.full((height, width, 3), _PAPER, np.uint8)
    left, right, top, bottom = 10, width - 12, 28, height - 22
    _text(image, title, (left, 18))
    cv2.line(image, (left, bottom), (right, bottom), _GREY, 1)
    for value in (bins[0], bins[len(bins) // 2], bins[-1]):
        x = round(left + (right - left) * float((value - bins[0]) / (bins[-1] - bins[0])))
        cv2.line(image, (x, bottom), (x, bottom + 3), _INK, 1)
        _text(image, f"{value:g}", (min(x, right - 18), height - 6))
    shown = [histogram for histogram in histograms if histogram is not None]
    top_share = max((max(histogram) for histogram in shown), default=1.0) or 1.0
    for histogram, colour in zip(histograms, _COLOURS, strict=True):
        if histogram is None:
            continue
        xs = np.repeat(left + (right - left) * (bins - bins[0]) / (bins[-1] - bins[0]), 2)[1:-1]
        ys = np.repeat(bottom - (bottom - top) * np.sqrt(np.array(histogram) / top_share), 2)
        points = np.stack([xs, ys], axis=1).round().astype(np.int32)
        cv2.polylines(image, [points], False, colour, 2, cv2.LINE_AA)
    return image
