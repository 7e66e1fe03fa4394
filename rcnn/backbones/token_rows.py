"""Tokens of several grids as rows of one matrix, and where they go: into windows, into merged cells, and back.

Rows leave out the padding of a batch, so that no layer computes it and none can see it. The row of a place, and the
place of a row, are sums of a number for each axis; the host lists those numbers, the device adds them up.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rcnn.backbones.padding import Extent

_KEPT = 32
"""Maps of each kind that are kept for the next grids of the same size: a network needs eight and three of them."""
_EMPTY = -(2**29)
"""Makes a sum negative when one, two or all three axes lie beyond a grid, within int32."""


class RowMap(NamedTuple):
    """A place for every row; places can stay empty."""

    rows: Int[Tensor, "K"]
    """int32: the row of each place, any in an empty one."""
    places: Int[Tensor, "M"]
    """int32: the place of each row."""
    empty: Bool[Tensor, "K 1"] | None
    """True for empty places; None where there are none."""


class WindowMap(NamedTuple):
    """Windows of w³ places."""

    map: RowMap
    """Places in the order (window, x, y, z)."""
    blocked: Float[Tensor, "W 1 P P"] | None
    """-inf for pairs of places that a shifted window took from two ends of the grid, otherwise 0; None without shifts.
    """


def to_places(rows: Float[Tensor, "M C"], map: RowMap) -> Float[Tensor, "K C"]:
    """Rows at their places, zeros in empty places."""
    return _Take.apply(rows, map.rows, map.empty, map.places, None)  # type: ignore[return-value]


def to_rows(places: Float[Tensor, "K C"], map: RowMap) -> Float[Tensor, "M C"]:
    """Undoes `to_places`."""
    return _Take.apply(places, map.places, None, map.rows, map.empty)  # type: ignore[return-value]


@lru_cache(maxsize=_KEPT)
@torch.inference_mode(False)  # training may meet the same sizes
def window_map(
    extents: tuple[Extent, ...],
    window: int,
    shifted: bool,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> WindowMap:
    """The windows of each grid, which is filled up with empty places to multiples of the window.

    Shifted windows (Liu et al., ICCV 2021, section 3.2) are moved by half a window along the axes that have more than
    one and take what sticks out at one end from the other, unseen by the rest of the window. `dtype` is that of
    `blocked`.
    """

    def shift(filled: int) -> int:
        return window // 2 if shifted and filled > window else 0

    def order(size: int) -> list[int]:
        filled = -(-size // window) * window
        return [(place + shift(filled)) % filled for place in range(filled)]

    map = _row_map(extents, order, window, device)
    if not shifted:
        return WindowMap(map, None)

    def regions(size: int, factor: int) -> list[int]:
        """The last window's places that came from the other end, and those that did not, are 2 and 1."""
        filled = len(order(size))
        if shift(filled) == 0:
            return [0] * filled
        return [((place >= filled - window) + (place >= filled - shift(filled))) * factor for place in range(filled)]

    runs = [(extent, len(list(run))) for extent, run in groupby(extents)]
    tables = _on_device([regions(*axis) for extent, _ in runs for axis in zip(extent, (9, 3, 1), strict=True)], device)
    joined = []
    for index, (_, count) in enumerate(runs):
        x, y, z = (axis.reshape(-1, window) for axis in tables[3 * index : 3 * index + 3])
        joined.append(_combine(x, y, z).reshape(1, -1, window**3).expand(count, -1, -1).reshape(-1, window**3))
    region = _join(joined)
    apart = region[:, None, :, None] != region[:, None, None, :]
    return WindowMap(map, torch.zeros(apart.shape, dtype=dtype, device=device).masked_fill_(apart, float("-inf")))


@lru_cache(maxsize=_KEPT)
@torch.inference_mode(False)
def merge_map(extents: tuple[Extent, ...], device: torch.device) -> RowMap:
    """The cells of the next coarser level with 2³ places each, x fastest; those beyond an odd side stay empty."""
    return _row_map(extents, lambda size: range(size + size % 2), 2, device, x_fastest=True)


