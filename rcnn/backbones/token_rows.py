"""Tokens of several grids as rows of one matrix, and where they go: into windows, into merged cells, and back.

Rows leave out the padding of a batch, so that no layer computes it and none can see it.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.backbones.padding import Extent


class RowMap(NamedTuple):
    """A place for every row; places can stay empty."""

    rows: Int[Tensor, "K"]
    """int32: the row of each place, -1 in an empty one."""
    places: Int[Tensor, "M"]
    """int32: the place of each row."""


class WindowMap(NamedTuple):
    """Windows of w³ places."""

    extents: tuple[Extent, ...]
    """Tokens of each grid."""
    map: RowMap
    """Places in the order (window, x, y, z)."""
    blocked: Bool[Tensor, "W P P"] | None
    """Pairs of places that a shifted window took from two ends of the grid; None without shifts."""


def to_places(rows: Float[Tensor, "M C"], map: RowMap) -> Float[Tensor, "K C"]:
    """Rows at their places, zeros in empty places."""
    return _Take.apply(rows, map.rows, map.places)  # type: ignore[return-value]


def to_rows(places: Float[Tensor, "K C"], map: RowMap) -> Float[Tensor, "M C"]:
    """Undoes `to_places`."""
    return _Take.apply(places, map.places, map.rows)  # type: ignore[return-value]


def window_map(extents: tuple[Extent, ...], window: int, shifted: bool, device: torch.device) -> WindowMap:
    """The windows of each grid, which is filled up with empty places to multiples of the window.

    Shifted windows (Liu et al., ICCV 2021, section 3.2) are moved by half a window along the axes that have more than
    one and take what sticks out at one end from the other, unseen by the rest of the window.
    """
    rows, blocked = [], []
    for extent in extents:
        cells, regions = [], []
        for size in extent:
            filled = -(-size // window) * window
            shift = window // 2 if shifted and filled > window else 0
            place = torch.arange(filled, device=device)
            cells.append(place.roll(-shift).reshape(-1, window))
            # The last window's places that came from the other end, and those that did not, are 2 and 1.
            region = (place >= filled - window).int() + (place >= filled - shift) if shift else torch.zeros_like(place)
            regions.append(region.reshape(-1, window))
        rows.append(_rows_at(cells, extent).reshape(-1))
        if shifted:
            x, y, z = regions
            region = _combine(9 * x, 3 * y, z).reshape(-1, window**3)
            blocked.append(region[:, :, None] != region[:, None, :])
    return WindowMap(extents, _row_map(rows, extents), torch.cat(blocked) if shifted else None)


def merge_map(extents: tuple[Extent, ...], device: torch.device) -> RowMap:
    """The cells of the next coarser level with 2³ places each, x fastest; those beyond an odd side stay empty."""
    rows = []
    for extent in extents:
        cells = [torch.arange(size + size % 2, device=device).reshape(-1, 2) for size in extent]
        rows.append(_rows_at(cells, extent).permute(0, 1, 2, 5, 4, 3).reshape(-1))
    return _row_map(rows, extents)


def _rows_at(cells: Sequence[Int[Tensor, "n w"]], extent: Extent) -> Int[Tensor, "nx ny nz wx wy wz"]:
    """Row within its grid of every combination of the cells of three axes, negative beyond the grid."""
    steps = (extent[1] * extent[2], extent[2], 1)
    axes = zip(cells, extent, steps, strict=True)
    # One axis beyond the grid makes the sum negative, whatever the others are.
    x, y, z = ((cell * step).where(cell < size, -prod(extent)) for cell, size, step in axes)
    return _combine(x, y, z)


def _combine(
    x: Int[Tensor, "nx wx"], y: Int[Tensor, "ny wy"], z: Int[Tensor, "nz wz"]
) -> Int[Tensor, "nx ny nz wx wy wz"]:
    """The sum of every combination."""
    return x[:, None, None, :, None, None] + y[None, :, None, None, :, None] + z[None, None, :, None, None, :]


def _row_map(rows: Sequence[Int[Tensor, "_"]], extents: Sequence[Extent]) -> RowMap:
    """Joins the places of several grids and inverts them; their rows count from 0 in each."""
    joined, count = [], 0
    for grid, extent in zip(rows, extents, strict=True):
        joined.append(torch.where(grid < 0, -1, grid + count))
        count += prod(extent)
    index = torch.cat(joined)
    places = torch.arange(len(index), dtype=torch.int32, device=index.device)
    # Empty places are all written behind the last row, and cut off.
    inverse = places.new_empty(count + 1).scatter_(0, index.where(index >= 0, count), places)
    return RowMap(index.int(), inverse[:count])


class _Take(torch.autograd.Function):
    """Rows by index. As no row is taken twice, the gradient takes them back, which needs no atomics or sorting."""

    @staticmethod
    def forward(ctx, source: Tensor, index: Tensor, inverse: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(index, inverse)
        if len(index) <= len(source):
            return source.index_select(0, index)
        return source.index_select(0, index.clamp(min=0)).masked_fill_((index < 0)[:, None], 0)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        index, inverse = ctx.saved_tensors
        return _Take.apply(gradient, inverse, index), None, None
