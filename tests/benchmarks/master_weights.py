"""Weights in float32 for the optimizer of a network that computes in bfloat16."""

import torch
from torch import Tensor, nn


class MasterWeights:
    """Casts a network's parameters once per step, where autocast casts each of them, and normalizes in float32.

    Args:
        network: all its parameters get gradients in every step. Its type is changed here.
        dtype: what it computes in.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self._names = [name for name, _ in network.named_parameters()]
        self.values = [weight.detach().float().clone() for weight in network.parameters()]
        """What the optimizer works on."""
        self._gradients = [torch.zeros_like(value) for value in self.values]
        for value, gradient in zip(self.values, self._gradients, strict=True):
            value.grad = gradient
        self._network = network.to(dtype)

    @torch.no_grad()
    def take_gradients(self) -> None:
        """From the network, which has none afterwards."""
        torch._foreach_copy_(self._gradients, [weight.grad for weight in self._network.parameters()])  # type: ignore[misc]
        self._network.zero_grad(set_to_none=True)

    @torch.no_grad()
    def give_back(self) -> None:
        """To the network, rounded."""
        torch._foreach_copy_(list(self._network.parameters()), self.values)

    def state_dict(self) -> dict[str, Tensor]:
        """Of the network in float32."""
        buffers = {name: value.float() for name, value in self._network.state_dict().items()}
        return buffers | dict(zip(self._names, self.values, strict=True))
