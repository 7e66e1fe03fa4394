"""The hash grid against nerfstudio's own torch encoding, forward and backward."""

import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from nerfstudio.field_components.encodings import HashEncoding
from nerfstudio.field_components.spatial_distortions import SceneContraction

from instance_nerfstudio.hash_grid import CubicContraction, HashGrid, use_hash_grids


def encodings(features: int, input_gradients: bool) -> tuple[HashEncoding, HashGrid]:
    torch.manual_seed(0)
    theirs = HashEncoding(4, 4, 64, 8, features, hash_init_scale=1.0, implementation="torch")
    ours = deepcopy(theirs)
    use_hash_grids(ours, input_gradients)
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
    use_hash_grids(ours, input_gradients=True)
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


def compare_triton_with_torch(device: str) -> None:
    """Fused kernels against the plain path; also run by the interpreter in a process of its own."""
    from instance_nerfstudio.hash_grid_triton import hash_encode

    for features in (1, 2, 4):
        _, ours = encodings(features, input_gradients=False)
        points = torch.rand(300, 3)
        points[0], points[1] = 0.0, 1.0
        upstream = torch.randn(300, 4 * features)
        expected = ours(points)
        expected.backward(upstream)
        table = ours.hash_table.detach().clone().to(device).requires_grad_()
        got = hash_encode(table, points.to(device), ours.scalings.to(device))
        got.backward(upstream.to(device))
        torch.testing.assert_close(got.cpu(), expected, atol=1e-5, rtol=1e-5)
        assert table.grad is not None
        torch.testing.assert_close(table.grad.cpu(), ours.hash_table.grad, atol=1e-4, rtol=1e-4)


def test_triton_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    # Triton reads the variable when it is imported, so it needs a process that has not imported it yet.
    result = subprocess.run(
        [sys.executable, __file__], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert "kernels agree" in result.stdout, result.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_triton_kernels_on_the_gpu() -> None:
    compare_triton_with_torch("cuda")


if __name__ == "__main__":
    compare_triton_with_torch("cpu")
    print("kernels agree")
