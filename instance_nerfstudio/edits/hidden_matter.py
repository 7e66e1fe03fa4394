"""Objects taken away: the density of instances that are not shown is zero, and what was behind them stays as it is.

Nothing is invented. Rays that meet what is taken away are sampled anew, where the rest of the field has matter. Where
the training views are known, matter behind hidden objects that none of them saw is taken away too: there a field is
noise. What no photo showed is empty: black, not the background colour that nerfacto otherwise continues a picture with.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from torch import Tensor

from instance_nerfstudio.edits.instance_edits import ClassEdits

if TYPE_CHECKING:
    from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel

# Of a ray that lost more than the first share, what hits less than the second is no surface: its id is background.
_LOST, _SURFACE = 1e-3, 0.5
# Rays of which hidden matter absorbs this share are sampled anew, from as many even places as the first proposal
# network takes, but no more than so many: the field and the head are asked at each.
_HIDDEN, _PLACES = 0.01, 128
# Samples of less opacity than this are empty enough.
_EMPTY = 1e-3


def shown_matter(
    model: "InstanceNerfactoModel",
    edits: ClassEdits,
    ray_bundle: RayBundle,
    ray_samples: RaySamples,
    density: Float[Tensor, "rays samples 1"],
    geometry: Float[Tensor, "rays samples features"],
) -> tuple[RaySamples, Float[Tensor, "rays samples 1"], Float[Tensor, "rays samples features"]]:
    """Samples of rays, the weights of what is shown, and the geometry features.

    Args:
        model: in evaluation mode.
        edits: with something that is not shown.
        ray_bundle: the rays, with their near and far ends.
        ray_samples: samples where the field has matter, shown or not; those of rays that meet hidden matter change.
        density: of the samples.
        geometry: the field's features of the samples.
    """
    left, hidden = _shown_density(model, edits, ray_samples, density, geometry, keep_unseen=True)
    meets = (ray_samples.get_weights(density)[..., 0] * hidden).sum(dim=-1) > _HIDDEN
    # What is isolated has the samples already, save where something stood before it.
    if meets.any() and not edits.edits.isolated:
        # The proposals put most samples on what is taken away, and hardly any behind.
        rays, sampler = ray_bundle[meets], model.proposal_sampler
        places = min(model.config.num_proposal_samples_per_ray[0], _PLACES)
        even = sampler.initial_sampler(rays, num_samples=places)
        weights = even.get_weights(_shown_density(model, edits, even, *model.field.get_density(even))[0])
        anew = sampler.pdf_sampler(rays, even, weights, num_samples=density.shape[1])
        new_density, new_geometry = model.field.get_density(anew)
        ray_samples = _replaced(ray_samples, meets, anew)
        geometry = geometry.index_put((meets,), new_geometry)
        left = left.index_put((meets,), _shown_density(model, edits, anew, new_density, new_geometry)[0])
    return ray_samples, ray_samples.get_weights(left), geometry


def _shown_density(
    model: "InstanceNerfactoModel",
    edits: ClassEdits,
    ray_samples: RaySamples,
    density: Float[Tensor, "rays samples 1"],
    geometry: Float[Tensor, "rays samples features"],
    keep_unseen: bool = False,
) -> tuple[Float[Tensor, "rays samples 1"], Bool[Tensor, "rays samples"]]:
    """Density of what is shown, and which samples are hidden: each belongs to the most likely class of its feature.

    Behind hidden matter, what no training view saw is not shown, unless `keep_unseen`; what is isolated stays whole.
    """
    assert edits.shown is not None
    assert ray_samples.deltas is not None
    positions = ray_samples.frustums.get_positions()
    places = model.instance_head.most_likely(model.instance_head(model.normalized_positions(positions), geometry))
    shown = edits.shown[places]
    if edits.seen is not None:
        held = edits.seen.holds(positions, places)
        shown = shown & held if edits.edits.isolated else shown | ~held
    left = density * shown[..., None]
    if edits.seen is not None and not (keep_unseen or edits.edits.isolated):
        absorbed = (ray_samples.deltas * density)[..., 0].nan_to_num(posinf=1e6) * ~shown
        behind = absorbed.cumsum(dim=-1) - absorbed > _HIDDEN
        matter = -torch.expm1(-(ray_samples.deltas * left)[..., 0]) > _EMPTY
        asked = behind & matter
        left = left.index_put((asked,), left[asked] * edits.seen.sees(positions[asked])[:, None])
    return left, ~shown


def _replaced(samples: RaySamples, rays: Bool[Tensor, " rays"], by: RaySamples) -> RaySamples:
    """Samples of which those of some rays are others."""

    def put(old: Tensor, new: Tensor) -> Tensor:
        return old.index_put((rays,), new.to(old))

    frustums = samples.frustums
    changed = type(frustums)(
        frustums.origins,
        frustums.directions,
        put(frustums.starts, by.frustums.starts),
        put(frustums.ends, by.frustums.ends),
        frustums.pixel_area,
    )
    assert samples.deltas is not None
    assert by.deltas is not None
    deltas = put(samples.deltas, by.deltas)
    return RaySamples(changed, samples.camera_indices, deltas, metadata=samples.metadata, times=samples.times)


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