def _row_map(
    extents: Sequence[Extent],
    order: Callable[[int], Sequence[int]],
    side: int,
    device: torch.device,
    x_fastest: bool = False,
) -> RowMap:
    """Places in blocks of side³.

    Args:
        extents: tokens of each grid.
        order: the cells along an axis of a size, in the order of their places; numbers beyond the size are empty.
        side: of a block.
        device: of the result.
        x_fastest: whether x is the fastest axis within a block, instead of z.
    """
    numbers, row, place = [], 0, 0
    for extent, run in groupby(extents):
        orders = [order(size) for size in extent]
        _, y_blocks, z_blocks = (len(cells) // side for cells in orders)
        block_steps = (y_blocks * z_blocks * side**3, z_blocks * side**3, side**3)
        steps = (1, side, side**2) if x_fastest else (side**2, side, 1)
        row_steps = (extent[1] * extent[2], extent[2], 1)
        axes = []
        for cells, size, *step in zip(orders, extent, row_steps, block_steps, steps, strict=True):
            rows = [cell * step[0] if cell < size else _EMPTY for cell in cells]
            places = [0] * size
            for i, cell in enumerate(cells):
                if cell < size:
                    places[cell] = i // side * step[1] + i % side * step[2]
            axes.append((rows, places))
        # Grids of one size are one grid with an x axis that is as long as all theirs.
        x_rows, x_places = [], []
        for _ in run:
            x_rows += [row + n for n in axes[0][0]]
            x_places += [place + n for n in axes[0][1]]
            row, place = row + prod(extent), place + prod(map(len, orders))
        numbers += [x_rows, x_places, *axes[1], *axes[2]]
    tables = _on_device(numbers, device)
    rows, places = [], []
    for first in range(0, len(tables), 6):
        of_x, at_x, of_y, at_y, of_z, at_z = tables[first : first + 6]
        x, y, z = (axis.reshape(-1, side) for axis in (of_x, of_y, of_z))
        combined = _combine(x, y, z)
        rows.append((combined.permute(0, 1, 2, 5, 4, 3) if x_fastest else combined).reshape(-1))
        places.append((at_x[:, None, None] + (at_y[:, None] + at_z)).reshape(-1))
    joined = _join(rows)
    if place == row:
        return RowMap(joined, _join(places), None)
    return RowMap(joined.clamp(min=0), _join(places), (joined < 0)[:, None])


def _on_device(numbers: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "_"], ...]:
    """Lists as int32, in one copy that the host does not wait for."""
    flat = torch.tensor([n for axis in numbers for n in axis], dtype=torch.int32, pin_memory=device.type == "cuda")
    return flat.to(device, non_blocking=True).split([len(axis) for axis in numbers])


def _combine(
    x: Int[Tensor, "nx wx"], y: Int[Tensor, "ny wy"], z: Int[Tensor, "nz wz"]
) -> Int[Tensor, "nx ny nz wx wy wz"]:
    """The sum of every combination."""
    y_z = y[None, :, None, None, :, None] + z[None, None, :, None, None, :]
    return x[:, None, None, :, None, None] + y_z


def _join(parts: Sequence[Int[Tensor, "_ *sizes"]]) -> Int[Tensor, "_ *sizes"]:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class _Take(torch.autograd.Function):
    """Rows by index, zeros for empty ones. As no row is taken twice, the gradient takes them back, without atomics."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, source: Tensor, index: Tensor, empty: Tensor | None, inverse: Tensor, inverse_empty: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(index, empty, inverse, inverse_empty)
        taken = source.index_select(0, index)
        return taken if empty is None else taken.masked_fill_(empty, 0)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        index, empty, inverse, inverse_empty = ctx.saved_tensors
        return _Take.apply(gradient, inverse, inverse_empty, index, empty), None, None, None, None
