"""Colours of instances: a pure function of the id, the same in every run and machine and for any number of ids."""

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

UNLABELLED_COLOUR = (0, 0, 0)
BACKGROUND_COLOUR = (38, 38, 38)

# 2^16 times the golden ratio: successive hues fall into the largest gap left by the earlier ones.
GOLDEN_HUE_STEP = 40503
# (saturation, value) of ids 0, 1, ... modulo 6. Golden-ratio hues nearly repeat after 8, 13, 21, 34 and 55 ids; none of
# these is a multiple of six, so near repeats differ in brightness. Chosen by the smallest CIELAB distance of 40 ids.
RINGS = ((230, 130), (140, 225), (200, 175), (170, 225), (230, 200), (110, 255))


def _colours_255(ids: Tensor) -> Tensor:
    """Integer arithmetic throughout, so that CPU, GPU and NumPy cannot differ by a rounding."""
    ids = ids.long()
    hue = (ids * GOLDEN_HUE_STEP) & 0xFFFF
    # Red, green and blue peak a third of the colour circle apart and fall to zero over the next third.
    peaks = torch.tensor([0, 65536 // 3, 2 * 65536 // 3], device=ids.device)
    distance = (hue[..., None] - peaks) & 0xFFFF
    distance = torch.minimum(distance, 65536 - distance)
    purity = (2 * (65536 // 3 - distance)).clamp(0, 65536 // 3) * 255 // (65536 // 3)
    rings = torch.tensor(RINGS, device=ids.device)[ids % len(RINGS)]
    saturation, value = rings[..., :1], rings[..., 1:]
    colour = value * (255 * 255 - saturation * (255 - purity)) // (255 * 255)
    # The low four bits of each channel spell the id modulo 4096: no two of 4096 successive ids share a colour.
    shifts = torch.tensor([0, 4, 8], device=ids.device)
    colour = (colour & 0xF0) | ((ids[..., None] >> shifts) & 0x0F)
    background = torch.tensor(BACKGROUND_COLOUR, device=ids.device)
    unlabelled = torch.tensor(UNLABELLED_COLOUR, device=ids.device)
    colour = torch.where((ids == 0)[..., None], background, colour)
    return torch.where((ids < 0)[..., None], unlabelled, colour)


def colour_instances(ids: Integer[Tensor, "*batch"]) -> Float[Tensor, "*batch 3"]:
    """RGB in [0, 1] on the device of `ids`; background is dark grey, unlabelled (negative) black.

    `(colour_instances(ids) * 255).round()` equals `colour_instances_uint8` exactly.
    """
    return _colours_255(ids).float() / 255.0


def colour_instances_uint8(ids: Integer[np.ndarray, "*batch"]) -> UInt8[np.ndarray, "*batch 3"]:
    """The colours of `colour_instances` as bytes, for image files."""
    return _colours_255(torch.from_numpy(np.asarray(ids).astype(np.int64))).to(torch.uint8).numpy()


def overlay(
    rgb: Float[Tensor, "*batch 3"],
    ids: Integer[Tensor, "*batch"],
    alpha: float = 0.5,
    boundaries: bool = False,
    colours: Float[Tensor, "*batch 3"] | None = None,
) -> Float[Tensor, "*batch 3"]:
    """Blends instance colours over a photo; background and unlabelled pixels keep the photo.

    Args:
        rgb: photo in [0, 1].
        ids: instance ids of the same pixels.
        alpha: share of the instance colour, 0 (photo) to 1 (flat colour).
        boundaries: paint pixels at the rim of an instance in its full colour; needs `ids` of shape (H, W).
        colours: instance colours of the pixels; the palette's when None.
    """
    weight = torch.where(ids > 0, alpha, 0.0).to(rgb)
    if boundaries:
        rim = torch.zeros_like(ids, dtype=torch.bool)
        down, right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
        rim[1:] |= down
        rim[:-1] |= down
        rim[:, 1:] |= right
        rim[:, :-1] |= right
        weight = torch.where(rim & (ids > 0), 1.0, weight)
    colours = colour_instances(ids) if colours is None else colours
    return torch.lerp(rgb, colours.to(rgb), weight[..., None])
