"""How a picture of splats differs from the photo, and its depths from those of a teacher."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def photo_loss(
    picture: Float[Tensor, "height width 3"], photo: Float[Tensor, "height width 3"], ssim_weight: float
) -> Float[Tensor, ""]:
    """(1 - λ) L1 + λ (1 - SSIM) (Kerbl et al. 2023, eq. 7).

    Args:
        picture: what was rendered, 0 to 1.
        photo: what was seen, 0 to 1.
        ssim_weight: λ.
    """
    difference = (photo - picture).abs().mean()
    return (1 - ssim_weight) * difference + ssim_weight * (1 - structural_similarity(picture, photo))


def structural_similarity(
    picture: Float[Tensor, "height width channels"], photo: Float[Tensor, "height width channels"]
) -> Float[Tensor, ""]:
    """Mean SSIM (Wang et al. 2004) of values from 0 to 1, under a Gaussian window of 11 pixels and σ = 1.5.

    The same as pytorch_msssim's, in a fifth of its kernels: means, squares and products are smoothed together. Windows
    lie inside of the picture; along a side shorter than the window nothing is smoothed.
    """
    x, y = picture.permute(2, 0, 1), photo.permute(2, 0, 1)
    channels = len(x)
    smoothed = torch.cat([x, y, x * x, y * y, x * y])[None]
    window = _window(picture.device, picture.dtype)
    for side, shape in ((2, (-1, 1)), (3, (1, -1))):
        if smoothed.shape[side] >= _WINDOW:
            weight = window.view(1, 1, *shape).expand(5 * channels, -1, -1, -1)
            smoothed = F.conv2d(smoothed, weight, groups=5 * channels)
    mean_x, mean_y, xx, yy, xy = smoothed[0].split(channels)
    squares, product = mean_x.square() + mean_y.square(), mean_x * mean_y
    structure = (2 * (xy - product) + _C2) / (xx + yy - squares + _C2)
    return ((2 * product + _C1) / (squares + _C1) * structure).mean()


def depth_loss(depth: Float[Tensor, "height width 1"], target: Float[Tensor, "height width 1"]) -> Float[Tensor, ""]:
    """Mean difference as a share of the target, at most 1: a silhouette that is a pixel off doesn't count for more.

    Args:
        depth: of the surfaces, in any unit.
        target: in the same unit; pixels with 0 don't count.
    """
    known = target > 0
    difference = (depth - target).abs() / torch.where(known, target, 1)
    return (difference.clamp(max=1) * known).mean()


@lru_cache(maxsize=8)
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Kept on the device: sending it anew would make the host wait."""
    places = torch.arange(_WINDOW, dtype=dtype) - _WINDOW // 2
    weights = torch.exp(-places.square() / (2 * _SIGMA**2))
    return (weights / weights.sum()).to(device)
