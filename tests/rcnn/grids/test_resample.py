"""Grids as a detector sees them, at other resolutions."""

import pytest
import torch

from rcnn.grids.resample import resample_features


def test_opacity_is_that_of_the_new_edge() -> None:
    features = torch.full((4, 8, 6, 4), 0.5)
    coarse = resample_features(features, (4, 3, 2))
    torch.testing.assert_close(coarse[:3], torch.full((3, 4, 3, 2), 0.5))
    # Twice the way through the same density.
    torch.testing.assert_close(coarse[3], torch.full((4, 3, 2), 0.75))
    torch.testing.assert_close(resample_features(coarse, (8, 6, 4)), features)


def test_colours_of_empty_space_stay_there() -> None:
    features = torch.zeros(4, 4, 4, 4)
    features[1] = 1  # green and empty
    features[:, ::2] = torch.tensor([1.0, 0, 0, 0.9])[:, None, None, None]  # but for every other layer
    coarse = resample_features(features, (2, 2, 2))
    assert (coarse[0] > 0.99).all()
    assert (coarse[1] < 0.01).all()
    # Half the way through a density that lets a tenth through, per edge of before.
    torch.testing.assert_close(coarse[3], torch.full((2, 2, 2), 0.9))
    assert torch.isfinite(resample_features(torch.ones(4, 4, 4, 4), (3, 3, 2))).all()


@pytest.mark.parametrize(("shape", "tolerance"), [((5, 4, 3), 0.04), ((40, 30, 21), 0.01)])
def test_matter_stays_in_its_place(shape: tuple[int, int, int], tolerance: float) -> None:
    features = torch.zeros(4, 20, 15, 10)
    features[:, 8:16, 3:9, 2:6] = 0.8
    # Opacity of one and the same length.
    thickness = -torch.log1p(-resample_features(features, shape)[3])
    centre = [
        float((thickness.sum([a for a in range(3) if a != axis]) * (torch.arange(n) + 0.5)).sum() / thickness.sum() / n)
        for axis, n in enumerate(shape)
    ]
    torch.testing.assert_close(torch.tensor(centre), torch.tensor([12 / 20, 6 / 15, 4 / 10]), atol=tolerance, rtol=0)


def test_the_same_resolution_is_the_same_grid() -> None:
    features = torch.rand(4, 3, 4, 5)
    assert resample_features(features, (3, 4, 5)) is features
