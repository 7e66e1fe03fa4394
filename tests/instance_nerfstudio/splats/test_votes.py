"""Votes of labelled views against weights written out, pixel by pixel and Gaussian by Gaussian."""

import pytest
import torch
from naive_splats import INTRINSICS, naive_picture, random_scene
from torch import Tensor

from instance_nerfstudio.splats.gaussians import Gaussians
from instance_nerfstudio.splats.rasterize import Picture, rasterize
from instance_nerfstudio.splats.votes import view_votes

CAMERA = torch.tensor(INTRINSICS, dtype=torch.float64)
WIDTH, HEIGHT, COUNT = 33, 18, 60


def view(gaussians: Gaussians, viewmat: Tensor) -> Picture:
    return rasterize(
        gaussians, gaussians.means, viewmat, CAMERA, WIDTH, HEIGHT,
        sh_degree=None, depth=False, absgrad=False, antialiased=False, rasterizer="reference",
    )  # fmt: skip


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(-1, 75, (HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0), dtype=torch.int32)


def test_votes_are_sums_of_weights(labels: Tensor) -> None:
    gaussians, viewmat = random_scene(COUNT)
    weights = naive_picture(gaussians, viewmat, CAMERA, WIDTH, HEIGHT).weights
    expected = torch.stack([weights[labels == index].sum(dim=0) for index in range(80)], dim=-1)
    assert (labels == -1).any()
    with torch.no_grad():
        votes = view_votes(view(gaussians, viewmat), labels, 80)
    torch.testing.assert_close(votes, expected)
    assert not votes[:, 75:].any()


def test_all_labelled_pixels_share_the_accumulation(labels: Tensor) -> None:
    picture = view(*random_scene(COUNT))
    votes = view_votes(picture, labels, 75)
    for index in range(75):
        accumulated = picture.accumulation[..., 0][labels == index].sum()
        torch.testing.assert_close(votes[:, index].sum(), accumulated)


def test_votes_of_views_add_up_in_place(labels: Tensor) -> None:
    gaussians, viewmat = random_scene(COUNT)
    there, turned = view(gaussians, viewmat), view(gaussians, torch.eye(4, dtype=torch.float64))
    votes = view_votes(there, labels, 75)
    expected = votes + view_votes(turned, labels, 75)
    assert view_votes(turned, labels, 75, out=votes) is votes
    torch.testing.assert_close(votes, expected)


def test_gaussians_out_of_view_have_no_votes() -> None:
    gaussians, viewmat = random_scene(COUNT)
    picture = view(gaussians, viewmat)
    unseen = picture.info["radii"][0] == 0
    assert 0 < unseen.sum() < COUNT
    votes = view_votes(picture, torch.zeros(HEIGHT, WIDTH, dtype=torch.int64), 1)
    assert not votes[unseen].any()
    assert votes[~unseen].any()


def test_unlabelled_views_give_nothing() -> None:
    picture = view(*random_scene(COUNT))
    votes = view_votes(picture, torch.full((HEIGHT, WIDTH), -1, dtype=torch.int32), 3)
    assert votes.shape == (COUNT, 3)
    assert not votes.any()


def test_masks_that_do_not_fit_are_refused(labels: Tensor) -> None:
    picture = view(*random_scene(COUNT))
    with pytest.raises(ValueError, match="class 74 among the pixels, but there are only 74"):
        view_votes(picture, labels, 74)
    with pytest.raises(ValueError, match="the picture has"):
        view_votes(picture, labels[1:], 75)
