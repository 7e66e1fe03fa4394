"""What a detector sees of a grid, at another resolution."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Denser matter has an opacity of 1 in any grid.
_MOST_OPAQUE = 1 - 2.0**-12
# Share in the colour of voxels that are empty, lest those among themselves have none.
_EMPTY = 1e-3


def resample_features(features: Float[Tensor, "4 X Y Z"], shape: Sequence[int]) -> Float[Tensor, "4 X2 Y2 Z2"]:
    """Red, green, blue and opacity of the same space in other voxels: averages over coarser ones, trilinear in finer.

    Opacity is that of a voxel's edge: it becomes that of the new edge, by the mean density. Colours are averaged by
    opacity, so that those of empty space don't bleed into matter.

    Args:
        features: `DensityGrid.rgb_alpha`.
        shape: voxels along x, y and z, all more or all fewer than before.
    """
    before = features.shape[1:]
    shape = tuple(int(n) for n in shape)
    if shape == tuple(before):
        return features
    coarser = all(after <= n for after, n in zip(shape, before, strict=True))
    longer = 1.0
    for after, n in zip(shape, before, strict=True):
        longer *= (n / after) ** (1 / 3)
    alpha = features[3:]
    weight = alpha + _EMPTY
    thickness = -torch.log1p(-alpha.clamp(max=_MOST_OPAQUE))
    parts = torch.cat([features[:3] * weight, weight, thickness])[None]
    if coarser:
        parts = F.interpolate(parts, shape, mode="area")[0]
    else:
        parts = F.interpolate(parts, shape, mode="trilinear", align_corners=False)[0]
    return torch.cat([parts[:3] / parts[3:4], -torch.expm1(-longer * parts[4:])])
