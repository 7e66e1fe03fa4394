"""What the instance head says about rays: logits in training, ids and confidences of pictures."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RaySamples
from torch import Tensor

from instance_nerfstudio.hash_grids.hash_grid import CubicContraction
from instance_nerfstudio.kernel_launch import takes_kernels
from instance_nerfstudio.weight_quantiles import weight_quantiles

if TYPE_CHECKING:
    from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel


def instance_outputs(
    model: "InstanceNerfactoModel",
    ray_samples: RaySamples,
    weights: Float[Tensor, "rays samples 1"],
    geometry: Float[Tensor, "rays samples features"],
) -> dict[str, Tensor]:
    """Hidden features of samples composited with the field's weights, then classified; neither weights nor geometry
    get a gradient.

    Args:
        model: with an instance head.
        ray_samples: the field's samples.
        weights: of the samples.
        geometry: the field's features of the samples.

    Returns:
        `instance_logits (rays, classes)` in training; otherwise `instance_ids (rays, 1)` int32 and
        `instance_confidence (rays, 1)`, and logits where the model keeps them.
    """
    weights, geometry = weights.detach(), geometry.detach()
    if model.training and 0 < model.config.instance_samples_per_ray < weights.shape[1]:
        positions, geometry, total = _draw_samples(model, ray_samples, weights[..., 0], geometry)
        features = model.instance_head(positions, geometry).mean(dim=-2) * total[:, None]
    else:
        positions = model.normalized_positions(ray_samples.frustums.get_positions().detach())
        features = torch.bmm(weights.transpose(1, 2), model.instance_head(positions, geometry))[:, 0]
    if model.training:
        return {"instance_logits": model.instance_head.classify(features)}
    edits = model.class_edits
    ids, confidence = model.instance_head.predict(features, edits and edits.groups, edits and edits.shown)
    logits = {"instance_logits": model.instance_head.classify(features)} if model.keep_logits else {}
    return logits | {"instance_confidence": confidence, "instance_ids": ids}


@torch.no_grad()
def _draw_samples(
    model: "InstanceNerfactoModel",
    ray_samples: RaySamples,
    weights: Float[Tensor, "rays all"],
    geometry: Float[Tensor, "rays all features"],
) -> tuple[Float[Tensor, "rays samples 3"], Float[Tensor, "rays samples features"], Float[Tensor, " rays"]]:
    """Some samples of each ray, drawn by their weights: normalised positions, geometry features; summed weights."""
    draws = model.config.instance_samples_per_ray
    contracted = type(model.field.spatial_distortion) is CubicContraction
    if model.implementation == "triton" and takes_kernels(weights) and contracted:
        from instance_nerfstudio.drawn_samples_triton import draw_samples

        return draw_samples(weights, torch.rand(len(weights), draws, device=weights.device), ray_samples, geometry)
    index, total = weight_quantiles(weights, draws, jitter=True)
    positions = ray_samples.frustums.get_positions().take_along_dim(index[..., None], dim=1)
    return model.normalized_positions(positions), geometry.take_along_dim(index[..., None], dim=1), total
