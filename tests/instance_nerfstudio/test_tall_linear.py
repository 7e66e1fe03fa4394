"""Gradients summed in pieces are those of torch's own linear layer, of first and second order."""

import torch
import torch.nn.functional as F

from instance_nerfstudio import tall_linear as module
from instance_nerfstudio.tall_linear import tall_linear


def derivatives(linear, x, weight, bias):
    out = linear(x, weight, bias)
    first = torch.autograd.grad(out.sin().sum(), (x, weight, bias), create_graph=True)
    second = torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), (x, weight, bias))
    return [out, *first, *second]


def test_equals_torch(monkeypatch) -> None:
    calls = []
    apply = module._TallLinear.apply
    monkeypatch.setattr(module._TallLinear, "apply", lambda *inputs: calls.append(1) or apply(*inputs))
    torch.manual_seed(0)
    for rows, taken in ((16 * 256, True), (17 * 256 + 1, False), (256, False)):
        calls.clear()
        shapes = (rows, 5), (3, 5), (3,)
        inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        for got, expected in zip(derivatives(tall_linear, *inputs), derivatives(F.linear, *inputs), strict=True):
            torch.testing.assert_close(got, expected)
        assert bool(calls) == taken


def test_only_what_is_needed() -> None:
    x, weight = torch.randn(16 * 256, 4), torch.randn(2, 4, requires_grad=True)
    bias = torch.zeros(2)
    tall_linear(x, weight, bias).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(2, 4), rtol=1e-4, atol=1e-3)
    assert x.grad is None
    assert bias.grad is None
