"""The class of each Gaussian from its summed blending weights: the optimal labels, without training.

A pixel of a rendered mask is the sum of the labels of the Gaussians along its ray, each times its blending weight. The
sum over all pixels of what agrees with the masks is linear in the labels, so each Gaussian's best label is found by
itself: the class in whose pixels it has the largest summed weight (FlashSplat, Shen et al., ECCV 2024).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def assign_classes(
    votes: Float[Tensor, "gaussians classes"], *, least_weight: float, background_bias: float = 0.0
) -> Int[Tensor, " gaussians"]:
    """Place of the best class of each Gaussian, int32; -1 for Gaussians that no view saw, which abstain.

    Among equals the first class wins: background before instances, which makes doubtful matter nobody's.

    Args:
        votes: summed blending weights of each Gaussian in the pixels of each class; class 0 is background. Pixels
            without a label vote for none. Gaussians whose votes are no finite numbers abstain.
        least_weight: Gaussians with summed votes up to this one abstain; 0 or more.
        background_bias: added to the background's share of a Gaussian's votes, -1 to 1. Above 0, an instance must lead
            by as much: noisy masks then leave fewer stray Gaussians on instances. Below 0, the background must lead:
            less of an instance stays behind when it is taken away. At -1, any vote for an instance wins.

    Raises:
        ValueError: there is no class, or an argument is out of range.
    """
    if votes.ndim != 2 or votes.shape[1] == 0:
        raise ValueError(f"votes have the shape {tuple(votes.shape)}; give (gaussians, classes) with at least a class")
    if not least_weight >= 0:
        raise ValueError(f"least_weight {least_weight}: must not be negative")
    if not -1 <= background_bias <= 1:
        raise ValueError(f"background_bias {background_bias}: must lie between -1 and 1")
    total = votes.sum(dim=1)
    places = torch.zeros(len(votes), dtype=torch.int32, device=votes.device)
    if votes.shape[1] > 1:
        # Comparing sums, not shares, needs no second table of votes, which may take gigabytes.
        best = votes[:, 1:].max(dim=1)
        background = votes[:, 0] + background_bias * total
        places = torch.where(best.values > background, best.indices.int() + 1, places)
    return torch.where((total > least_weight) & total.isfinite(), places, -1)
