"""Batches of grids of several sizes."""

import pytest
import torch

from rcnn.backbones import GridBatch
from rcnn.backbones.padding import Padding, pack_cells, unpack_cells


def test_collate_keeps_grids_in_the_lower_corner() -> None:
    first, second = torch.rand(4, 3, 5, 2), torch.rand(4, 4, 1, 7)
    batch = GridBatch.collate([first, second])
    assert len(batch) == 2
    assert batch.shape == (4, 5, 7)
    assert batch.extents == ((3, 5, 2), (4, 1, 7))
    assert torch.equal(batch.features[0, :, :3, :5, :2], first)
    assert torch.equal(batch.features[1, :, :4, :1, :7], second)
    assert batch.features.sum() == pytest.approx((first.sum() + second.sum()).item())
    inside = batch.inside_at(1)
    assert inside.sum((1, 2, 3, 4)).tolist() == [3 * 5 * 2, 4 * 1 * 7]
    assert inside[0, 0, 2, 4, 1]
    assert not inside[0, 0, 3, 4, 1]
    assert GridBatch.collate([first, first]).padding_at(1) is None
    assert GridBatch.collate([first]).inside_at(2).all()


def test_sides_are_rounded_up_to_multiples() -> None:
    grids = [torch.rand(4, 5, 16, 7), torch.rand(4, 8, 3, 9)]
    batch = GridBatch.collate(grids, multiple=8)
    assert batch.shape == (8, 16, 16)
    assert batch.extents == ((5, 16, 7), (8, 3, 9))
    for grid, padded, (x, y, z) in zip(grids, batch.features, batch.extents, strict=True):
        assert torch.equal(padded[:, :x, :y, :z], grid)
        assert padded.sum() == pytest.approx(float(grid.sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("stride", "cells"),
    [
        (1, [(70, 33, 64), (33, 1, 32), (65, 32, 5)]),
        (4, [(18, 9, 16), (9, 1, 8), (17, 8, 2)]),
        (8, [(9, 5, 8), (5, 1, 4), (9, 4, 1)]),
        (16, [(5, 3, 4), (3, 1, 2), (5, 2, 1)]),
        (32, [(3, 2, 2), (2, 1, 1), (3, 1, 1)]),
    ],
)
def test_cells_that_begin_inside_are_inside(stride: int, cells: list[tuple[int, int, int]]) -> None:
    batch = GridBatch(torch.zeros(3, 4, 70, 33, 64), ((70, 33, 64), (33, 1, 32), (65, 32, 5)))
    inside = batch.inside_at(stride)
    assert inside.shape == (3, 1, *cells[0])
    for mask, (x, y, z) in zip(inside[:, 0], cells, strict=True):
        assert mask[:x, :y, :z].all()
        assert mask.sum() == x * y * z
    padding = batch.padding_at(stride)
    assert padding is not None
    assert padding.extents == batch.extents_at(stride) == tuple(cells)
    whole = GridBatch.collate([torch.zeros(4, 70, 33, 64)]).inside_at(stride)
    assert whole.shape[2:] == inside.shape[2:]
    assert whole.all()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_network_input(padded: bool, channels_last: bool) -> None:
    features = torch.rand(2, 4, 5, 6, 7).half()
    batch = GridBatch(features, ((5, 6, 7), (5, 3, 7) if padded else (5, 6, 7)))
    x = batch.network_input(torch.empty(8, 4, 7, 7, 7), channels_last)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format)
    assert torch.equal(x[0], features[0].float())
    assert torch.equal(x[1, :, :, :3], features[1, :, :, :3].float())
    assert bool(x[1, :, :, 3:].any()) is not padded


def test_packed_cells_come_back() -> None:
    extents, shape = ((2, 3, 1), (1, 1, 4)), (2, 3, 4)
    padding = Padding.of(extents, shape, torch.device("cpu"))
    assert padding is not None
    x = torch.rand(2, 5, *shape).masked_fill(padding.outside, 0)
    rows = pack_cells(x, padding)
    assert rows.shape == (2 * 3 * 1 + 4, 5)
    assert torch.equal(rows[4], x[0, :, 1, 1, 0])
    assert torch.equal(rows[7], x[1, :, 0, 0, 1])
    assert torch.equal(unpack_cells(rows, extents, shape), x)
    assert torch.equal(unpack_cells(pack_cells(x, None), (shape, shape), shape), x)


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least one grid"):
        GridBatch.collate([])
    with pytest.raises(ValueError, match="same channels"):
        GridBatch.collate([torch.zeros(4, 2, 2, 2), torch.zeros(3, 2, 2, 2)])
    with pytest.raises(ValueError, match="same channels"):
        GridBatch.collate([torch.zeros(2, 2, 2)])
    with pytest.raises(ValueError, match="must be"):
        GridBatch(torch.zeros(4, 2, 2, 2), ((2, 2, 2),))
    with pytest.raises(ValueError, match="2 extents for 1 grids"):
        GridBatch(torch.zeros(1, 4, 2, 2, 2), ((2, 2, 2), (2, 2, 2)))
    for extent in ((2, 2, 3), (0, 2, 2)):
        with pytest.raises(ValueError, match="does not fit"):
            GridBatch(torch.zeros(1, 4, 2, 2, 2), (extent,))
