"""A convolution and its normalisation, the unit that ResNet and VGG are made of."""

from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones.norms import NormKind, make_norm
from rcnn.backbones.padding import Padding, zero_padding_


class ConvNorm(nn.Module):
    """Convolution with zero padding that keeps ceil(n / stride) cells, and a norm that zeroes the padding again.

    The input must be zero outside the grids, so that the convolution meets there what it meets beyond the edge of a
    grid that is not padded. Padding is that of the output.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, norm: NormKind, groups: int, bias: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = make_norm(norm, channels_out, groups)

    def forward(self, x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "N D x y z"]:
        return self.norm(self.conv(x), padding)


class Stem(ConvNorm):
    """7³ convolution of stride 2, norm, ReLU and a 3³ maximum of stride 2: from voxels to cells of stride 4."""

    def __init__(self, channels_in: int, channels_out: int, norm: NormKind, groups: int, bias: bool) -> None:
        super().__init__(channels_in, channels_out, 7, 2, norm, groups, bias)
        # After ReLU, zeros in the padding can't be the only maximum: they act as the pooling's own padding does.
        self.pool = nn.MaxPool3d(3, 2, padding=1)

    def forward(self, x: Float[Tensor, "N C X Y Z"], padding: Padding | None) -> Float[Tensor, "N D x y z"]:
        """`padding` is that of the convolution's output."""
        pooled = self.pool(super().forward(x, padding).relu_())
        # A window centred beyond a grid's last cell still reaches it.
        return zero_padding_(pooled, None if padding is None else padding.coarser(2))


def init_convolutions(trunk: nn.Module) -> None:
    """He's normal initialisation by fan-out and zero biases (torchvision's ResNet and VGG; the norms start at 1, 0)."""
    for module in trunk.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
