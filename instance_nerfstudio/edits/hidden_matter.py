"""Objects taken away: the density of instances that are not shown is zero, and what was behind them stays as it is.

Nothing is invented. Proposal networks still put their samples where the field has matter, and what no photo showed is
empty: black, not the background colour that nerfacto otherwise continues a picture with.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RaySamples
from torch import Tensor

from instance_nerfstudio.edits.instance_edits import ClassEdits

if TYPE_CHECKING:
    from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel

# Of a ray that lost more than the first share, what hits less than the second is no surface: its id is background.
_LOST, _SURFACE = 1e-3, 0.5


def shown_density(
    model: "InstanceNerfactoModel",
    edits: ClassEdits,
    ray_samples: RaySamples,
    density: Float[Tensor, "rays samples 1"],
    geometry: Float[Tensor, "rays samples features"],
) -> Float[Tensor, "rays samples 1"]:
    """Density of what is shown: each sample belongs to the most likely class of its own feature."""
    if edits.shown is None:
        return density
    hidden = model.instance_head(model.normalized_positions(ray_samples.frustums.get_positions()), geometry)
    return density * edits.shown[model.instance_head.most_likely(hidden)][..., None]


def with_empty_space(
    black: Float[Tensor, "rays 3"],
    full: Float[Tensor, "rays 3"],
    left: Float[Tensor, "rays 1"],
    whole: Float[Tensor, "rays 1"],
) -> Float[Tensor, "rays 3"]:
    """Colour whose background is black for the share of light that matter was taken away from.

    Args:
        black: colour over black.
        full: colour over the model's own background.
        left: opacity of what is left.
        whole: opacity of everything.
    """
    through = ((1 - whole) / (1 - left).clamp(min=1e-6)).clamp(0, 1)
    return torch.where(whole > left, torch.lerp(black, full, through), full)


def hits_nothing(left: Float[Tensor, "rays 1"], whole: Float[Tensor, "rays 1"]) -> Tensor:
    """Rays that ended on what was taken away, and now go on without hitting anything."""
    return (whole - left > _LOST) & (left < _SURFACE)
