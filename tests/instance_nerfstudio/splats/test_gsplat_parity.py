"""gsplat's kernels against the plain torch reference, which the other tests hold against formulas."""

from typing import Any

import pytest
import torch
from naive_splats import random_scene
from torch import Tensor

from instance_nerfstudio.splats.gaussians import Gaussians
from instance_nerfstudio.splats.gsplat_ready import why_gsplat_cannot_run
from instance_nerfstudio.splats.rasterize import Picture, Rasterizer, rasterize
from instance_nerfstudio.splats.votes import view_votes

pytestmark = pytest.mark.gpu

COUNT, WIDTH, HEIGHT = 400, 150, 101
INTRINSICS = torch.tensor([[160.0, 0, 75.5], [0, 150.0, 51.0], [0, 0, 1]])


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    if why := why_gsplat_cannot_run():
        pytest.skip(why)


def leaves() -> list[Tensor]:
    """Means, quaternions, scales, opacities, harmonics of degree 2 and a camera, in float32 on the GPU."""
    gaussians, viewmat = random_scene(COUNT, dtype=torch.float32)
    harmonics = 0.4 * torch.randn(COUNT, 9, 3, generator=torch.Generator().manual_seed(1))
    tensors = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, harmonics, viewmat]
    return [tensor.cuda().requires_grad_() for tensor in tensors]


def draw(inputs: list[Tensor], rasterizer: Rasterizer, **options: Any) -> Picture:
    defaults: dict[str, Any] = {"sh_degree": 2, "depth": True, "absgrad": False, "antialiased": False}
    return rasterize(
        Gaussians(*inputs[:4]), inputs[4], inputs[5], INTRINSICS.cuda(), WIDTH, HEIGHT,
        **{**defaults, **options}, rasterizer=rasterizer,
    )  # fmt: skip


def assert_alike(got: Tensor, expected: Tensor, error: float = 2e-3) -> None:
    """Alike as a whole.

    Single numbers may differ by more: where an alpha is nearly 1/255, or a pixel nearly finished, rounding decides
    whether a Gaussian counts.
    """
    assert got.shape == expected.shape
    assert got.isfinite().all()
    assert (got - expected).norm() <= error * expected.norm()


def assert_same_picture(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    differences = (got - expected).abs()
    assert differences.quantile(0.99) < 2e-4
    assert differences.max() < 0.05


@pytest.mark.parametrize("antialiased", [False, True])
def test_same_pictures(antialiased: bool) -> None:
    inputs = leaves()
    got, expected = (draw(inputs, name, antialiased=antialiased) for name in ("gsplat", "reference"))
    assert expected.accumulation.mean() > 0.3
    assert_same_picture(got.colours, expected.colours)
    assert_same_picture(got.accumulation, expected.accumulation)
    assert got.depth is not None
    assert expected.depth is not None
    covered = expected.accumulation > 0.05
    assert_same_picture(got.depth[covered], expected.depth[covered])


def test_same_intermediate_results() -> None:
    inputs = leaves()
    got, expected = (draw(inputs, name).info for name in ("gsplat", "reference"))
    seen = expected["radii"] > 0
    assert 0 < seen.sum() < COUNT
    assert ((got["radii"] > 0) != seen).sum() <= 2  # just beside the picture or not
    seen &= got["radii"] > 0
    assert (got["radii"] - expected["radii"])[seen].abs().max() <= 1  # ceil of nearly whole numbers
    for name in ("means2d", "depths", "conics", "opacities"):
        assert got[name].dtype == expected[name].dtype
        torch.testing.assert_close(got[name][seen], expected[name][seen], atol=1e-3, rtol=1e-3)
    for name in ("width", "height", "n_cameras", "gaussian_ids"):
        assert got[name] == expected[name]


@pytest.mark.parametrize("antialiased", [False, True])
def test_same_gradients(antialiased: bool) -> None:
    targets = torch.rand(HEIGHT, WIDTH, 3, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    results = []
    for rasterizer in ("gsplat", "reference"):
        inputs = leaves()
        picture = draw(inputs, rasterizer, absgrad=True, antialiased=antialiased)
        assert picture.depth is not None
        means2d = picture.info["means2d"]
        means2d.retain_grad()
        depth = (picture.depth * picture.accumulation.detach()).sum()
        ((picture.colours - targets).square().sum() + 0.1 * depth + picture.accumulation.square().sum()).backward()
        results.append([*(tensor.grad for tensor in inputs), means2d.grad, means2d.absgrad])
    for got, expected in zip(*results, strict=True):
        assert expected.abs().sum() > 0
        assert_alike(got, expected, 1e-2)


def test_same_composites() -> None:
    for channels in (1, 16, 19, 70):
        values = torch.randn(COUNT, channels, generator=torch.Generator().manual_seed(channels)).cuda()
        results = []
        for rasterizer in ("gsplat", "reference"):
            inputs, leaf = leaves(), values.clone().requires_grad_()
            blended = draw(inputs, rasterizer).composite(leaf)
            blended.square().sum().backward()
            assert all(tensor.grad is None for tensor in inputs)
            assert leaf.grad is not None
            results.append((blended, leaf.grad))
        assert_same_picture(results[0][0], results[1][0])
        assert_alike(results[0][1], results[1][1])


def test_composite_repeats_the_picture() -> None:
    inputs = leaves()
    inputs[4] = torch.randn(COUNT, 5, device="cuda")
    for antialiased in (False, True):
        picture = draw(inputs, "gsplat", sh_degree=None, antialiased=antialiased)
        torch.testing.assert_close(picture.composite(inputs[4]), picture.colours)
        ones = picture.composite(torch.ones(COUNT, 1, device="cuda"))
        torch.testing.assert_close(ones, picture.accumulation, atol=1e-5, rtol=1e-5)


def test_same_votes() -> None:
    labels = torch.randint(-1, 60, (HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    labels = labels.cuda()
    inputs = leaves()
    with torch.no_grad():
        pictures = [draw(inputs, name) for name in ("gsplat", "reference")]
    got, expected = (view_votes(picture, labels, 60) for picture in pictures)
    assert_alike(got, expected)
    unseen = pictures[1].info["radii"][0] == 0
    assert not got[unseen].any()
    labelled = pictures[0].accumulation[..., 0][labels >= 0].sum()
    torch.testing.assert_close(got.sum(), labelled, atol=0, rtol=1e-4)


def test_nothing_to_see() -> None:
    for count in (5, 0):
        inputs = leaves()
        inputs = [tensor.detach()[:count].requires_grad_() for tensor in inputs[:5]] + inputs[5:]
        away = [inputs[0] + torch.tensor([0.0, 0, -50], device="cuda"), *inputs[1:]]
        picture = draw(away, "gsplat")
        assert not picture.accumulation.any()
        assert not picture.composite(torch.ones(count, 3, device="cuda")).any()
        labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.int32, device="cuda")
        assert not view_votes(picture, labels, 2).any()
        picture.colours.sum().backward()
        assert inputs[0].grad is not None
        assert not inputs[0].grad.any()
