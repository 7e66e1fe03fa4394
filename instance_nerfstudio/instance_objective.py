"""The losses that train the instance head, weighted as a model's options say."""

from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from instance_nerfstudio.losses import instance_cross_entropy, label_regularization

if TYPE_CHECKING:
    from instance_nerfstudio.instance_nerfacto import InstanceNerfactoModel

INSTANCE_LOSSES = ("instance_loss", "label_regularization", "voxel_loss")
"""Losses whose gradients reach the instance head alone."""


def instance_losses(
    model: "InstanceNerfactoModel", outputs: dict[str, Any], batch: dict[str, Any]
) -> dict[str, Float[Tensor, ""]]:
    """The losses of `INSTANCE_LOSSES` that are on.

    Args:
        model: with an instance head.
        outputs: of the model for the batch's rays, with `instance_logits`.
        batch: rays' labels, and how many of them form patches.
    """
    config, logits = model.config, outputs["instance_logits"]
    losses: dict[str, Tensor] = {}
    if config.use_instance_loss:
        losses["instance_loss"] = config.instance_loss_mult * instance_cross_entropy(
            logits, model.instance_targets(batch)
        )
    if config.use_label_regularization and batch.get("patch_rays", 0):
        size = batch["patch_size"]
        patches = (-1, size, size)
        losses["label_regularization"] = config.label_regularization_mult * label_regularization(
            logits[: batch["patch_rays"]].view(*patches, logits.shape[-1]),
            outputs["expected_depth"][: batch["patch_rays"]].view(patches),
            config.label_regularization_depth_edge,
        )
    if model.voxels is not None:
        losses["voxel_loss"] = voxel_loss(model)
    return losses


def voxel_loss(model: "InstanceNerfactoModel") -> Float[Tensor, ""]:
    """Weighted cross-entropy of random voxels of `instance_voxels` (Instance-NeRF, eq. 7)."""
    assert model.voxels is not None
    points, labels = model.voxels.sample(model.config.voxels_per_batch)
    return model.config.voxel_loss_mult * instance_cross_entropy(
        model.instance_logits_at(points), model.instance_head.targets(labels)
    )
