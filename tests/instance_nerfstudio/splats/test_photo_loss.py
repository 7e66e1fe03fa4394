"""The loss of photos against the library that splatfacto takes it from."""

import pytest
import torch
from pytorch_msssim import SSIM

from instance_nerfstudio.splats.photo_loss import depth_loss, photo_loss, structural_similarity


def _pictures(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    photo = torch.rand(height, width, 3, generator=random, dtype=torch.float64)
    noise = torch.rand(height, width, 3, generator=random, dtype=torch.float64)
    return (0.7 * photo + 0.3 * noise).requires_grad_(), photo


@pytest.mark.parametrize("size", [(40, 57), (11, 30)])
def test_structural_similarity_is_that_of_the_library(size: tuple[int, int]) -> None:
    picture, photo = _pictures(*size)
    library = SSIM(data_range=1.0, size_average=True, channel=3)
    expected = library(photo.permute(2, 0, 1)[None], picture.permute(2, 0, 1)[None])
    (expected_gradient,) = torch.autograd.grad(expected, picture)
    got = structural_similarity(picture, photo)
    (gradient,) = torch.autograd.grad(got, picture)
    assert 0.2 < float(expected.detach()) < 0.95
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)  # its window is in single precision
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-7)


def test_a_side_shorter_than_the_window_is_not_smoothed() -> None:
    picture, photo = _pictures(5, 30)
    library = SSIM(data_range=1.0, size_average=True, channel=3)
    with pytest.warns(UserWarning, match="Skipping Gaussian Smoothing"):
        expected = library(photo.permute(2, 0, 1)[None], picture.permute(2, 0, 1)[None])
    torch.testing.assert_close(structural_similarity(picture, photo), expected, rtol=0, atol=1e-6)


def test_loss_of_the_same_picture_is_zero() -> None:
    _, photo = _pictures(20, 20)
    assert abs(float(photo_loss(photo, photo, 0.2))) < 1e-12
    assert float(photo_loss(1 - photo, photo, 0.0)) == pytest.approx(float((1 - 2 * photo).abs().mean()))


def test_depth_loss_is_a_share_of_known_depths() -> None:
    target = torch.tensor([2.0, 4.0, 0.0, 1.0]).view(2, 2, 1)
    depth = torch.tensor([3.0, 3.0, 5.0, 100.0]).view(2, 2, 1).requires_grad_()
    loss = depth_loss(depth, target)
    assert float(loss) == pytest.approx((0.5 + 0.25 + 0 + 1) / 4)
    loss.backward()
    assert depth.grad is not None
    torch.testing.assert_close(depth.grad.flatten(), torch.tensor([0.125, -0.0625, 0.0, 0.0]))
