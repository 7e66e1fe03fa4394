"""The fused MLP against nerfstudio's own, layer by layer."""

import pytest
import torch
from kernel_interpreter import run_interpreted
from nerfstudio.field_components.mlp import MLP
from torch import nn

from instance_nerfstudio.fused_mlp import FusedMLP, use_fused_mlps

# in, layers, width, out, last activation: nerfacto's proposal, density and colour networks, the instance head, odd ones
SHAPES = (
    (10, 2, 16, 1, None), (32, 2, 64, 16, None), (31, 3, 64, 3, nn.Sigmoid()), (47, 2, 64, 64, nn.ReLU()),
    (1, 3, 7, 5, None),
)  # fmt: skip


def mlp(*shape: int | nn.Module | None) -> MLP:
    inputs, layers, width, outputs, end = shape
    return MLP(inputs, layers, width, outputs, activation=nn.ReLU(), out_activation=end, implementation="torch")  # type: ignore[arg-type]


def compare_with_torch(device: str) -> None:
    from instance_nerfstudio.fused_mlp_triton import mlp_forward

    torch.manual_seed(0)
    for shape in SHAPES:
        theirs = mlp(*shape).to(device)
        for rows in (0, 1, 131):
            x = 3 * torch.randn(rows, shape[0], device=device)
            with torch.no_grad():
                got = mlp_forward(x, list(theirs.layers), theirs.out_activation)  # type: ignore[arg-type]
                torch.testing.assert_close(got, theirs(x), atol=2e-5, rtol=2e-5)
        x = torch.full((3, shape[0]), float("nan"), device=device)
        assert mlp_forward(x, list(theirs.layers), theirs.out_activation).isnan().all()  # type: ignore[arg-type]
    print("kernels agree")


def test_kernel_in_the_interpreter() -> None:
    result = run_interpreted(__file__)
    assert "kernels agree" in result.stdout, result.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_gpu() -> None:
    compare_with_torch("cuda")
    fused = mlp(*SHAPES[1]).cuda()
    use_fused_mlps(fused)
    x = torch.randn(4, 5, 32, device="cuda", requires_grad=True)
    layered = fused(x)
    layered.sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(fused(x), layered, atol=2e-5, rtol=2e-5)


def test_only_what_fits_is_fused() -> None:
    fits = [mlp(*shape) for shape in SHAPES]
    rest = [
        MLP(4, 1, 8, 2, implementation="torch"),
        MLP(4, 4, 8, 2, implementation="torch"),
        MLP(4, 2, 256, 2, implementation="torch"),
        MLP(4, 3, 8, 2, skip_connections=(1,), implementation="torch"),
        MLP(4, 2, 8, 2, activation=nn.Softplus(), implementation="torch"),
        MLP(4, 2, 8, 2, out_activation=nn.Tanh(), implementation="torch"),
    ]
    before = [child.state_dict().keys() for child in fits]
    use_fused_mlps(nn.ModuleList([*fits, *rest]))
    assert all(type(child) is FusedMLP for child in fits)
    assert all(type(child) is MLP for child in rest)
    assert [child.state_dict().keys() for child in fits] == before


def test_on_the_cpu_it_is_nerfstudios() -> None:
    theirs = mlp(*SHAPES[2])
    x = torch.randn(7, 31)
    expected = theirs(x)
    use_fused_mlps(theirs)
    with torch.no_grad():
        assert torch.equal(theirs(x), expected)


if __name__ == "__main__":
    compare_with_torch("cpu")
