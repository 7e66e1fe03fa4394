"""The hash grid against nerfstudio's own torch encoding, forward and backward."""

from copy import deepcopy

import pytest
import torch
from kernel_interpreter import run_interpreted
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.spatial_distortions import SceneContraction
from torch import Tensor

from instance_nerfstudio.hash_grids.hash_grid import CubicContraction, HashGrid, interpolate_hashed, use_hash_grids


def encodings(
    features: int, input_gradients: bool, levels: int = 4, max_res: int = 64, log2_size: int = 8
) -> tuple[HashEncoding, HashGrid]:
    torch.manual_seed(0)
    theirs = HashEncoding(levels, 4, max_res, log2_size, features, hash_init_scale=1.0, implementation="torch")
    ours = deepcopy(theirs)
    use_hash_grids(ours, input_gradients, fused=False)
    assert isinstance(ours, HashGrid)
    return theirs, ours


@pytest.mark.parametrize("features", [1, 2, 4])
def test_matches_nerfstudio_forward_and_backward(features: int) -> None:
    theirs, ours = encodings(features, input_gradients=True)
    points = torch.rand(5, 40, 3)
    points[0, :4] = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 0.25, 0.75], [0, 1, 0.5]])  # on grid vertices
    inputs = [points.clone().requires_grad_() for _ in range(2)]
    upstream = torch.randn(5, 40, 4 * features)
    outputs = [encoding(x) for encoding, x in zip((theirs, ours), inputs, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.backward(upstream)
    torch.testing.assert_close(ours.hash_table.grad, theirs.hash_table.grad)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, atol=1e-4, rtol=1e-4)


def test_contraction_matches_nerfstudio() -> None:
    theirs = SceneContraction(order=float("inf"))
    ours = deepcopy(theirs)
    use_hash_grids(ours, input_gradients=True, fused=False)
    assert isinstance(ours, CubicContraction)
    points = [(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 3).requires_grad_() for _ in range(2)]
    contracted = [contraction(x) for contraction, x in zip((theirs, ours), points, strict=True)]
    torch.testing.assert_close(contracted[1], contracted[0])
    for y in contracted:
        y.square().sum().backward()
    torch.testing.assert_close(points[1].grad, points[0].grad)


def test_input_gradients_can_be_dropped() -> None:
    _, ours = encodings(2, input_gradients=False)
    points = torch.rand(10, 3, requires_grad=True)
    ours(points).sum().backward()
    assert points.grad is None
    assert ours.hash_table.grad is not None


def test_state_dicts_are_interchangeable() -> None:
    theirs, ours = encodings(2, input_gradients=False)
    other = HashEncoding(4, 4, 64, 8, 2, implementation="torch")
    other.load_state_dict(ours.state_dict())
    torch.testing.assert_close(other.hash_table, theirs.hash_table)


def normal_loss(encoded: Tensor, positions: Tensor, upstream: Tensor) -> Tensor:
    """As a loss on normals: a function of the gradient for positions, to be differentiated again."""
    normals = torch.autograd.grad(encoded.tanh(), positions, upstream, create_graph=True)[0]
    return normals.square().sum()


def test_second_derivatives_match_nerfstudio() -> None:
    theirs, ours = encodings(2, input_gradients=True)
    points, upstream = torch.rand(20, 3), torch.randn(20, 8)
    for encoding in (theirs, ours):
        x = points.clone().requires_grad_()
        normal_loss(encoding(x), x, upstream).backward()
    torch.testing.assert_close(ours.hash_table.grad, theirs.hash_table.grad, atol=1e-2, rtol=1e-4)


# Features, levels, finest resolution, log2 of rows, rays: several programs, a table of one row, odd widths.
SHAPES = [(2, 2, 64, 8, 25), (1, 2, 8, 0, 6), (3, 2, 30, 5, 6), (5, 1, 4, 12, 6)]


def compare_triton_with_torch(device: str) -> None:
    """Fused kernels against nerfstudio's encoding; also run by the interpreter in a process of its own."""
    from instance_nerfstudio.hash_grids.hash_grid_triton import hash_encode

    for features, levels, max_res, log2_size, rays in SHAPES:
        theirs, _ = encodings(features, True, levels, max_res, log2_size)
        start, end = torch.rand(2, rays, 1, 3) * 0.9 + 0.05
        along = torch.linspace(0, 1, 12)[:, None]
        points = torch.cat([(start + (end - start) * along).flatten(0, 1), torch.zeros(1, 3), torch.ones(1, 3)])
        upstream = torch.randn(len(points), levels * features)
        upstream[20:40] = 0
        inputs = points.clone().requires_grad_()
        expected = theirs(inputs)
        expected.backward(upstream)
        assert inputs.grad is not None

        scalings = theirs.scalings.to(device)
        table = theirs.hash_table.detach().to(device).requires_grad_()
        moved = points.to(device).requires_grad_()
        got = hash_encode(table, moved, scalings)
        # Strides of any kind: a gradient of a transposed or summed output is no plain array.
        got.backward(upstream.to(device).t().contiguous().t())
        torch.testing.assert_close(got.detach().cpu(), expected.detach(), atol=1e-5, rtol=1e-5)
        assert table.grad is not None
        assert moved.grad is not None
        torch.testing.assert_close(table.grad.cpu(), theirs.hash_table.grad, atol=1e-4, rtol=1e-4)
        # On a vertex the derivative depends on the side, and rounding chooses it.
        scaled = points[:, None] * theirs.scalings[:, None]
        inner = ((scaled - scaled.round()).abs() > 1e-3).flatten(1).all(1)
        assert inner.sum() > 0.8 * len(points)
        torch.testing.assert_close(moved.grad.cpu()[inner], inputs.grad[inner], atol=1e-3, rtol=1e-3)


def compare_types_and_second_derivatives(device: str) -> None:
    from instance_nerfstudio.hash_grids.hash_grid_triton import hash_encode

    theirs, _ = encodings(2, True, 2, 16, 6)
    scalings, table = theirs.scalings.to(device), theirs.hash_table.detach().to(device)
    points, upstream = torch.rand(60, 3, device=device), torch.randn(60, 4, device=device)

    # fp16 rows, as parameter or as copy, give what their fp32 values give, summed in fp32.
    halves = table.half()
    exact = halves.float().requires_grad_()
    expected = interpolate_hashed(exact, points, scalings)
    expected.backward(upstream)
    assert exact.grad is not None
    for leaf, storage in ((halves.clone(), None), (table.clone(), torch.float16)):
        leaf.requires_grad_()
        got = hash_encode(leaf, points, scalings, storage)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        got.backward(upstream)
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        tolerance = 1e-4 if leaf.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(leaf.grad.float(), exact.grad, atol=tolerance, rtol=tolerance)

    # One of the two gradients alone, and none for a table that is frozen.
    position = points.clone().requires_grad_()
    hash_encode(table, position, scalings).backward(upstream)
    assert position.grad is not None
    assert table.grad is None

    # A gradient that is differentiated again reaches the table, as in plain torch.
    gradients = []
    for encode in (interpolate_hashed, hash_encode):
        leaf, x = table.clone().requires_grad_(), points.clone().requires_grad_()
        normal_loss(encode(leaf, x, scalings), x, upstream).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 1
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-2, rtol=1e-3)

    # NaN is not mistaken for nothing, and no points are no error.
    leaf = table.clone().requires_grad_()
    hash_encode(leaf, points[:1], scalings).backward(torch.tensor([[torch.nan, 0, 0, 0]], device=device))
    assert leaf.grad is not None
    assert leaf.grad.isnan().any()
    nothing = points[:0].clone().requires_grad_()
    empty = hash_encode(leaf, nothing, scalings)
    assert empty.shape == (0, 4)
    empty.sum().backward()
    assert nothing.grad is not None


