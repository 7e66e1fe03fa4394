"""A convolution and its normalisation, the unit that ResNet and VGG are made of."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones.norms import GroupNorm, NormKind, make_norm
from rcnn.backbones.padding import Padding, zero_padding_


class ConvNorm(nn.Module):
    """Convolution with zero padding that keeps ceil(n / stride) cells, a norm that zeroes the padding again, and ReLU.

    The input must be zero outside the grids, so that the convolution meets there what it meets beyond the edge of a
    grid that is not padded. Padding is that of the output.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int,
        norm: NormKind,
        groups: int,
        bias: bool,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.relu = relu
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = make_norm(norm, channels_out, groups)

    def forward(self, x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "N D x y z"]:
        conv = self.conv
        if x.is_cuda and conv.bias is not None and isinstance(self.norm, GroupNorm):
            without_bias = F.conv3d(x, conv.weight, None, conv.stride, conv.padding)
            return self.norm(without_bias, padding, self.relu, conv.bias)
        return self.norm(conv(x), padding, self.relu)


class Stem(ConvNorm):
    """7³ convolution of stride 2, norm, ReLU and a 3³ maximum of stride 2: from voxels to cells of stride 4."""

    def __init__(self, channels_in: int, channels_out: int, norm: NormKind, groups: int, bias: bool) -> None:
        super().__init__(channels_in, channels_out, 7, 2, norm, groups, bias)
        # After ReLU, zeros in the padding can't be the only maximum: they act as the pooling's own padding does.
        self.pool = nn.MaxPool3d(3, 2, padding=1)

    def forward(self, x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "N D x y z"]:
        """`padding` is that of the convolution's output."""
        pooled = self.pool(super().forward(x, padding))
        # A window centred beyond a grid's last cell still reaches it.
        return zero_padding_(pooled, None if padding is None else padding.coarser(2))


def init_convolutions(trunk: nn.Module) -> None:
    """He's normal initialisation by fan-out and zero biases (torchvision's ResNet and VGG; the norms start at 1, 0)."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
