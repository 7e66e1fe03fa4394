"""Random changes: what they may do, that they repeat, and that boxes follow them."""

import math

import numpy as np
import pytest
import torch

from rcnn.boxes import aabb_to_obb
from rcnn.data import LIKE_FIELDS, NO_AUGMENTATION, AugmentationConfig, augment
from rcnn.data.appearance import add_floaters_, jitter_colour_, jitter_density_
from rcnn.data.augment import draw_transform

SHAPE = (12, 9, 7)
BOXES = torch.tensor([[2.0, 1, 0, 5, 4, 3], [6, 5, 2, 11, 8, 7]])


def features(seed: int = 0) -> torch.Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(seed))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_defaults_are_those_of_the_paper():
    """Quarter turn and flips one half each; small turns with scaling one half, but only with OBBs."""
    draws = {
        rotated: [draw_transform(AugmentationConfig(), rotated, rng(seed)) for seed in range(400)]
        for rotated in (False, True)
    }
    for rotated, moves in draws.items():
        for part in ("quarter_turns", "flip_x", "flip_y"):
            assert 0.42 < np.mean([getattr(move, part) for move in moves]) < 0.58
        assert {move.quarter_turns for move in moves} == {0, 1}
        share = np.mean([move.resamples for move in moves])
        assert 0.42 < share < 0.58 if rotated else share == 0
    angles = np.degrees([move.angle for move in draws[True] if move.resamples])
    scales = np.array([move.scale for move in draws[True] if move.resamples])
    assert -10 <= angles.min() < -8 < 8 < angles.max() <= 10
    assert 0.9 <= scales.min() < 0.92 < 1.08 < scales.max() <= 1.1
    # One choice does not change others.
    pairs = zip(draws[False], draws[True], strict=True)
    assert all((a.quarter_turns, a.flip_x, a.flip_y) == (b.quarter_turns, b.flip_x, b.flip_y) for a, b in pairs)


def test_the_same_state_gives_the_same_scene_and_input_stays():
    config = AugmentationConfig(1, 0.5, 1, 1, density_probability=1, floater_probability=1, colour_probability=1)
    for boxes in (BOXES, aabb_to_obb(BOXES)):
        given, kept = features(), boxes.clone()
        ids = torch.randint(0, 3, SHAPE, dtype=torch.int32)
        first, second, other = (augment(config, given, boxes, rng(seed), None, ids, boxes) for seed in (3, 3, 4))
        for one, two in zip(first, second, strict=True):
            assert one is not None
            assert two is not None
            assert torch.equal(one, two)
        assert not torch.equal(first[0], other[0])
        assert torch.equal(given, features())
        assert torch.equal(boxes, kept)
        assert first[0].shape == (4, 9, 12, 7)
        assert first[0].is_contiguous()
        assert 0 <= first[0].min() <= first[0].max() <= 1
    same = augment(NO_AUGMENTATION, features(), BOXES, rng())
    assert torch.equal(same[0], features())
    assert torch.equal(same[1], BOXES)


@pytest.mark.parametrize("rotated", [False, True])
def test_objects_are_found_in_their_boxes_afterwards(rotated: bool):
    """Each object has an opacity of its own; its weighted centre is that of its box."""
    grid = torch.zeros(4, 40, 30, 20)
    boxes = torch.tensor([[8.0, 9, 4, 16, 13, 9], [22, 15, 6, 28, 24, 16]])
    for level, box in enumerate(boxes.int().tolist()):
        grid[(level, *(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True)))] = 1
    config = AugmentationConfig(0.5, 0.5, 1.0, 1.0)
    for seed in range(12):
        moved, found, keep, *_ = augment(config, grid, aabb_to_obb(boxes) if rotated else boxes, rng(seed))
        assert keep.all()
        centers = found[:, :3] if rotated else 0.5 * (found[:, :3] + found[:, 3:])
        for level, center in enumerate(centers):
            places = moved[level].nonzero()
            weights = moved[level][tuple(places.T)]
            torch.testing.assert_close((places + 0.5).T @ weights / weights.sum(), center, atol=0.05, rtol=0)


def test_empty_scenes_are_augmented_too():
    for columns in (6, 7):
        moved, boxes, keep, *_ = augment(LIKE_FIELDS, features(), torch.zeros(0, columns), rng())
        assert boxes.shape == (0, columns)
        assert len(keep) == 0
        assert moved.isfinite().all()


def test_density_by_hand():
    grid = torch.zeros(4, 2, 1, 1)
    grid[:, 0, 0, 0] = torch.tensor([0.2, 0.4, 0.6, 0.75])
    twice = jitter_density_(grid.clone(), math.log(2), 0, rng())
    torch.testing.assert_close(twice[:, 0, 0, 0], torch.tensor([0.2, 0.4, 0.6, 1 - 0.25**2]))
    assert not twice[:, 1].any()
    # What is solid may become thinner, too.
    assert 0.9 < float(jitter_density_(torch.ones(4, 1, 1, 1), math.log(0.5), 0, rng())[3]) < 1
    noisy = jitter_density_(torch.full((4, 30, 20, 10), 0.5), 0, 0.3, rng())[3]
    assert 0.05 < noisy.std() < 0.2
    assert (noisy[1:] - noisy[:-1]).abs().max() < 0.2, "neighbours are alike"


def test_colours_by_hand():
    grid = torch.full((4, 1, 1, 2), 0.5)
    grid[:3, 0, 0, 1] = 0.7
    torch.testing.assert_close(
        jitter_colour_(grid.clone(), np.array([1.0, 0.5, 2]), 1)[:3, 0, 0, 0], torch.tensor([0.5, 0.25, 1])
    )
    spread = jitter_colour_(grid.clone(), np.ones(3), 2)
    torch.testing.assert_close(spread[0, 0, 0], torch.tensor([0.4, 0.8]))
    assert torch.equal(spread[3], grid[3])


def test_floaters_are_fog_in_few_places():
    grid = features()
    grid[3] = 0
    foggy = add_floaters_(grid.clone(), 1, (1.5, 1.5), rng(2))
    assert 0 < (foggy != grid).any(0).float().mean() < 0.3
    assert 0.05 < foggy[3].max() <= 0.8
    # Nothing becomes clearer, and what is solid keeps its colour mostly.
    grid[3] = 1
    solid = add_floaters_(grid.clone(), 20, (1.5, 6), rng())
    assert torch.equal(solid[3], grid[3])
    assert (solid[:3] - grid[:3]).abs().mean() < 0.25


def test_settings_that_cannot_be():
    makers = (
        lambda: AugmentationConfig(flip_probability=1.5),
        lambda: AugmentationConfig(scale_range=(1.1, 0.9)),
        lambda: AugmentationConfig(floater_radii=(0, 1)),
        lambda: AugmentationConfig(max_turn=90),
        lambda: AugmentationConfig(colour_gain=1),
        lambda: AugmentationConfig(density_noise=-1),
    )
    for make in makers:
        with pytest.raises(ValueError, match="must"):
            make()