def test_triton_kernels_in_the_interpreter() -> None:
    result = run_interpreted(__file__)
    assert "kernels agree" in result.stdout, result.stderr[-2000:]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
def test_triton_kernels_on_the_gpu() -> None:
    compare_triton_with_torch("cuda")
    compare_types_and_second_derivatives("cuda")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("autocast", [False, True])
def test_fused_grid_on_the_gpu_matches_nerfstudio(autocast: bool) -> None:
    theirs, ours = encodings(2, input_gradients=True, levels=8, max_res=512, log2_size=15)
    ours.fused = True
    theirs, ours = theirs.cuda(), ours.cuda()
    theirs.scalings = theirs.scalings.cuda()
    points, upstream = torch.rand(1000, 32, 3, device="cuda"), torch.randn(1000, 32, 16, device="cuda")
    expected = theirs(points)
    expected.backward(upstream)
    with torch.autocast("cuda", torch.float16, enabled=autocast):
        got = ours(points)
    got.backward(upstream)
    tolerance = 1e-3 if autocast else 1e-4
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(ours.hash_table.grad, theirs.hash_table.grad, atol=1e-3, rtol=1e-3)


if __name__ == "__main__":
    compare_triton_with_torch("cpu")
    compare_types_and_second_derivatives("cpu")
    print("kernels agree")
