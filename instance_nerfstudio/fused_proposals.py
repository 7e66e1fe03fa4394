"""nerfacto's proposal networks in few kernels where nothing is differentiated: rendering.

Step by step, positions, contracted positions, features and weights of hundreds of samples per ray go through memory
dozens of times. Here each network takes one kernel from bins to densities, and two more from densities to new bins.
"""

from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.model_components.ray_samplers import PDFSampler, UniformLinDispPiecewiseSampler, UniformSampler
from torch import Tensor

from instance_nerfstudio.fused_mlp import FusedMLP
from instance_nerfstudio.hash_grids.hash_grid import CubicContraction, HashGrid
from instance_nerfstudio.kernel_launch import takes_kernels

if TYPE_CHECKING:
    from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel


def proposals_fit(model: "InstanceNerfactoModel") -> bool:
    """Whether the kernels can compute the model's proposal networks and samplers: those of nerfacto's default kind."""
    sampler = model.proposal_sampler
    return (
        all(_network_fits(network) for network in model.proposal_networks)
        and type(sampler.initial_sampler) in (UniformLinDispPiecewiseSampler, UniformSampler)
        and type(sampler.pdf_sampler) is PDFSampler
        and not sampler.pdf_sampler.include_original
        and sampler.pdf_sampler.histogram_padding == 0.01
    )


def _network_fits(network: torch.nn.Module) -> bool:
    if not isinstance(network, HashMLPDensityField) or network.use_linear:
        return False
    encoding, mlp = network.mlp_base
    return (
        isinstance(encoding, HashGrid)
        and encoding.fused
        and encoding.hash_table.shape[1] == 2
        and isinstance(mlp, FusedMLP)
        and len(mlp.layers) == 2
        and mlp.out_activation is None
        and type(network.spatial_distortion) is CubicContraction
    )


@torch.no_grad()
def rendered_samples(
    model: "InstanceNerfactoModel", ray_bundle: RayBundle
) -> tuple[RaySamples, list[Float[Tensor, "rays 1"]]] | None:
    """The samples that `model.proposal_sampler` takes in evaluation, and the median depths of the proposal networks.

    Returns:
        None where the kernels do not apply: in training, on a CPU, under autocast, for moving scenes, and for networks
        that do not fit.
    """
    origins = ray_bundle.origins
    if model.training or not model.fused_proposals or not takes_kernels(origins) or ray_bundle.times is not None:
        return None
    if torch.is_autocast_enabled() or origins.ndim != 2:
        return None
    from instance_nerfstudio.fused_proposals_triton import proposal_density, resample

    sampler = model.proposal_sampler
    spacing = sampler.initial_sampler
    assert isinstance(spacing, UniformLinDispPiecewiseSampler | UniformSampler)
    assert ray_bundle.nears is not None
    assert ray_bundle.fars is not None
    near, far = (spacing.spacing_fn(x).float().contiguous() for x in (ray_bundle.nears, ray_bundle.fars))
    rays = (origins.float().contiguous(), ray_bundle.directions.float().contiguous())
    piecewise = isinstance(spacing, UniformLinDispPiecewiseSampler)
    anneal = sampler._anneal
    if not isinstance(anneal, Tensor):
        anneal = torch.full((), float(anneal), device=origins.device)

    steps = sampler.num_proposal_network_iterations
    counts = [*sampler.num_proposal_samples_per_ray[:steps], sampler.num_nerf_samples_per_ray]
    bins = torch.linspace(0.0, 1.0, counts[0] + 1, device=origins.device)[None]
    depths = []
    networks = [model.proposal_networks[i % len(model.proposal_networks)] for i in range(steps)]
    for network, samples in zip(networks, counts[1:], strict=True):
        assert isinstance(network, HashMLPDensityField)
        encoding, mlp = cast(tuple[HashGrid, FusedMLP], tuple(network.mlp_base))
        layers = tuple(parameter for layer in mlp.layers for parameter in (layer.weight, layer.bias))  # type: ignore[union-attr]
        if encoding.scalings.device != origins.device:
            encoding.scalings = encoding.scalings.to(origins.device)
        density = proposal_density(
            rays, bins, (near, far), piecewise, encoding.hash_table, encoding.scalings, layers,  # type: ignore[arg-type]
            network.average_init_density,
        )  # fmt: skip
        bins, depth = resample(density, bins, (near, far), piecewise, anneal, samples)
        depths.append(depth)

    def distance(places: Tensor) -> Tensor:
        return spacing.spacing_fn_inv(places * far + (1 - places) * near)

    edges = distance(bins)
    return (
        ray_bundle.get_ray_samples(
            bin_starts=edges[:, :-1, None],
            bin_ends=edges[:, 1:, None],
            spacing_starts=bins[:, :-1, None],
            spacing_ends=bins[:, 1:, None],
            spacing_to_euclidean_fn=distance,
        ),
        depths,
    )
