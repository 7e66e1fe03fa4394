"""Losses of the instance field, as free functions."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def instance_cross_entropy(logits: Float[Tensor, "rays classes"], targets: Int[Tensor, " rays"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over the labelled rays (Instance-NeRF, eq. 5); targets of -1 are ignored.

    Without a single labelled ray it is 0 and still differentiable.
    """
    labelled = (targets >= 0).sum().clamp(min=1)
    return F.cross_entropy(logits, targets.long(), ignore_index=-1, reduction="sum") / labelled


def label_regularization(
    logits: Float[Tensor, "patches height width classes"],
    depth: Float[Tensor, "patches height width"],
    depth_edge: float,
) -> Float[Tensor, ""]:
    """Squared difference of neighbouring logits, except across depth edges (Instance-NeRF, eq. 6).

    `Σ ‖ℓ_a − ℓ_b‖² e^{−(Δ/depth_edge)²} / Σ K e^{−(Δ/depth_edge)²}` over horizontal and vertical neighbours, where Δ
    is the relative depth difference |d_a − d_b| / min(d_a, d_b). The original divides depth by the far plane, which
    leaves the exponential at 1 across every object's silhouette; relative to the depth itself it acts.

    Args:
        logits: logits of square pixel patches.
        depth: depth of the same rays, any unit; carries no gradient.
        depth_edge: relative depth step at which the weight falls to 1/e.
    """
    depth = depth.detach()
    total = logits.new_zeros(())
    for dim in (1, 2):
        size = logits.shape[dim] - 1
        step = logits.narrow(dim, 1, size) - logits.narrow(dim, 0, size)
        near, far = depth.narrow(dim, 0, size), depth.narrow(dim, 1, size)
        relative = (near - far).abs() / torch.minimum(near, far).clamp(min=1e-6)
        weight = torch.exp(-((relative / depth_edge) ** 2))
        total = total + (step.square().mean(-1) * weight).sum() / weight.sum().clamp(min=1e-6)
    return total
