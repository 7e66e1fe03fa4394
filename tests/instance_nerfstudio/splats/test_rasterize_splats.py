"""The reference rasterizer against formulas, a naive loop and finite differences; values blended afterwards."""

import math
from typing import Any

import pytest
import torch
from naive_splats import INTRINSICS, naive_picture, random_scene
from torch import Tensor

from instance_nerfstudio.splats import reference_blending
from instance_nerfstudio.splats.gaussians import Gaussians
from instance_nerfstudio.splats.rasterize import Picture, rasterize

CAMERA = torch.tensor(INTRINSICS, dtype=torch.float64)
WIDTH, HEIGHT = 37, 18


def draw(gaussians: Gaussians, colours: Tensor, viewmat: Tensor | None = None, **options: Any) -> Picture:
    defaults: dict[str, Any] = {"sh_degree": None, "depth": True, "absgrad": False, "antialiased": False}
    viewmat = torch.eye(4, dtype=colours.dtype) if viewmat is None else viewmat
    width, height = options.pop("width", WIDTH), options.pop("height", HEIGHT)
    camera = CAMERA.to(colours.dtype)
    return rasterize(
        gaussians, colours, viewmat, camera, width, height, **{**defaults, **options}, rasterizer="reference"
    )


def on_axis(depths: list[float], opacities: list[float], scale: float = 0.2) -> Gaussians:
    """Balls on the optical axis, moved so that they appear at the centre (10.5, 8.5) of pixel (10, 8)."""
    z = torch.tensor(depths, dtype=torch.float64)
    means = torch.stack((0 * z, 0.5 / 20 * z, z), dim=-1)
    quats = torch.tensor([[2.0, 0, 0, 0]], dtype=torch.float64).expand(len(z), 4)
    return Gaussians(means, quats, torch.full_like(means, scale), torch.tensor(opacities, dtype=torch.float64))


def test_one_ball_is_a_gaussian_of_known_width() -> None:
    picture = draw(on_axis([2.0], [0.6]), torch.tensor([[0.5, 2.0]], dtype=torch.float64))
    # Off the axis, the second column of the projection adds (f y / z)² with y = 0.025 to what f / z gives.
    variances = [(0.2 * 22 / 2) ** 2 + 0.3, (0.2 * 20 / 2) ** 2 * (1 + 0.025**2) + 0.3]
    for dx, dy in ((0, 0), (1, 0), (-3, 2), (4, -5)):
        alpha = 0.6 * math.exp(-(dx**2 / variances[0] + dy**2 / variances[1]) / 2)
        assert alpha > 1 / 255
        pixel = 8 + dy, 10 + dx
        assert picture.accumulation[pixel].item() == pytest.approx(alpha, rel=1e-12)
        assert picture.colours[pixel].tolist() == pytest.approx([0.5 * alpha, 2 * alpha], rel=1e-12)
        assert picture.depth is not None
        assert picture.depth[pixel].item() == pytest.approx(2.0, rel=1e-12)
    assert picture.accumulation[8, 30] == 0
    assert picture.depth is not None
    assert picture.depth[8, 30] == 0


def test_the_nearer_one_hides_the_farther_one() -> None:
    colours = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]], dtype=torch.float64)
    picture = draw(on_axis([3.0, 1.5], [0.8, 0.6]), colours)
    near, far = 0.6, (1 - 0.6) * 0.8
    assert picture.colours[8, 10].tolist() == pytest.approx([far, near, 0])
    assert picture.accumulation[8, 10].item() == pytest.approx(near + far)
    assert picture.depth is not None
    assert picture.depth[8, 10].item() == pytest.approx((near * 1.5 + far * 3.0) / (near + far))


