"""nerfstudio's small MLPs in one kernel where nothing is differentiated: rendering, proposals in between updates.

Layer by layer, the hidden activations of millions of samples go through memory four times. Here they never leave the
registers; sums are fp32, as accurate as torch's own.
"""

from typing import cast

import torch
from jaxtyping import Float
from nerfstudio.field_components.mlp import MLP
from torch import Tensor, nn

from instance_nerfstudio.kernel_launch import takes_kernels
from instance_nerfstudio.tall_linear import tall_linear

# What the kernel holds in registers and shared memory at once.
_WIDEST = 128


class FusedMLP(MLP):
    """nerfstudio's torch `MLP`: same maths and state dict; on CUDA without gradients, one Triton kernel.

    With gradients it goes layer by layer, and `tall_linear` sums those of the weights.
    """

    def pytorch_fwd(self, in_tensor: Float[Tensor, "*bs in_dim"]) -> Float[Tensor, "*bs out_dim"]:
        if not takes_kernels(in_tensor) or torch.is_autocast_enabled():
            return super().pytorch_fwd(in_tensor)
        layers = [cast(nn.Linear, layer) for layer in self.layers]
        rows = in_tensor.reshape(-1, self.in_dim).float()
        if torch.is_grad_enabled():
            out = self._layer_by_layer(rows, layers)
        else:
            from instance_nerfstudio.fused_mlp_triton import mlp_forward

            out = mlp_forward(rows, layers, self.out_activation)
        return out.view(*in_tensor.shape[:-1], -1)

    def _layer_by_layer(
        self, x: Float[Tensor, "rows in_dim"], layers: list[nn.Linear]
    ) -> Float[Tensor, "rows out_dim"]:
        for layer in layers[:-1]:
            x = torch.relu(tall_linear(x, layer.weight, layer.bias))
        x = tall_linear(x, layers[-1].weight, layers[-1].bias)
        return x if self.out_activation is None else self.out_activation(x)


def use_fused_mlps(module: nn.Module) -> None:
    """Turns every torch `MLP` under `module` that the kernel can compute into a `FusedMLP`, in place.

    These are perceptrons of 2 or 3 layers up to 128 wide with ReLU in between and ReLU, a sigmoid or nothing at the
    end: all of nerfacto's at its default sizes.
    """
    for child in module.modules():
        if type(child) is MLP and child.tcnn_encoding is None and _fits(child):
            child.__class__ = FusedMLP


def _fits(mlp: MLP) -> bool:
    widths = [mlp.in_dim, mlp.layer_width, mlp.out_dim]
    return (
        mlp.num_layers in (2, 3)
        and not mlp.skip_connections
        and max(widths) <= _WIDEST
        and isinstance(mlp.activation, nn.ReLU)
        and (mlp.out_activation is None or isinstance(mlp.out_activation, (nn.ReLU, nn.Sigmoid)))
    )
