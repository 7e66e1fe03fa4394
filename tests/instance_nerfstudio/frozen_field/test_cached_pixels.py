"""Which pixels are cached: all that fit; else boundaries, small instances and an even sample of the rest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instance_nerfstudio.frozen_field.cached_pixels import CachedPixels, choose_pixels
from instance_nerfstudio.masks.instance_masks import UNLABELLED, read_instance_mask, write_instance_mask

CPU = torch.device("cpu")


def choose(pipeline, budget: int, shares=(0.5, 0.25)) -> CachedPixels:
    torch.manual_seed(0)
    dataset = pipeline.datamanager.train_dataset
    chosen = choose_pixels(dataset, pipeline.model.instance_head.targets, budget, shares, radius=2, device=CPU)
    assert chosen is not None
    return chosen


def test_everything_labelled_is_kept_where_it_fits(make_pipeline, scene):
    mask = scene / "instance_masks/1.png"
    labels = read_instance_mask(mask)
    labels[:5] = UNLABELLED
    write_instance_mask(mask, labels)
    pipeline = make_pipeline(scene)
    chosen = choose(pipeline, 10**6)
    assert len(chosen.pixels) == 4 * labels.size - 5 * labels.shape[1]
    assert all(pool.numel() == len(chosen.pixels) for pool in (chosen.pools[0], chosen.pools[2]))
    ids = pipeline.model.instance_head.instance_ids
    for image in range(4):
        truth = torch.from_numpy(read_instance_mask(scene / f"instance_masks/{image}.png"))
        mine = chosen.pixels[:, 0] == image
        _, row, column = chosen.pixels[mine].unbind(-1)
        assert torch.equal(ids[chosen.targets[mine].long()], truth[row.long(), column.long()])
        assert mine.sum() == (truth != UNLABELLED).sum()


def test_pixels_that_nerfstudio_masks_out(make_pipeline, scene, edit_transforms):
    allowed = np.zeros((24, 32), dtype=np.uint8)
    allowed[:, 20:] = 255
    (scene / "masks").mkdir()
    Image.fromarray(allowed).save(scene / "masks/m.png")
    edit_transforms(scene, lambda meta: [frame.update(mask_path="masks/m.png") for frame in meta["frames"]])
    chosen = choose(make_pipeline(scene), 10**6)
    assert len(chosen.pixels) == 4 * 24 * 12
    assert chosen.pixels[:, 2].min() == 20


def test_a_small_budget_is_shared_out(make_pipeline):
    pipeline = make_pipeline()
    whole, part = choose(pipeline, 10**6), choose(pipeline, 600)
    assert 400 < len(part.pixels) <= 660
    assert len(part.pixels.unique(dim=0)) == len(part.pixels)
    anywhere, boundary, balanced = (len(pool) / len(part.pixels) for pool in part.pools)
    assert boundary > anywhere
    assert balanced > anywhere * 0.7
    # Pixels near boundaries are those of the whole, only fewer.
    near = {tuple(pixel) for pixel in whole.pixels[whole.pools[1]].tolist()}
    assert {tuple(pixel) for pixel in part.pixels[part.pools[1]].tolist()} <= near
    share = torch.bincount(part.targets[part.pools[0]]).float() / len(part.pools[0])
    truth = torch.bincount(whole.targets).float() / len(whole.targets)
    torch.testing.assert_close(share, truth, atol=0.12, rtol=0)
    even = torch.bincount(part.targets[part.pools[2]]).float()
    assert even.max() < 2 * even.min()


@pytest.mark.parametrize("budget", [600, 10**6])
def test_draws(make_pipeline, budget):
    chosen = choose(make_pipeline(), budget)
    torch.manual_seed(1)
    rows = chosen.draw(8000, (0.5, 0.25))
    assert rows.shape == (8000,)
    near, balanced, anywhere = rows[:4000], rows[4000:6000], rows[6000:]
    assert set(near.tolist()) <= set(chosen.pools[1].tolist())
    assert set(anywhere.tolist()) <= set(chosen.pools[0].tolist())
    counts = torch.bincount(chosen.targets[balanced]).float()
    torch.testing.assert_close(counts / 2000, torch.full((3,), 1 / 3), atol=0.05, rtol=0)
    # Every pixel of its class has its turn: about as many different ones as chance allows.
    assert len(balanced.unique()) > 0.5 * min(2000, len(chosen.pools[2]))


def test_scene_without_boundaries_or_labels(make_pipeline, scene: Path):
    pipeline = make_pipeline(scene)
    for image in range(4):
        write_instance_mask(scene / f"instance_masks/{image}.png", np.zeros((24, 32), dtype=np.int32))
    chosen = choose(pipeline, 500)
    assert len(chosen.pools[1]) == 0
    assert (chosen.targets[chosen.draw(64, (0.5, 0.25))] == 0).all()
    for image in range(4):
        write_instance_mask(scene / f"instance_masks/{image}.png", np.full((24, 32), UNLABELLED, dtype=np.int32))
    dataset = pipeline.datamanager.train_dataset
    assert choose_pixels(dataset, pipeline.model.instance_head.targets, 500, (0.5, 0.25), 2, CPU) is None