def test_opaque_ones_are_clamped_and_finish_a_pixel() -> None:
    # 0.999 leaves 1e-3. A second of 0.95 would leave 5e-5, too little: it ends the pixel and does not count itself.
    picture = draw(on_axis([1.0, 2.0, 3.0], [1.0, 0.95, 0.5]), torch.eye(3, dtype=torch.float64))
    assert picture.colours[8, 10].tolist() == pytest.approx([0.999, 0, 0])
    gaussians = on_axis([1.0, 2.0, 3.0], [1.0, 0.85, 0.2])
    gaussians.opacities.requires_grad_()
    picture = draw(gaussians, torch.eye(3, dtype=torch.float64))
    assert picture.colours[8, 10].tolist() == pytest.approx([0.999, 0.001 * 0.85, 0.00015 * 0.2])
    # What is clamped does not depend on the opacity; what lies behind it does on its own.
    for channel, expected in ((0, [0, 0, 0]), (1, [0, 0.001, 0]), (2, [0, -0.001 * 0.2, 0.00015])):
        (of_opacities,) = torch.autograd.grad(picture.colours[8, 10, channel], gaussians.opacities, retain_graph=True)
        assert of_opacities.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_same_as_naive_loops(seed: int, antialiased: bool) -> None:
    gaussians, viewmat = random_scene(80, seed)
    colours = torch.randn(80, 4, dtype=torch.float64)
    picture = draw(gaussians, colours, viewmat, antialiased=antialiased)
    naive = naive_picture(gaussians, viewmat, CAMERA, WIDTH, HEIGHT, antialiased)
    assert 0 < (naive.weights.amax(dim=(0, 1)) > 0).sum() < 80
    torch.testing.assert_close(picture.colours, naive.blend(colours))
    torch.testing.assert_close(picture.accumulation[..., 0], naive.weights.sum(-1))
    covered = naive.weights.sum(-1) > 0
    depth = naive.blend(naive.depths[:, None])[covered] / naive.weights.sum(-1, keepdim=True)[covered]
    assert picture.depth is not None
    torch.testing.assert_close(picture.depth[covered], depth)
    assert not picture.depth[~covered].any()


def test_same_as_naive_loops_where_pixels_are_finished() -> None:
    gaussians, viewmat = random_scene(60)
    gaussians = Gaussians(gaussians.means, gaussians.quats, 4 * gaussians.scales, gaussians.opacities**0.1)
    naive = naive_picture(gaussians, viewmat, CAMERA, WIDTH, HEIGHT)
    assert (naive.weights.sum(-1) > 0.999).sum() > 20
    picture = draw(gaussians, torch.eye(60, dtype=torch.float64), viewmat)
    torch.testing.assert_close(picture.colours, naive.weights)


def test_gaussians_end_with_the_tiles_of_their_three_sigma_box() -> None:
    cut = torch.zeros(64, dtype=torch.bool)
    columns = torch.arange(64) + 0.5
    for shift in torch.linspace(0, 1.5, 12).tolist():
        ball = on_axis([2.0], [1.0], scale=0.9)
        ball = Gaussians(ball.means + torch.tensor([shift, 0, 0]), ball.quats, ball.scales, ball.opacities)
        picture = draw(ball, torch.ones(1, 1, dtype=torch.float64), width=64)
        naive = naive_picture(ball, torch.eye(4, dtype=torch.float64), CAMERA, 64, HEIGHT)
        torch.testing.assert_close(picture.accumulation, naive.weights)
        (x, y), (xx, xy, yy) = picture.info["means2d"][0, 0], picture.info["conics"][0, 0]
        dx, dy = x - columns, y - 8.5
        alphas = torch.exp(-(xx * dx**2 + 2 * xy * dx * dy + yy * dy**2) / 2)
        cut |= (alphas > 1 / 255) & (picture.accumulation[8, :, 0] == 0)
    assert cut.nonzero()[:, 0].tolist() == list(range(48, 48 + int(cut.sum())))
    assert cut.sum() > 1


def test_single_precision_is_close() -> None:
    gaussians, viewmat = random_scene(80)
    colours = torch.randn(80, 3)
    single, viewmat32 = random_scene(80, dtype=torch.float32)
    expected = draw(gaussians, colours.double(), viewmat)
    picture = draw(single, colours, viewmat32)
    assert picture.colours.dtype == torch.float32
    torch.testing.assert_close(picture.colours.double(), expected.colours, atol=1e-4, rtol=1e-4)


