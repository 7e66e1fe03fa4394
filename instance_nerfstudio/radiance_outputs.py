"""nerfacto's rendering of a batch of rays, kept apart so that the instance head gets at what colour is made of."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.fields.base_field import get_normalized_directions
from nerfstudio.fields.nerfacto_field import NerfactoField
from nerfstudio.model_components.losses import (
    orientation_loss,
    pred_normal_loss,
    scale_gradients_by_distance_squared,
)
from torch import Tensor

from instance_nerfstudio.edits.hidden_matter import shown_matter, with_empty_space
from instance_nerfstudio.fused_proposals import rendered_samples

if TYPE_CHECKING:
    from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel


def radiance_outputs(
    model: "InstanceNerfactoModel", ray_bundle: RayBundle
) -> tuple[dict[str, Any], RaySamples, Float[Tensor, "rays samples 1"], Float[Tensor, "rays samples features"]]:
    """nerfacto's own `get_outputs`, in its order.

    Training leaves out the depth pictures, which no loss reads; over a frozen field it leaves out colour too. Where
    edits take matter away, `whole_accumulation` is the opacity that there was with it; 1 where something is isolated.

    Returns:
        Outputs; the field's samples, their weights and geometry features.
    """
    config = model.config
    ray_samples: RaySamples
    weights_list: list[Tensor] = []
    ray_samples_list: list[RaySamples] = []
    fused = rendered_samples(model, ray_bundle)
    if fused is not None:
        ray_samples, proposal_depths = fused
    else:
        ray_samples, weights_list, ray_samples_list = model.proposal_sampler(ray_bundle, density_fns=model.density_fns)
        proposal_depths = []
        if not model.training:
            proposal_depths = list(map(model.renderer_depth, weights_list, ray_samples_list))
    with_normals = config.predict_normals and not model.frozen
    with torch.enable_grad() if with_normals else nullcontext():
        density, geometry = model.field.get_density(ray_samples)
    if config.use_gradient_scaling and model.training:
        density = scale_gradients_by_distance_squared({FieldHeadNames.DENSITY: density}, ray_samples)[
            FieldHeadNames.DENSITY
        ]
    weights = ray_samples.get_weights(density)
    whole = None
    if not model.training and model.class_edits is not None and model.class_edits.shown is not None:
        whole = model.renderer_accumulation(weights=weights)
        if model.class_edits.edits.isolated:
            whole = torch.ones_like(whole)  # what lies beyond all matter is taken away too
        ray_samples, weights, geometry = shown_matter(
            model, model.class_edits, ray_bundle, ray_samples, density, geometry
        )
    weights_list.append(weights)
    ray_samples_list.append(ray_samples)
    outputs: dict[str, Any] = {"accumulation": model.renderer_accumulation(weights=weights)}
    if not model.training or config.use_label_regularization:
        outputs["expected_depth"] = model.renderer_expected_depth(weights=weights, ray_samples=ray_samples)
    if not (model.frozen and model.training):
        outputs |= _colour_outputs(model, ray_bundle, ray_samples, geometry, weights, whole, with_normals)
    if whole is not None:
        outputs["whole_accumulation"] = whole
    if model.training:
        outputs["weights_list"] = weights_list
        outputs["ray_samples_list"] = ray_samples_list
    else:
        outputs["depth"] = model.renderer_depth(weights=weights, ray_samples=ray_samples)
        outputs |= {f"prop_depth_{i}": depth for i, depth in enumerate(proposal_depths)}
    return outputs, ray_samples, weights, geometry


def _colour_outputs(
    model: "InstanceNerfactoModel",
    ray_bundle: RayBundle,
    ray_samples: RaySamples,
    geometry: Float[Tensor, "rays samples features"],
    weights: Float[Tensor, "rays samples 1"],
    whole: Float[Tensor, "rays 1"] | None,
    with_normals: bool,
) -> dict[str, Tensor]:
    """nerfacto's colour and, with `predict_normals`, its normals and their losses."""
    field = model.field
    if field.embedding_appearance is None and not (
        field.use_transient_embedding or field.use_semantics or field.use_pred_normals
    ):
        field_outputs: dict[Any, Tensor] = {FieldHeadNames.RGB: _colours(field, ray_samples, geometry)}
    else:
        field_outputs = field.get_outputs(ray_samples, density_embedding=geometry)
    if with_normals:
        with torch.enable_grad():
            field_outputs[FieldHeadNames.NORMALS] = model.field.get_normals()
    if model.config.use_gradient_scaling and model.training:
        field_outputs = scale_gradients_by_distance_squared(field_outputs, ray_samples)
    outputs = {"rgb": model.renderer_rgb(rgb=field_outputs[FieldHeadNames.RGB], weights=weights)}
    if whole is not None:
        empty = torch.zeros(3, device=weights.device)
        black = model.renderer_rgb(rgb=field_outputs[FieldHeadNames.RGB], weights=weights, background_color=empty)
        outputs["rgb"] = with_empty_space(black, outputs["rgb"], weights.sum(dim=-2), whole)
    if with_normals:
        normals, predicted = field_outputs[FieldHeadNames.NORMALS], field_outputs[FieldHeadNames.PRED_NORMALS]
        outputs["normals"] = model.normals_shader(model.renderer_normals(normals=normals, weights=weights))
        outputs["pred_normals"] = model.normals_shader(model.renderer_normals(normals=predicted, weights=weights))
        if model.training:
            detached = weights.detach()
            outputs["rendered_orientation_loss"] = orientation_loss(detached, normals, ray_bundle.directions)
            outputs["rendered_pred_normal_loss"] = pred_normal_loss(detached, normals.detach(), predicted)
    return outputs


def _colours(
    field: NerfactoField, ray_samples: RaySamples, geometry: Float[Tensor, "rays samples features"]
) -> Float[Tensor, "rays samples 3"]:
    """nerfacto's colour of each sample. A ray has one direction, which nerfacto encodes anew for every sample."""
    directions = get_normalized_directions(ray_samples.frustums.directions[..., :1, :])
    encoded = field.direction_encoding(directions.reshape(-1, 3)).view(*directions.shape[:-1], -1)
    encoded = encoded.expand(*geometry.shape[:-1], -1)
    return field.mlp_head(torch.cat([encoded, geometry], dim=-1)).to(directions)
