"""A few samples of a ray that stand for all of them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def weight_quantiles(
    weights: Float[Tensor, "rays all"], samples: int, jitter: bool = False
) -> tuple[Int[Tensor, "rays samples"], Float[Tensor, " rays"]]:
    """Samples at quantiles of each ray's weights, and the sum of the weights.

    The plain mean of what the samples hold, times that sum, stands for the weighted sum over all. The proposal networks
    spread a ray's samples so that their weights are alike, so the heaviest few leave much out: in a furnished room the
    8 heaviest of 48 samples hold a third of the weight, and their renormalised sum is off by 18 % where that of 8
    quantiles is off by 4 %.

    Args:
        weights: volume rendering weights.
        samples: number of quantiles.
        jitter: whether each quantile is drawn within its stratum, which makes the estimate unbiased, or lies in the
            middle of it.

    Returns:
        Sample numbers, int64, ascending, repeated where a sample holds more than one quantile; sums.
    """
    cumulated = weights.cumsum(dim=-1)
    total = cumulated[:, -1]
    offset = torch.rand(len(weights), samples, device=weights.device) if jitter else 0.5
    quantiles = (torch.arange(samples, device=weights.device) + offset) / samples
    # Empty rays have the quantile 0 everywhere: any sample will do, it counts for nothing.
    index = torch.searchsorted(cumulated, quantiles * total[:, None])
    return index.clamp(max=weights.shape[-1] - 1), total