def test_spherical_harmonics_see_the_direction() -> None:
    # Seen along +z: of the first degree, the second coefficient counts. https://en.wikipedia.org/wiki/Spherical_harmonics
    coefficients = torch.tensor([[[1.0, 2, -9], [3, 3, 3], [0.5, 1, 0], [3, 3, 3]]], dtype=torch.float64)
    gaussians = on_axis([2.0], [1.0])
    gaussians = Gaussians(
        gaussians.means * torch.tensor([0, 0, 1]), gaussians.quats, gaussians.scales, gaussians.opacities
    )
    constant, along_z = math.sqrt(1 / math.pi) / 2, math.sqrt(3 / math.pi) / 2
    for degree, factor in ((0, 0), (1, along_z)):
        picture = draw(gaussians, coefficients, sh_degree=degree)
        expected = [0.5 + constant * 1 + factor * 0.5, 0.5 + constant * 2 + factor * 1, 0]
        shown = picture.colours[8, 10] / picture.accumulation[8, 10]
        assert shown.tolist() == pytest.approx(expected)


def leaves(count: int = 6, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Parameters of a few Gaussians that overlap, one beside and one behind the camera, and a camera."""
    gaussians, viewmat = random_scene(count, dtype=dtype)
    draw = torch.Generator().manual_seed(1)
    harmonics = torch.randn(count, 4, 3, generator=draw, dtype=dtype)
    tensors = [gaussians.means, gaussians.quats, gaussians.scales * 3, gaussians.opacities, harmonics, viewmat]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_equal_finite_differences(antialiased: bool) -> None:
    # Every pixel counts with a weight of its own.
    weights = torch.randn(7, 18, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        picture = draw(
            Gaussians(*inputs[:4]), inputs[4], inputs[5], width=18, height=7, sh_degree=1, antialiased=antialiased
        )
        assert picture.depth is not None
        one_channel = (picture.accumulation, picture.depth * picture.accumulation)
        return tuple((picture * weights).sum() for picture in (picture.colours, *one_channel))

    assert torch.autograd.gradcheck(function, leaves(), eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_absolute_gradients_are_summed_over_pixels() -> None:
    inputs = leaves()
    gradient = torch.randn(7, 18, 3, dtype=torch.float64)
    picture = draw(Gaussians(*inputs[:4]), inputs[4], inputs[5], width=18, height=7, sh_degree=1, absgrad=True)
    means2d = picture.info["means2d"]
    expected, signed = torch.zeros_like(means2d), torch.zeros_like(means2d)
    for row in range(7):
        for column in range(18):
            product = picture.colours[row, column] @ gradient[row, column]
            (of_pixel,) = torch.autograd.grad(product, means2d, retain_graph=True)
            expected += of_pixel.abs()
            signed += of_pixel
    means2d.retain_grad()
    (picture.colours * gradient).sum().backward()
    torch.testing.assert_close(means2d.absgrad, expected)
    torch.testing.assert_close(means2d.grad, signed)
    assert not torch.allclose(expected, signed.abs())


def test_few_rows_at_a_time_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    def results(few_rows: bool) -> list[Tensor]:
        inputs = leaves(30)
        picture = draw(Gaussians(*inputs[:4]), inputs[4], inputs[5], sh_degree=1, absgrad=True)
        assert (len(list(picture.info["coverage"].pairs())) > 5) == few_rows
        (picture.colours.square().sum() + picture.accumulation.square().sum()).backward()
        return [picture.colours, picture.info["means2d"].absgrad, *(tensor.grad for tensor in inputs)]  # type: ignore[list-item]

    expected = results(False)
    monkeypatch.setattr(reference_blending, "MOST_PAIRS", 700)
    for got, want in zip(results(True), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_composite_blends_as_the_picture_was_blended() -> None:
    inputs = leaves(40)
    colours = torch.randn(40, 70, dtype=torch.float64)
    for antialiased in (False, True):
        picture = draw(Gaussians(*inputs[:4]), colours, inputs[5], antialiased=antialiased)
        torch.testing.assert_close(picture.composite(colours), picture.colours)
        torch.testing.assert_close(picture.composite(torch.ones_like(colours[:, :1])), picture.accumulation)
        assert picture.composite(colours[:, :0]).shape == (HEIGHT, WIDTH, 0)


def test_composite_leaves_geometry_alone() -> None:
    inputs = leaves(20)
    picture = draw(Gaussians(*inputs[:4]), inputs[4], inputs[5], sh_degree=1)
    values = torch.randn(20, 16, dtype=torch.float64, requires_grad=True)
    blended = picture.composite(values)
    blended.square().sum().backward()
    detached = [tensor.detach() for tensor in inputs]
    weights = naive_picture(Gaussians(*detached[:4]), detached[5], CAMERA, WIDTH, HEIGHT).weights
    torch.testing.assert_close(values.grad, 2 * torch.einsum("hwn,hwd->nd", weights, blended.detach()))
    assert all(tensor.grad is None for tensor in inputs)
    assert picture.info["means2d"].requires_grad


def test_nothing_to_see() -> None:
    for count in (3, 0):
        inputs = [tensor.detach()[:count].requires_grad_() for tensor in leaves(3)[:5]]
        away = Gaussians(inputs[0] - torch.tensor([0, 0, 50.0]), *inputs[1:4])
        picture = draw(away, inputs[4], sh_degree=1)
        assert not picture.accumulation.any()
        assert picture.depth is not None
        assert not picture.depth.any()
        assert picture.composite(torch.ones(count, 2, dtype=torch.float64)).abs().sum() == 0
        (picture.colours.sum() + picture.accumulation.sum() + picture.depth.sum()).backward()
        assert all(tensor.grad is not None and not tensor.grad.any() for tensor in inputs)


def test_gradients_stay_finite_in_the_plane_of_the_camera_and_edge_on() -> None:
    means = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, 0, 2]], requires_grad=True)
    quats = torch.tensor([[1.0, 0, 0, 0]] * 3, requires_grad=True)
    scales = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.3, 0.0, 0.0]], requires_grad=True)
    gaussians = Gaussians(means, quats, scales, torch.full((3,), 0.5))
    for antialiased, seen in ((False, True), (True, False)):
        picture = draw(gaussians, torch.ones(3, 3), antialiased=antialiased)
        assert (picture.info["radii"] > 0).tolist() == [[False, False, True]]
        assert bool(picture.accumulation.any()) == seen  # a line has no area: nothing but blur
        picture.colours.sum().backward()
        for tensor in (means, quats, scales):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()


def test_gsplat_wants_a_cuda_device() -> None:
    gaussians, viewmat = random_scene(3, dtype=torch.float32)
    with pytest.raises(ValueError, match="CUDA device"):
        rasterize(
            gaussians, torch.ones(3, 3), viewmat, CAMERA.float(), 8, 8,
            sh_degree=None, depth=False, absgrad=False, antialiased=False, rasterizer="gsplat",
        )  # fmt: skip


def test_selected_and_detached_gaussians() -> None:
    inputs = leaves(5)
    gaussians = Gaussians(*inputs[:4])
    mask = torch.tensor([True, False, True, False, False])
    for which in (mask, mask.nonzero()[:, 0]):
        some = gaussians.select(which)
        assert len(some) == 2
        torch.testing.assert_close(some.means, gaussians.means[[0, 2]])
        torch.testing.assert_close(some.opacities, gaussians.opacities[[0, 2]])
        assert some.scales.requires_grad
    cut = gaussians.detach()
    assert not any(tensor.requires_grad for tensor in (cut.means, cut.quats, cut.scales, cut.opacities))
