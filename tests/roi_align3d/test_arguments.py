"""What odd boxes give and what wrong arguments raise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from roi_align3d import multiscale_roi_align_3d, roi_align_3d, roi_align_rotated_3d

GRID = torch.ones(2, 3, 4, 5, 6)
BOX = [0.0, 1, 1, 1, 3, 3, 3]
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e30, -3e38, 2.0**21])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
@pytest.mark.parametrize("rotated", [False, True])
def test_unusable_boxes_give_zeros(value: float, sampling_ratio: int, rotated: bool) -> None:
    columns = range(1, 8 if (rotated and abs(value) in (INF, NAN)) or value != value else 7)
    rows = []
    for column in columns:
        row = [0.0, 2, 2, 2, 2, 2, 2, 0.5] if rotated else list(BOX)
        if column < len(row):
            row[column] = value
        rows.append(row)
    rows = [row for row in rows if value in row or any(number != number for number in row)]
    boxes = torch.tensor(rows).requires_grad_()
    grid = GRID.clone().requires_grad_()
    pool = roi_align_rotated_3d if rotated else roi_align_3d
    pooled = pool(grid, boxes, 2, sampling_ratio=sampling_ratio)
    pooled.sum().backward()
    assert grid.grad is not None
    assert boxes.grad is not None
    for zeros in (pooled, grid.grad, boxes.grad):
        assert zeros.eq(0).all()


@pytest.mark.parametrize("mode", ["roi_align", "crop_and_resize"])
def test_unusable_boxes_do_not_disturb_others(mode: str) -> None:
    boxes = torch.tensor([BOX, [1, NAN, 1, 1, 3, 3, 3], BOX])
    pooled = roi_align_3d(GRID, boxes, 2, mode=mode)
    assert pooled[1].eq(0).all()
    assert torch.equal(pooled[[0, 2]], roi_align_3d(GRID, boxes[[0, 2]], 2, mode=mode))


def test_boxes_off_the_grid_give_zeros() -> None:
    boxes = torch.tensor([[0.0, -9, 1, 1, -5, 3, 3], [0, 1, 20, 1, 3, 24, 3], [1, 1, 1, 99, 3, 3, 120]])
    for sampling_ratio in (-1, 2):
        assert roi_align_3d(GRID, boxes, 2, sampling_ratio=sampling_ratio).eq(0).all()


def test_empty_and_inverted_boxes() -> None:
    empty = torch.tensor([[0.0, 2, 2, 2, 2, 2, 2]])
    inverted = torch.tensor([[0.0, 3, 1, 1, 1, 3, 3]])
    assert roi_align_3d(GRID, empty, 2).eq(0).all(), "no adaptive samples"
    assert roi_align_3d(GRID, inverted, 2).eq(0).all()
    assert roi_align_3d(GRID, empty, 2, sampling_ratio=1).eq(1).all(), "all samples on one point"
    assert roi_align_3d(GRID, empty, 2, aligned=False).eq(1).all(), "enlarged to a voxel"
    ramp = torch.arange(4.0)[None, None, :, None, None].expand(1, 1, 4, 5, 6)
    mirrored = roi_align_3d(ramp, inverted, (2, 1, 1), sampling_ratio=1)
    torch.testing.assert_close(mirrored, roi_align_3d(ramp, torch.tensor([BOX]), (2, 1, 1), sampling_ratio=1).flip(2))


@pytest.mark.parametrize("index", [2.0, -1.0, 0.5, NAN, INF, 1e20])
def test_batch_index_has_to_name_a_grid(index: float) -> None:
    with pytest.raises(ValueError, match="RoI 1 of 2 has batch index"):
        roi_align_3d(GRID, torch.tensor([BOX, [index, *BOX[1:]]]), 2)


@pytest.mark.parametrize(("boxes", "channels"), [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("rotated", [False, True])
def test_nothing_to_pool(boxes: int, channels: int, rotated: bool) -> None:
    grid = GRID[:, :channels].clone().requires_grad_()
    row = [*BOX, 0.1] if rotated else BOX
    rois = torch.tensor([row] * boxes).reshape(boxes, len(row)).requires_grad_()
    pooled = (roi_align_rotated_3d if rotated else roi_align_3d)(grid, rois, (2, 3, 4))
    assert pooled.shape == (boxes, channels, 2, 3, 4)
    pooled.sum().backward()
    assert grid.grad is not None
    assert rois.grad is not None
    assert grid.grad.shape == grid.shape
    assert rois.grad.eq(0).all()


def test_no_grids_and_no_boxes() -> None:
    assert roi_align_3d(GRID[:0], [], 2).shape == (0, 3, 2, 2, 2)
    assert roi_align_3d(GRID, [torch.zeros(0, 6), torch.zeros(0, 6)], 2).shape == (0, 3, 2, 2, 2)
    with pytest.raises(ValueError, match="0 grids"):
        roi_align_3d(GRID[:0], torch.tensor([BOX]), 2)


ROIS = torch.tensor([BOX])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roi_align_3d(GRID[0], ROIS, 2), r"\[3, 4, 5, 6\]"),
        (lambda: roi_align_3d(GRID[..., :0], ROIS, 2), r"\[2, 3, 4, 5, 0\]"),
        (lambda: roi_align_3d(GRID.int(), ROIS, 2), "int32"),
        (lambda: roi_align_3d(GRID, ROIS[:, :6], 2), r"\[K, 7\], not \[1, 6\]"),
        (lambda: roi_align_3d(GRID, ROIS[0], 2), r"\[K, 7\], not \[7\]"),
        (lambda: roi_align_3d(GRID, ROIS.long(), 2), "int64"),
        (lambda: roi_align_3d(GRID, ROIS.to("meta"), 2), r"\[1, 7\] are on meta"),
        (lambda: roi_align_3d(GRID, [ROIS[:, 1:]], 2), r"1 tensors of boxes .* \[2, 3, 4, 5, 6\]"),
        (lambda: roi_align_3d(GRID, [ROIS, ROIS], 2), r"\[L, 6\], not \[1, 7\]"),
        (lambda: roi_align_3d(GRID, ROIS, 0), "output_size .* 0"),
        (lambda: roi_align_3d(GRID, ROIS, (2, 2)), r"\(2, 2\)"),
        (lambda: roi_align_3d(GRID, ROIS, 2, 0.0), "0.0"),
        (lambda: roi_align_3d(GRID, ROIS, 2, NAN), "nan"),
        (lambda: roi_align_3d(GRID, ROIS, 2, mode="max"), "'max'"),
        (lambda: roi_align_3d(GRID, ROIS, 2, sampling_ratio=1.5), "1.5"),  # pyright: ignore[reportArgumentType]
        (lambda: roi_align_rotated_3d(GRID, ROIS, 2), r"\[K, 8\], not \[1, 7\]"),
        (lambda: multiscale_roi_align_3d([], ROIS, 2, []), "at least one"),
        (lambda: multiscale_roi_align_3d([GRID, GRID], ROIS, 2, [1.0]), "1 spatial_scales for 2"),
        (lambda: multiscale_roi_align_3d([GRID, GRID], ROIS, 2, [0.5, 1]), r"descend: \[0.5, 1\]"),
        (lambda: multiscale_roi_align_3d([GRID, GRID[:1]], ROIS, 2, [1, 0.5]), r"\[1, 3, 4, 5, 6\]"),
        (lambda: multiscale_roi_align_3d([GRID, GRID.half()], ROIS, 2, [1, 0.5]), "float16"),
        (
            lambda: multiscale_roi_align_3d([GRID], ROIS, 2, [1.0], mode="crop_and_resize", rotated=True),
            "crop_and_resize",
        ),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_tensor_is_a_type_error() -> None:
    for call in (
        lambda: roi_align_3d([[1.0]], ROIS, 2),  # pyright: ignore[reportArgumentType]
        lambda: roi_align_3d(GRID, "boxes", 2),  # pyright: ignore[reportArgumentType]
        lambda: roi_align_3d(GRID, [[BOX], [BOX]], 2),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(TypeError):
            call()
