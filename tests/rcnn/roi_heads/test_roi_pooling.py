"""Features of boxes do not depend on what else is in the batch."""

import pytest
import torch
from torch import Tensor

from rcnn.backbones import GridBatch
from rcnn.boxes import aabb_to_obb
from rcnn.roi_heads import RoIHeads, RoIHeadsConfig, RoIPoolingConfig, extend_edges, pool_rois

STRIDES = (4, 8)
EXTENTS = ((36, 24, 17), (40, 16, 24))
# Inside the grids, and up to their far walls.
BOXES = (
    torch.tensor([[3.0, 2, 1, 20, 15, 9], [17, 11, 4, 36, 24, 17], [30, 0, 12, 35.5, 24, 17]]),
    torch.tensor([[25.0, 3, 8, 40, 16, 24]]),
)


def maps(extent: tuple[int, ...], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 5, *(-(-n // stride) for n in extent), generator=generator) for stride in STRIDES]


def padded(batch: GridBatch, each: list[list[Tensor]]) -> list[Tensor]:
    """Maps of all grids in one, with zeros for padding."""
    result = []
    for level, stride in enumerate(STRIDES):
        shape = [-(-n // stride) for n in batch.shape]
        whole = torch.zeros(len(each), 5, *shape)
        for n, parts in enumerate(each):
            x, y, z = parts[level].shape[2:]
            whole[n, :, :x, :y, :z] = parts[level][0]
        result.append(whole)
    return result


@pytest.mark.parametrize("canonical", [160.0, 20.0])
def test_padding_does_not_change_features(canonical: float) -> None:
    config = RoIPoolingConfig(canonical_scale=canonical, canonical_level=3)
    batch = GridBatch.collate([torch.zeros(4, *extent) for extent in EXTENTS])
    each = [maps(extent, seed) for seed, extent in enumerate(EXTENTS)]
    whole = padded(batch, each)
    extended = [extend_edges(x, batch.padding_at(stride)) for x, stride in zip(whole, STRIDES, strict=True)]
    together = pool_rois(config, extended, BOXES, 3, batch, STRIDES)
    single = [GridBatch.collate([torch.zeros(4, *extent)]) for extent in EXTENTS]
    alone = torch.cat(
        [pool_rois(config, m, [b], 3, one, STRIDES) for m, b, one in zip(each, BOXES, single, strict=True)]
    )
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(pool_rois(config, whole, BOXES, 3, batch, STRIDES), alone), "walls matter"
    rotated = pool_rois(config, extended, [aabb_to_obb(b) for b in BOXES], 3, batch, STRIDES)
    torch.testing.assert_close(rotated, alone)


@pytest.mark.parametrize("mode", ["roi_align", "crop_and_resize"])
def test_boxes_over_walls_and_other_samplings(mode: str) -> None:
    config = RoIPoolingConfig(20.0, 3, mode=mode)  # type: ignore[arg-type]
    boxes = BOXES if mode == "crop_and_resize" else [aabb_to_obb(b + torch.tensor([0.0, 0, 0, 9, 9, 9])) for b in BOXES]
    batch = GridBatch.collate([torch.zeros(4, *extent) for extent in EXTENTS])
    each = [maps(extent, seed) for seed, extent in enumerate(EXTENTS)]
    extended = [
        extend_edges(x, batch.padding_at(stride)) for x, stride in zip(padded(batch, each), STRIDES, strict=True)
    ]
    for n, extent in enumerate(EXTENTS):
        one = GridBatch.collate([torch.zeros(4, *extent)])
        alone = pool_rois(config, each[n], [boxes[n]], 3, one, STRIDES)
        first = 0 if n == 0 else len(boxes[0])
        together = pool_rois(config, extended, boxes, 3, batch, STRIDES)[first : first + len(boxes[n])]
        torch.testing.assert_close(together, alone)


def test_edges_have_gradients() -> None:
    batch = GridBatch.collate([torch.zeros(4, *extent) for extent in EXTENTS])
    x = torch.randn(2, 3, 10, 6, 6, dtype=torch.double, requires_grad=True)
    padding = batch.padding_at(4)
    assert torch.autograd.gradcheck(lambda values: extend_edges(values, padding), x)
    out = extend_edges(x, padding)
    assert torch.equal(out[1, :, :, 4, :6], x[1, :, :, 3, :6])
    assert torch.equal(out[0, :, :9, :6, 5], x[0, :, :9, :6, 4])
    assert extend_edges(x, None) is x


def test_rotated_boxes_have_one_sampling() -> None:
    config = RoIHeadsConfig(RoIPoolingConfig(mode="crop_and_resize"))
    with pytest.raises(ValueError, match="OBBs have no crop_and_resize"):
        RoIHeads(config, 8, STRIDES, 2, rotated=True)
