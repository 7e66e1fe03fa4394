"""Masks that are judged anew voxel by voxel, with the grid's opacity."""

import pytest
import torch

from rcnn.instances import REFINEMENT_WEIGHTS, paste_masks, paste_refined_masks
from rcnn.instances.refine_masks import MASK_RADII, opacity_means, smoothed_masks, voxel_traits

SHAPE = (24, 20, 18)
# Wider than a cell of a mask, and not along its cells' borders.
BOXES = torch.tensor([[2.0, 3.0, 1.0, 18.0, 15.0, 13.0], [10.3, 4.1, 2.2, 22.9, 17.7, 15.4]])


ALL = (-3.5, 4.0, *[0.2] * (REFINEMENT_WEIGHTS - 2))
"""Weights by which everything counts."""


def only(trait: int, factor: float, constant: float) -> list[float]:
    """Weights by which one trait alone decides."""
    weights = [0.0] * REFINEMENT_WEIGHTS
    weights[0], weights[1 + trait] = constant, factor
    return weights


def random_masks(cells: int = 8) -> torch.Tensor:
    return torch.rand(2, cells, cells, cells, generator=torch.Generator().manual_seed(0))


def test_by_the_mask_alone_it_is_as_it_was_pasted() -> None:
    masks = random_masks()
    expected = paste_masks(masks, BOXES, SHAPE, 0.6)
    refined, sure = paste_refined_masks(masks, BOXES, torch.zeros(SHAPE), only(0, 50.0, -30.0), 0.5)
    assert torch.equal(refined.dense(), expected.dense())
    assert ((sure > 0.5) & (sure <= 1)).all()


def test_where_a_mask_is_vague_the_grid_decides() -> None:
    matter = torch.zeros(SHAPE)
    matter[5:9, 6:10, 3:7] = 1
    refined, _ = paste_refined_masks(torch.full((1, 8, 8, 8), 0.5), BOXES[:1], matter, only(4, 10.0, -5.0))
    assert torch.equal(refined.dense()[0], matter > 0)


def test_what_no_mask_reaches_stays_out_whatever_the_grid_holds() -> None:
    masks = torch.zeros(1, 8, 8, 8)
    masks[:, :2] = 1
    refined, sure = paste_refined_masks(masks, BOXES[:1], torch.ones(SHAPE), only(4, 10.0, 5.0))
    x = refined.dense()[0].nonzero()[:, 0]
    assert int(x.max()) <= 8, "the mask ends before 6, its blurred border and a cube of 3 voxels before 9"
    assert len(x) > 4 * 12 * 12
    assert sure[0] > 0.99
    nothing, sure = paste_refined_masks(masks * 0, BOXES[:1], torch.ones(SHAPE), only(4, 10.0, 5.0))
    assert nothing.counts.tolist() == [0]
    assert sure.tolist() == [0]
    assert len(paste_refined_masks(masks[:0], BOXES[:0], torch.ones(SHAPE), only(0, 1.0, 0.0))[0]) == 0


def test_means_of_masks_are_those_of_cubes_of_voxels() -> None:
    # A box whose cells are voxels: the mean over a cube of voxels, and nothing outside.
    masks, box = random_masks(10)[:1], torch.tensor([[3.0, 3.0, 3.0, 13.0, 13.0, 13.0]])
    smooth = smoothed_masks(masks, box)
    for channel, radius in enumerate(MASK_RADII, start=1):
        expected = torch.nn.functional.avg_pool3d(masks[None], 2 * radius + 1, 1, radius)[0]
        assert torch.allclose(smooth[..., channel], expected, atol=1e-6)
    turned = torch.tensor([[8.0, 8.0, 8.0, 10.0, 10.0, 10.0, 0.5]])
    assert torch.allclose(smoothed_masks(masks, turned), smooth, atol=1e-6)


def test_an_obb_along_the_axes_is_an_aabb() -> None:
    masks, opacity = random_masks(), torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    centre, sides = (BOXES[:, :3] + BOXES[:, 3:]) / 2, BOXES[:, 3:] - BOXES[:, :3]
    obb = torch.cat([centre, sides, torch.zeros(2, 1)], 1)
    aligned, sure = paste_refined_masks(masks, BOXES, opacity, ALL)
    turned, sure_turned = paste_refined_masks(masks, obb, opacity, ALL)
    assert aligned.counts.min() > 0
    assert aligned.iou(turned).diagonal().min() > 0.99
    assert torch.allclose(sure, sure_turned, atol=1e-3)


def test_as_many_weights_as_traits() -> None:
    traits = voxel_traits(torch.rand(5, 4), opacity_means(torch.rand(SHAPE))[:5])
    assert traits.shape == (5, REFINEMENT_WEIGHTS - 1)
    with pytest.raises(ValueError, match="23 weights"):
        paste_refined_masks(random_masks(), BOXES, torch.ones(SHAPE), [1.0, 2.0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_refines_like_the_cpu() -> None:
    masks, opacity = random_masks(), torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    expected, sure = paste_refined_masks(masks, BOXES, opacity, ALL)
    with torch.autocast("cuda", torch.bfloat16):
        found, sure_cuda = paste_refined_masks(masks.cuda(), BOXES.cuda(), opacity.cuda(), ALL)
    assert found.to("cpu").iou(expected).diagonal().min() > 0.999
    assert torch.allclose(sure_cuda.cpu(), sure, atol=1e-4)
