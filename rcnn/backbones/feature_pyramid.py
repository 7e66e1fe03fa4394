"""Feature pyramid network in 3D (Lin et al., CVPR 2017); torchvision's is for images."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from rcnn.backbones.padding import Padding, zero_padding_

STRIDES = (4, 8, 16, 32)
"""Voxels per cell of each level of every backbone's pyramid."""


class FeaturePyramid(nn.Module):
    """Lateral 1³ convolutions, top-down sums by nearest neighbours, 3³ convolutions.

    A cell's neighbour in the next coarser level is the one at half its index. That is what interpolation to the finer
    level's size gives too, at any size, but this way it does not depend on how far the maps are padded.
    Initialised as torchvision's.
    """

    def __init__(self, channels_in: Sequence[int], channels_out: int, smooth_coarsest: bool = True) -> None:
        """
        Args:
            channels_in: of each level, finest first; each level has half the cells of the one before.
            channels_out: of all levels of the result.
            smooth_coarsest: whether the coarsest level gets a 3³ convolution too.
        """
        super().__init__()
        smoothed = len(channels_in) - (not smooth_coarsest)
        self.laterals = nn.ModuleList(nn.Conv3d(channels, channels_out, 1) for channels in channels_in)
        self.outputs = nn.ModuleList(nn.Conv3d(channels_out, channels_out, 3, padding=1) for _ in range(smoothed))
        for conv in self.modules():
            if isinstance(conv, nn.Conv3d):
                nn.init.kaiming_uniform_(conv.weight, a=1)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(
        self, maps: Sequence[Float[Tensor, "N _ _ _ _"]], paddings: Sequence[Padding | None]
    ) -> list[Float[Tensor, "N C _ _ _"]]:
        """
        Args:
            maps: one per level, finest first.
            paddings: of each level.

        Returns:
            One map per level, zero in the padding.
        """
        levels: list[Tensor] = []
        above = None
        for level in range(len(maps) - 1, -1, -1):
            merged = self.laterals[level](maps[level])
            if above is not None:
                x, y, z = merged.shape[2:]
                merged = merged + _doubled(above)[..., :x, :y, :z]
            above = zero_padding_(merged, paddings[level])
            smooth = level < len(self.outputs)
            levels.append(zero_padding_(self.outputs[level](above), paddings[level]) if smooth else above)
        return levels[::-1]


def _doubled(x: Float[Tensor, "N C X Y Z"]) -> Float[Tensor, "N C 2*X 2*Y 2*Z"]:
    """Every cell twice along each axis, in `torch.channels_last_3d`, which interpolation on GPUs does not keep."""
    cells = x.permute(0, 2, 3, 4, 1)[:, :, None, :, None, :, None]
    doubled = cells.expand(-1, -1, 2, -1, 2, -1, 2, -1)
    return doubled.flatten(5, 6).flatten(3, 4).flatten(1, 2).permute(0, 4, 1, 2, 3)
